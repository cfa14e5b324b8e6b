"""Direct sparse optimisation: what leaves and when, what a smaller program goes on with, and when a search ends."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, methods
from dass_jax.errors import UserError
from dass_jax.methods import dso
from dass_jax.methods.dso import CONNECTIONS, Fields
from dass_jax.nn.skeletons import Sizes
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Feed, Phase
from dass_jax.schema import Empty
from dass_jax.spaces import dso as space_of
from dass_jax.spaces.nasbench201 import nasbench201
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, flatten
from tests import supernets

KEY, IMAGE = jax.random.key(0), (6, 5, 1)
SPACE = space_of.Fields(scope="full", levels=2, operations=("sep3", "max3"), stages=(1, 1), channels=2)
SHORT = {"pretrain_epochs": 0, "remove_every": 2}


def space(live: Any = None) -> Any:
    return space_of.dso(SPACE, 3, live=live)


SIZE = SimpleNamespace(prunable=500, macs=7000)
PROBLEM = supernets.problem(None, 3, IMAGE, space=space, size=lambda architecture: SIZE)
EVERYTHING = space().encode(space().whole)
DEAD = {("block 0", 1, 0), ("block 0", 1, 1), ("block 0", 1, 2), ("block 1", 0, 1), ("reductions", 0, 0)}
"""Entries at 0: all that 2.1 of the first block reads, so that it is isolated; one more; one branch."""
GONE = {*DEAD, ("block 0", 2, 4)}
"""With the connection from 2.1 to the output."""


def without(entries: set[tuple[str, int, int]], tree: Any) -> Any:
    found = {name: np.array(matrix) for name, matrix in tree.items()}
    for name, row, column in entries:
        assert EVERYTHING[name][row, column] == 1
        found[name][row, column] = 0
    return found


def batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(rng.normal(size=(1, *IMAGE[:2], 6)), np.arange(6) % 3)


BATCHES = {"lower": batch(0), "upper": batch(1)}
RATES = {"lower": np.float64(0.05), "upper": np.float64(0.05)}


class Program(NamedTuple):
    """A phase with its compiled step."""

    phase: Phase
    step: Callable[[Any], Any]


def program(phase: Phase) -> Program:
    return Program(phase, jax.jit(lambda state: phase.algorithm.update(state, BATCHES, KEY, learning_rate=RATES)))


def wide(tree: Any) -> Any:
    """In 64 bits, on the host."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype), tree)


def phase_of(**fields: Any) -> Phase:
    return dso.search(Fields(**{**SHORT, **fields}), PROBLEM).phases[-1]


@pytest.fixture(scope="module")
def whole() -> Iterator[Program]:
    with jax.enable_x64(True):
        yield program(phase_of(budget="units", gamma=0.1))


@pytest.fixture(scope="module")
def begun(whole: Program) -> Iterator[bilevel.State]:
    """After a step, so that nothing rests; then with some factors at 0, and one epoch of the search behind it."""
    with jax.enable_x64(True):
        state = wide(whole.step(wide(whole.phase.begin(KEY, None)))[0])
        v = state.variables
        assert all((matrix[EVERYTHING[name] == 1] > 0).all() for name, matrix in v[ALPHA].items())
        connections = {**v[CONNECTIONS], "epochs": np.int32(1)}
        yield state._replace(variables={**v, ALPHA: without(DEAD, v[ALPHA]), CONNECTIONS: connections})


@pytest.fixture(scope="module")
def removed(whole: Program, begun: bilevel.State) -> Iterator[bilevel.State]:
    with jax.enable_x64(True):
        yield whole.phase.after_epoch(begun)


def velocity(state: bilevel.State) -> Any:
    return state.optimizers[ALPHA][1].velocity


def test_what_is_at_zero_leaves_with_what_is_on_no_way_any_more(begun: bilevel.State, removed: bilevel.State) -> None:
    alive = without(GONE, EVERYTHING)
    v = removed.variables
    assert v[CONNECTIONS]["epochs"] == 2
    for name, mask in alive.items():
        np.testing.assert_array_equal(v[CONNECTIONS]["alive"][name], mask == 1)
        np.testing.assert_array_equal(v[ALPHA][name], begun.variables[ALPHA][name] * mask)
        np.testing.assert_array_equal(velocity(removed)[name], velocity(begun)[name] * mask)
        assert (velocity(begun)[name][EVERYTHING[name] == 1] != 0).any()
    for part in (PARAMS, BATCH_STATS):
        assert v[part] is begun.variables[part]
    assert removed.optimizers[PARAMS] is begun.optimizers[PARAMS]
    chex.assert_trees_all_equal_dtypes(removed, begun)
    once_more = whole_again(removed)
    chex.assert_trees_all_equal(once_more.variables[ALPHA], v[ALPHA])


def whole_again(state: bilevel.State) -> bilevel.State:
    return phase_of(remove_every=1).after_epoch(state)


def test_between_removals_a_factor_at_zero_may_come_back(begun: bilevel.State) -> None:
    after = phase_of(remove_every=3).after_epoch(begun)
    assert after.variables[CONNECTIONS]["epochs"] == 2
    assert after.variables[ALPHA] is begun.variables[ALPHA]
    assert after.variables[CONNECTIONS]["alive"] is begun.variables[CONNECTIONS]["alive"]


def test_the_last_branch_of_a_reduction_stays_and_begins_again(begun: bilevel.State) -> None:
    v = begun.variables
    factors = {**v[ALPHA], "reductions": np.zeros((1, 2))}
    after = whole_again(begun._replace(variables={**v, ALPHA: factors})).variables
    assert after[CONNECTIONS]["alive"]["reductions"].tolist() == [[False, True]]
    assert after[ALPHA]["reductions"].tolist() == [[0, 1]]


def test_a_step_after_removal_moves_only_what_lives(whole: Program, removed: bilevel.State, x64: None) -> None:
    after, _ = whole.step(removed)
    for name, alive in removed.variables[CONNECTIONS]["alive"].items():
        moved = np.asarray(after.variables[ALPHA][name]) != removed.variables[ALPHA][name]
        assert not moved[~alive].any()
        assert moved[alive].any() == (name != "reductions")  # of which the last branch is left: it rests
        assert not np.asarray(velocity(after)[name])[~alive].any()


def test_the_smaller_program_takes_the_step_of_the_whole_one(whole: Program, removed: bilevel.State, x64: None) -> None:
    rebuild = whole.phase.rebuild
    live = rebuild.wanted(seeds(removed), None)
    alive = without(GONE, EVERYTHING)
    assert live == json.loads(json.dumps(live)) == {name: (mask == 1).tolist() for name, mask in alive.items()}
    smaller = program(rebuild.phase(None, live))
    state = smaller.phase.begin(KEY, removed)
    assert "block_0/op_2_1/norm/bias" in flatten(removed.variables[PARAMS])
    shapes = jax.eval_shape(lambda: space(live).init(KEY, IMAGE))[PARAMS]
    chex.assert_trees_all_equal_shapes(state.variables[PARAMS], shapes)
    assert "block_0/op_2_1/norm/bias" not in flatten(shapes)
    (found, seen), (wanted, infos) = smaller.step(state), whole.step(removed)

    def part(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: space().carried(x, live) if isinstance(x, dict) else x,
            tree,
            is_leaf=lambda x: isinstance(x, dict),
        )

    v = {**wanted.variables, **{name: part(wanted.variables[name]) for name in (PARAMS, BATCH_STATS)}}
    optimizers = {**wanted.optimizers, PARAMS: part(wanted.optimizers[PARAMS])}
    chex.assert_trees_all_close(found, bilevel.State(v, optimizers), rtol=1e-9, atol=1e-12)
    for level in ("lower", "upper"):
        chex.assert_trees_all_close(seen[level].loss, infos[level].loss, rtol=1e-9)
        chex.assert_trees_all_close(seen[level].metrics, infos[level].metrics, rtol=1e-9)
    # And what has left since is carried from program to program.
    least = {name: np.array(mask) for name, mask in live.items()}
    least["block 1"][0] = False
    least["block 1"][2, 3] = False
    least = {name: mask.tolist() for name, mask in least.items()}
    twice, once = rebuild.phase(live, least).begin(KEY, state), rebuild.phase(None, least).begin(KEY, removed)
    chex.assert_trees_all_equal(twice, once)


def seeds(*states: bilevel.State) -> Any:
    """The variables of several seeds, as a run keeps them."""
    return jax.tree.map(lambda *x: np.stack(x), *(state.variables for state in states))


def test_a_smaller_program_is_wanted_once_more_than_the_share_has_left(
    begun: bilevel.State, removed: bilevel.State
) -> None:
    def wanted(share: float, v: Any, built: Any = None) -> Any:
        return phase_of(rebuild=share).rebuild.wanted(v, built)

    v, all_of_it = seeds(removed), sum(int(matrix.sum()) for matrix in EVERYTHING.values())
    share = len(GONE) / all_of_it
    live = wanted(0.0, v)
    assert live is not None and wanted(0.0, seeds(begun)) is None
    assert wanted(share - 1e-6, v) == live and wanted(share + 1e-6, v) is None
    assert wanted(0.0, v, live) is None
    # Of several seeds a connection stays as long as one has it.
    assert wanted(0.0, seeds(removed, begun)) is None


def test_gamma_follows_what_a_connection_costs() -> None:
    """Where the loss does not see the factors, each shrinks by η·γ·cost·(1 + μ)."""
    costs = {"uniform": jnp.ones_like, "flops": lambda x: x / 2}
    tables = {name: lambda choice, cost=cost: jax.tree.map(cost, choice) for name, cost in costs.items()}

    def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        return images.mean((0, 1, 2))[:, None] * params["w"], stats

    blind = SimpleNamespace(apply=apply, costs=tables)
    v = {
        PARAMS: {"w": jnp.ones(3)},
        BATCH_STATS: {},
        ALPHA: {"block": jnp.array([[1.0, 0.5, 0.3]])},
        CONNECTIONS: {"alive": {"block": jnp.array([[True, True, False]])}, "epochs": jnp.int32(0)},
    }
    for budget, cost in {"uniform": [1, 1, 1], "flops": [0.5, 0.25, 0]}.items():
        algorithm = dso.step(Fields(budget=budget, gamma=0.2), PROBLEM, blind)
        after, _ = algorithm.update(algorithm.init(v), BATCHES, KEY, learning_rate=RATES)
        wanted = np.array([1.0, 0.5, 0.3]) - 0.05 * 0.2 * np.array(cost) * 1.9
        np.testing.assert_allclose(after.variables[ALPHA]["block"][0], wanted, rtol=1e-6)


def test_only_weights_of_layers_decay() -> None:
    found = dso.kernels({"a": {"conv": {"weight": 1}, "norm": {"bias": 1, "scale": 1}}, "head": {"bias": 1}})
    assert found == {"a": {"conv": {"weight": True}, "norm": {"bias": False, "scale": False}}, "head": {"bias": False}}


@pytest.mark.parametrize(
    ("fields", "lower", "upper"),
    [
        ({}, Feed(TRAINING, 128), Feed(VALIDATION, 128)),
        ({"weight_steps": 4, "batch_size": 32}, Feed(TRAINING, 32, 4), Feed(VALIDATION, 32)),
        ({"split": False}, Feed(WHOLE, 128), Feed(WHOLE, 128)),
    ],
)
def test_weights_and_factors_see_halves_of_their_own(fields: Any, lower: Feed, upper: Feed) -> None:
    pretrain, searching = dso.search(Fields(**fields), PROBLEM).phases
    assert searching.feeds == {"lower": lower, "upper": upper}
    assert pretrain.feeds == {"lower": lower._replace(batches=1)}


def test_the_full_graph_is_trained_first_and_its_factors_rest() -> None:
    pretrain, searching = dso.search(Fields(pretrain_epochs=4, epochs=7), PROBLEM).phases
    assert (pretrain.epochs, searching.epochs) == (4, 3)
    assert [phase.epochs for phase in dso.search(Fields(epochs=70), PROBLEM).phases] == [69, 1]

    def run() -> Any:
        first = pretrain.begin(KEY, None)
        rates = {"learning_rate": {"lower": jnp.float32(0.1)}}
        state, infos = pretrain.algorithm.update(first, {"lower": batch(0)}, KEY, **rates)
        assert all(state.variables[name] is first.variables[name] for name in (ALPHA, CONNECTIONS))
        assert list(infos) == [PARAMS] == list(state.optimizers)
        started = searching.begin(KEY, state)
        assert all(started.variables[name] is state.variables[name] for name in state.variables)
        return started

    assert jax.eval_shape(run).optimizers.keys() == {PARAMS, ALPHA}
    at = pretrain.rates(np.array([0, 0.5]))["learning_rate"]["lower"]
    np.testing.assert_allclose(at, [0.1, (0.1 + 0.001) / 2])
    rates = searching.rates(np.array([0, 0.9]))["learning_rate"]
    assert {level: rate.tolist() for level, rate in rates.items()} == {"lower": [0.1, 0.1], "upper": [0.1, 0.1]}
    assert len(dso.search(Fields(pretrain_epochs=0), PROBLEM).phases) == 1


def test_an_epoch_shows_what_is_left_and_what_its_network_would_cost(begun: bilevel.State) -> None:
    all_of_it = sum(int(matrix.sum()) for matrix in EVERYTHING.values())
    seen = phase_of().observe(begun.variables)
    assert seen.metrics == {"connections": all_of_it - len(DEAD), "connections_swept": all_of_it - len(GONE)}
    chex.assert_trees_all_equal(dict(seen.matrices), begun.variables[ALPHA])
    counted = phase_of(stop_weights=1).observe(begun.variables).metrics
    assert (counted["network_weights"], counted["network_macs"]) == (500, 7000)
    assert {curve.metric for curve in phase_of(stop_macs=1).curves} >= {*counted, "lower_loss", "upper_accuracy"}


def test_a_search_ends_by_any_of_its_budgets() -> None:
    seen = {"connections_swept": 20.0, "network_weights": 500.0, "network_macs": 7000.0}
    assert phase_of().stop is None
    for name, most in {"stop_connections": 20, "stop_weights": 500, "stop_macs": 7000}.items():
        assert phase_of(**{name: most}).stop(seen) and not phase_of(**{name: most - 1}).stop(seen)
    assert phase_of(stop_weights=1, stop_macs=7000).stop(seen)


def test_what_is_found_is_what_is_left_after_sweeping(begun: bilevel.State, removed: bilevel.State) -> None:
    search = dso.search(Fields(), PROBLEM)
    found = search.found(begun.variables, 0)
    assert found == search.found(removed.variables, 0) == space().decode(without(GONE, EVERYTHING))
    assert [len(block) for block in found.blocks] == [6, 9] and found.reductions == (("3x3",),)


def test_a_space_whose_operations_exclude_each_other_is_refused() -> None:
    other = supernets.problem(nasbench201(Sizes(3, 1, 2)), 3, IMAGE)
    for name, fields in (("dso", Fields()), ("whole", Empty())):
        with pytest.raises(UserError) as caught:
            methods.METHODS[name].search(fields, other)
        assert str(caught.value) == (
            f"method.name = {name!r} in a space whose operations exclude each other; allowed: another space"
        )


def test_the_whole_is_all_that_the_space_has() -> None:
    found = methods.METHODS["whole"].search(Empty(), PROBLEM)
    assert found.phases == () and found.found(None, 0) == space().whole
