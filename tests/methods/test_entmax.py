"""Search with α-entmax: what removal leaves as it was, what a smaller program goes on with, and when a search ends."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, relaxation
from dass_jax.methods import entmax
from dass_jax.methods.entmax import RELAXATION, Fields
from dass_jax.nn.skeletons import Sizes
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Feed, Phase
from dass_jax.spaces.nasbench201 import CELL, carried, nasbench201
from dass_jax.spaces.space import Space
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, RATES
from tests import supernets

KEY, IMAGE = jax.random.key(0), (8, 8, 1)
ALPHAS = (1.0, 1.3, 1.5, 2.0, 3.0, 7.0)


def space(live: Any = None) -> Space:
    return nasbench201(Sizes(outputs=3, cells=1, channels=2), live=live)


def weights_of(space: Space) -> int:
    """Stands for the work of a program."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: space.init(KEY, IMAGE))[PARAMS]))


PROBLEM = supernets.problem(None, 3, IMAGE, space=space, macs=weights_of)


def variables_of(logits: Any, alive: Any = None, alpha: Any = 3.0) -> Any:
    """Of the relaxation alone."""
    alive = np.ones(np.shape(logits), bool) if alive is None else alive
    shape = {"alive": {CELL: jnp.asarray(alive)}, "alpha": jnp.asarray(alpha)}
    return {ALPHA: {CELL: jnp.asarray(logits)}, RELAXATION: shape}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_removal_changes_no_weight_and_leaves_one_operation_of_each_edge(alpha: float, dtype: str, x64: None) -> None:
    rng, seen = np.random.default_rng(0), 0
    for _ in range(5):
        logits = 3 * rng.normal(size=(6, 5)).astype(dtype)
        v = variables_of(logits, rng.random((6, 5)) < 0.8, np.dtype(dtype).type(alpha))
        before = entmax.present(v)[CELL]
        after = entmax.remove(bilevel.State(v, {}))
        chex.assert_trees_all_equal(entmax.present(after.variables)[CELL], before)
        alive = after.variables[RELAXATION]["alive"][CELL]
        np.testing.assert_array_equal(alive, np.asarray(before) > 0)
        np.testing.assert_array_equal(alive.any(-1), v[RELAXATION]["alive"][CELL].any(-1))
        chex.assert_trees_all_equal(entmax.remove(after), after)
        seen += int((v[RELAXATION]["alive"][CELL] & ~alive).sum())
    assert (seen > 0) == (alpha > 1)


def test_equal_shares_are_of_the_living() -> None:
    alive = np.array([[True, True, False, True], [False, True, False, False]])
    found = entmax.uniform(variables_of(np.zeros((2, 4)), alive))[CELL]
    np.testing.assert_allclose(found, [[1 / 3, 1 / 3, 0, 1 / 3], [0, 1, 0, 0]])


def pulling(transform: optax.GradientTransformation) -> bilevel.Algorithm:
    """Moves the logits down a slope that is 1 everywhere."""

    def loss(v: Any, batch: Any, key: jax.Array) -> Any:
        return v[ALPHA][CELL].sum(), ({}, {})

    return bilevel.descend(bilevel.Level(ALPHA, loss, transform))


def test_dead_logits_do_not_move_whatever_momentum_and_decay_say() -> None:
    alive = np.random.default_rng(0).random((6, 5)) < 0.5
    algorithm = pulling(bilevel.adam(0.5, 0.999, 0.1))
    state = algorithm.init(variables_of(np.random.default_rng(1).normal(size=(6, 5)), alive))
    held = entmax.guarded(Fields(removal="never"), algorithm)
    for _ in range(2):
        before = np.asarray(state.variables[ALPHA][CELL])
        state, _ = held.update(state, None, KEY, learning_rate=jnp.float32(0.1))
        np.testing.assert_array_equal(state.variables[ALPHA][CELL] != before, alive)
    np.testing.assert_array_equal(state.variables[RELAXATION]["alive"][CELL], alive)


@pytest.mark.parametrize("removal", ["epoch", "step", "never"])
@pytest.mark.parametrize("rising", [True, False])
def test_a_step_notes_its_alpha_and_removes_by_it_if_asked_to(removal: str, rising: bool) -> None:
    """With α = 2 only what is less than 1 below the largest lives; at the 1.5 of the state that is all."""
    c = Fields(entmax=1.0 if rising else 2.0, entmax_end=3.0 if rising else 0.0, removal=removal)
    v = variables_of(np.array([[0.0, -0.9, -1.1], [3.0, 1.9, 1.9]], np.float32), alpha=1.5)
    algorithm = entmax.guarded(c, pulling(optax.sgd(0.125)))
    state = algorithm.init({**v, RATES: {"entmax": jnp.float32(2.0 if rising else 9.0)}})
    after, _ = algorithm.update(state, None, KEY)
    assert after.variables[RELAXATION]["alpha"] == 2
    np.testing.assert_array_equal(after.variables[ALPHA][CELL], state.variables[ALPHA][CELL] - 0.125)
    left = [[True, True, False], [True, False, False]] if removal == "step" else np.ones((2, 3), bool)
    np.testing.assert_array_equal(after.variables[RELAXATION]["alive"][CELL], left)


class Program(NamedTuple):
    """A phase with its compiled step."""

    phase: Phase
    step: Callable[..., Any]
    """(state, α) → (state, infos), on the host."""
    traces: list[None]


def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(jnp.asarray(rng.normal(size=(1, *IMAGE[:2], 6))), jnp.arange(6) % 3)


def program(phase: Phase) -> Program:
    traces: list[None] = []

    @jax.jit
    def run(state: bilevel.State, alpha: jax.Array) -> Any:
        traces.append(None)
        seeing = state._replace(variables={**state.variables, RATES: {"entmax": alpha}})
        rates = {"lower": jnp.float64(0.05), "upper": jnp.float64(0.02)}
        after, infos = phase.algorithm.update(seeing, {"lower": batch()}, KEY, learning_rate=rates)
        kept = {name: value for name, value in after.variables.items() if name != RATES}
        return after._replace(variables=kept), infos

    return Program(phase, lambda state, alpha: jax.device_get(run(state, jnp.float64(alpha))), traces)


def wide(tree: Any) -> Any:
    """In 64 bits, on the host."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype), tree)


@pytest.fixture(scope="module")
def whole() -> Iterator[Program]:
    """The search with rising α, from the first step on."""
    with jax.enable_x64(True):
        yield program(entmax.search(Fields(entmax=1.5, entmax_end=4.0, warmup_epochs=0), PROBLEM).phases[0])


@pytest.fixture(scope="module")
def begun(whole: Program) -> Iterator[bilevel.State]:
    """After two steps, so that momentum and moments are not zero, with about half of the operations without weight."""
    with jax.enable_x64(True):
        state = wide(jax.jit(whole.phase.begin)(KEY, None))
        logits = {CELL: 0.4 * np.random.default_rng(3).normal(size=(6, 5))}
        state = state._replace(variables={**state.variables, ALPHA: logits})
        for alpha in (2.5, 3.0):
            state, _ = whole.step(state, alpha)
        yield state


@pytest.fixture(scope="module")
def removed(begun: bilevel.State) -> Iterator[bilevel.State]:
    with jax.enable_x64(True):
        state = entmax.remove(begun)
        assert 6 < state.variables[RELAXATION]["alive"][CELL].sum() < 20
        yield state


def test_no_output_no_gradient_and_no_step_tells_whether_removal_took_place(
    whole: Program, begun: bilevel.State, removed: bilevel.State, x64: None
) -> None:
    """But for the logits of those removed, which weight decay would go on to move."""
    alive = removed.variables[RELAXATION]["alive"][CELL]
    (wanted, infos), (found, seen) = (whole.step(state, 3.0) for state in (begun, removed))
    chex.assert_trees_all_equal(seen, infos)
    for name in (PARAMS, BATCH_STATS):
        chex.assert_trees_all_equal(found.variables[name], wanted.variables[name])
    chex.assert_trees_all_equal(found.optimizers, wanted.optimizers)
    chex.assert_trees_all_equal(found.variables[ALPHA][CELL][alive], wanted.variables[ALPHA][CELL][alive])
    assert (found.variables[ALPHA][CELL][~alive] == begun.variables[ALPHA][CELL][~alive]).all()
    assert (wanted.variables[ALPHA][CELL][~alive] != begun.variables[ALPHA][CELL][~alive]).all()


def seeds(*states: bilevel.State) -> Any:
    """The variables of several seeds, as a run keeps them."""
    return jax.tree.map(lambda *x: np.stack(x), *(state.variables for state in states))


def test_the_smaller_program_takes_the_step_of_the_whole_one(whole: Program, removed: bilevel.State, x64: None) -> None:
    rebuild = whole.phase.rebuild
    live = rebuild.wanted(seeds(removed), None)
    assert live == json.loads(json.dumps(live)) == {CELL: removed.variables[RELAXATION]["alive"][CELL].tolist()}
    smaller = program(rebuild.phase(None, live))
    state = smaller.phase.begin(KEY, removed)
    assert weights_of(space(live)) == sum(leaf.size for leaf in jax.tree.leaves(state.variables[PARAMS]))
    (found, seen), (wanted, infos) = smaller.step(state, 3.25), whole.step(removed, 3.25)

    def part(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: carried(x, live) if isinstance(x, dict) else x, tree, is_leaf=lambda x: isinstance(x, dict)
        )

    chex.assert_trees_all_close(seen, infos, rtol=1e-9, atol=1e-12)
    v = {**wanted.variables, **{name: carried(wanted.variables[name], live) for name in (PARAMS, BATCH_STATS)}}
    optimizers = {**wanted.optimizers, PARAMS: part(wanted.optimizers[PARAMS])}
    chex.assert_trees_all_close(found, bilevel.State(v, optimizers), rtol=1e-9, atol=1e-12)
    # And what has left since is carried from program to program.
    least = {CELL: np.eye(5, dtype=bool)[removed.variables[ALPHA][CELL].argmax(-1)].tolist()}
    twice, once = rebuild.phase(live, least).begin(KEY, state), rebuild.phase(None, least).begin(KEY, removed)
    chex.assert_trees_all_equal(twice, once)


def test_a_smaller_program_is_wanted_once_the_share_of_the_present_one_has_died(removed: bilevel.State) -> None:
    def wanted(share: float, v: Any, built: Any = None) -> Any:
        c = Fields(warmup_epochs=0, rebuild=share)
        return entmax.search(c, PROBLEM).phases[0].rebuild.wanted(v, built)

    v, alive = seeds(removed), removed.variables[RELAXATION]["alive"][CELL]
    live = {CELL: alive.tolist()}
    died = 1 - weights_of(space(live)) / weights_of(space())
    assert wanted(died - 1e-6, v) == live and wanted(died + 1e-6, v) is None
    assert wanted(1e-6, v, live) is None
    # Of several seeds an operation stays as long as one has it.
    other = {**removed.variables, RELAXATION: {"alive": {CELL: np.roll(alive, 1, 0)}, "alpha": np.float64(3)}}
    both = seeds(removed, removed._replace(variables=other))
    assert wanted(1e-6, both)[CELL] == (alive | np.roll(alive, 1, 0)).tolist()


def test_rising_alpha_and_removal_never_compile_anew(whole: Program, removed: bilevel.State, x64: None) -> None:
    state = removed
    for alpha in (3.5, 4.0):
        state, _ = whole.step(entmax.remove(state), alpha)
        assert state.variables[RELAXATION]["alpha"] == alpha
    assert len(whole.traces) == 1


def test_the_search_ends_when_every_edge_is_decided(removed: bilevel.State) -> None:
    phase = entmax.search(Fields(warmup_epochs=0), PROBLEM).phases[0]
    seen = phase.observe(removed.variables)
    alive = removed.variables[RELAXATION]["alive"][CELL]
    assert seen.metrics["alive"] == alive.sum()
    assert seen.metrics["undecided"] == (alive.sum(-1) > 1).sum() > 0
    assert not phase.stop(seen.metrics)
    np.testing.assert_array_equal(seen.matrices[CELL] > 0, alive)
    decided = np.eye(5, dtype=bool)[[0, 1, 2, 3, 4, 3]]
    v = {**removed.variables, RELAXATION: {"alive": {CELL: decided}, "alpha": np.float32(3)}}
    seen = phase.observe(v)
    assert (seen.metrics["alive"], seen.metrics["undecided"]) == (6, 0) and phase.stop(seen.metrics)
    search = entmax.search(Fields(warmup_epochs=0), PROBLEM)
    assert search.found(v, 0) == space().settle({CELL: decided})


def test_without_removal_nothing_ends_early_and_nothing_is_rebuilt() -> None:
    phase = entmax.search(Fields(removal="never"), PROBLEM).phases[-1]
    assert phase.after_epoch is phase.stop is phase.rebuild is None


def test_the_logits_rest_during_the_warm_up_and_weights_go_on_with_their_momentum() -> None:
    warmup, searching = entmax.search(Fields(epochs=5, warmup_epochs=2), PROBLEM).phases
    assert (warmup.epochs, searching.epochs) == (2, 3)

    def run() -> Any:
        first = warmup.begin(KEY, None)
        rates = {"learning_rate": {"lower": jnp.float32(0.1), "upper": jnp.float32(0.1)}}
        state, infos = warmup.algorithm.update(first, {"lower": batch()}, KEY, **rates)
        for name in (ALPHA, RELAXATION):
            assert state.variables[name] is first.variables[name]
        assert list(infos) == [PARAMS] == list(state.optimizers)
        begun = searching.begin(KEY, state)
        assert begun.optimizers[PARAMS] is state.optimizers[PARAMS]
        assert all(begun.variables[name] is state.variables[name] for name in state.variables)
        return begun

    assert jax.eval_shape(run).optimizers.keys() == {PARAMS, ALPHA}


@pytest.mark.parametrize("begun", [0, 3])
def test_rates_of_both_phases_are_one_schedule_over_the_whole_search(begun: int) -> None:
    c = Fields(epochs=8, warmup_epochs=begun, entmax=2.0, entmax_end=4.0)
    epoch = 0
    for phase in entmax.search(c, PROBLEM).phases:
        for number in range(phase.epochs):
            at = phase.rates((number + np.arange(5) / 5) / phase.epochs)
            falling = c.final_lr + (c.theta_lr - c.final_lr) * 0.5 * (1 + np.cos(np.pi * epoch / 8))
            np.testing.assert_allclose(at["learning_rate"]["lower"], falling, rtol=1e-12)
            np.testing.assert_allclose(at["learning_rate"]["upper"], c.alpha_lr)
            np.testing.assert_allclose(at["entmax"], 2 + 2 * (epoch + np.arange(5) / 5) / 8, rtol=1e-12)
            epoch += 1
    assert epoch == 8


def test_one_level_sees_all_images_and_two_see_those_of_their_own() -> None:
    single, two = (entmax.search(Fields(bilevel=bilevel), PROBLEM).phases for bilevel in (False, True))
    assert [phase.feeds for phase in single] == [{"lower": Feed(WHOLE, 64)}] * 2
    assert two[0].feeds == {"lower": Feed(TRAINING, 64)}
    assert two[1].feeds == {"lower": Feed(TRAINING, 64), "upper": Feed(VALIDATION, 64)}


def test_what_is_found_is_each_edges_largest_weight() -> None:
    search = entmax.search(Fields(), PROBLEM)
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    v = variables_of(logits)
    assert (
        search.found(v, 0) == space().settle({CELL: relaxation.entmax(logits, 3.0)}) == space().decode({CELL: logits})
    )
