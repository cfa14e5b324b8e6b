"""ENAS: the score-function gradient against enumeration, what moves in a search, deriving, and resumption."""

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, compose, config, feed, spaces, sparsity, variables
from dass_jax.bilevel.by_turns import TURN
from dass_jax.errors import UserError
from dass_jax.methods import enas, sampled, scas_enas, shared_random
from dass_jax.methods.enas import BASELINE, CONTROLLER
from dass_jax.methods.sampled import CHILD, SAMPLED
from dass_jax.policies import enas_macro
from dass_jax.runtime import epoch
from dass_jax.sparsity.gradual import PRUNING
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, RATES
from tests import supernets

POLICY = enas_macro.policy(2, 2)
CHOICES = [
    {"operations": np.array([a, b], np.int32), "skips": np.array([bit], np.int32)}
    for a, b, bit in itertools.product(range(2), range(2), range(2))
]
RIGHT = np.array([1, 7, 3, 2, 8, 4, 0, 5])
"""Of eight images, for each choice."""


def place(choice: Any) -> Any:
    return 4 * choice["operations"][0] + 2 * choice["operations"][1] + choice["skips"][0]


def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
    """Class 0 for so many images as `RIGHT` says; the scale is that of the params."""
    right = jnp.arange(8) < jnp.asarray(RIGHT)[place(choice)]
    return params["scale"] * jnp.stack([right, ~right], -1).astype(images.dtype), stats


SPACE = SimpleNamespace(apply=apply, sampled=SimpleNamespace(policy=POLICY))
PROBLEM = supernets.problem(SPACE, 2, (1, 1, 1))


def begin() -> dict[str, Any]:
    params = jax.eval_shape(lambda: POLICY.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    controller = jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape)), params)
    start = {PARAMS: {"scale": jnp.ones(())}, BATCH_STATS: {}, CONTROLLER: controller}
    return {**start, BASELINE: jnp.zeros(()), SAMPLED: None}


def batches(samples: int) -> Batch:
    return Batch(jnp.zeros((samples, 1, 1, 1, 8)), jnp.zeros((samples, 8), jnp.int32))


def expected(controller: Any) -> jax.Array:
    """The expected accuracy, by enumeration of all eight choices."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *CHOICES)
    return (jnp.exp(-jax.vmap(POLICY.score, (None, 0))(controller, stacked).nll) * RIGHT / 8).sum()


@pytest.mark.usefixtures("x64")
def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Over enough samples within five standard deviations of the estimate, direction by direction."""
    fields = enas.Fields(samples=4000, entropy_weight=0, skip_weight=0, baseline_rate=0)
    loss, v = enas.reinforce(fields, PROBLEM, SPACE), begin()

    @jax.jit
    def both(controller: Any, key: jax.Array) -> Any:
        def of(controller: Any) -> Any:
            return loss({**v, CONTROLLER: controller}, batches(fields.samples), key)[0]

        return jax.grad(of)(controller), jax.grad(expected)(controller)

    found, wanted = both(v[CONTROLLER], jax.random.key(1))
    for name, leaf in wanted.items():
        error = np.linalg.norm(found[name] + leaf) / max(np.linalg.norm(leaf), 1e-3)
        assert error < 0.2, (name, error)


@pytest.mark.usefixtures("x64")
def test_an_update_is_its_definition() -> None:
    """Baseline, advantages, surrogate and its gradient, each recomputed from the samples that it hands back."""
    fields = enas.Fields(samples=5, entropy_weight=0.01, skip_weight=0.8, baseline_rate=0.25)
    loss, v = enas.reinforce(fields, PROBLEM, SPACE), {**begin(), BASELINE: jnp.asarray(0.3)}

    @jax.jit
    def run(controller: Any) -> Any:
        def of(controller: Any) -> Any:
            return loss({**v, CONTROLLER: controller}, batches(5), jax.random.key(2))

        return jax.value_and_grad(of, has_aux=True)(controller)

    (value, (metrics, updates)), gradient = run(v[CONTROLLER])
    choices = [jax.tree.map(lambda x, n=n: x[n], updates[SAMPLED]["choices"]) for n in range(5)]
    accuracies = np.array([RIGHT[int(place(choice))] / 8 for choice in choices])
    np.testing.assert_allclose(updates[SAMPLED]["value"], accuracies)
    assert len(set(accuracies)) > 1

    @jax.jit
    def score(controller: Any) -> Any:
        return jax.vmap(POLICY.score, (None, 0))(controller, updates[SAMPLED]["choices"])

    scores, baseline, advantages = score(v[CONTROLLER]), 0.3, []
    rewards = accuracies + 0.01 * np.asarray(scores.entropy)
    for reward in rewards:
        baseline = baseline + 0.25 * (reward - baseline)
        advantages.append(reward - baseline)
    np.testing.assert_allclose(updates[BASELINE], baseline, rtol=1e-12)
    np.testing.assert_allclose(metrics["reward"], rewards.mean(), rtol=1e-12)

    def surrogate(controller: Any) -> Any:
        again = score(controller)
        return (again.nll * jnp.asarray(advantages) + 0.8 * again.penalty).mean()

    np.testing.assert_allclose(value, surrogate(v[CONTROLLER]), rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        gradient,
        jax.grad(surrogate)(v[CONTROLLER]),
    )


def test_updates_find_the_best_choice_of_a_small_space() -> None:
    """Half of the policy's probability goes to the two best of eight choices, from a quarter."""
    fields = enas.Fields(samples=20, skip_weight=0, controller_lr=0.05)
    algorithm, v = enas.controller(fields, PROBLEM, SPACE), {**begin(), CONTROLLER: POLICY.init(jax.random.key(0))}
    v = {**v, BASELINE: jnp.float32(0)}
    state = algorithm.init({name: leaf for name, leaf in v.items() if leaf is not None})
    given = {"learning_rate": {CONTROLLER: jnp.float32(fields.controller_lr)}}

    def step(carry: Any, key: jax.Array) -> Any:
        variables, optimizers = carry
        after, _ = algorithm.update(bilevel.State(variables, optimizers), batches(20), key, **given)
        return (after.variables, after.optimizers), None

    state, _ = algorithm.update(state, batches(20), jax.random.key(5), **given)
    keys = jax.random.split(jax.random.key(1), 50)
    (variables, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(tuple(state))
    before, after = (float(jax.jit(expected)(params)) for params in (v[CONTROLLER], variables[CONTROLLER]))
    assert before < 0.5 < 0.65 < after


def test_the_value_is_a_share_and_more_is_better() -> None:
    task = PROBLEM.task
    assert sampled.value_of(task, {"accuracy": 85.0}) == 0.85
    lower = task._replace(metrics=(task.metrics[0]._replace(name="miss", unit="ticks", higher_is_better=False),))
    assert sampled.value_of(lower, {"miss": 3.0}) == -3


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"space": {"name": "enas_macro"}, "method": {"name": "darts"}},
            "method.name = 'darts' in 'enas_macro', a sampled space; allowed: enas, scas_enas, ",
        ),
        (
            {"space": {"name": "darts"}, "method": {"name": "enas"}},
            "method.name = 'enas' in 'darts', a relaxed space; allowed: dass, ",
        ),
        (
            {"space": {"name": "enas_micro"}, "method": {"name": "enas"}, "controls": ["dass"]},
            "controls = 'dass' in 'enas_micro', a sampled space; allowed: enas, ",
        ),
    ],
)
def test_a_method_of_another_kind_of_space_is_one_line(tables: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.from_dict(tables)
    assert str(caught.value).startswith(message)


def test_usual_controls_are_those_that_can_search_the_space() -> None:
    found = config.from_dict({"space": {"name": "enas_macro"}, "method": {"name": "enas"}})
    assert found.controls == ("shared_random", "random")
    assert config.control(found, "shared_random").method.fields.epochs == found.method.fields.epochs == 310


def whole_space() -> Any:
    """The small space with all that a search asks of one."""
    part = SimpleNamespace(
        policy=POLICY,
        uniform=lambda key: jax.tree.map(
            lambda x: jax.random.bernoulli(key, shape=x.shape).astype("int32"), CHOICES[0]
        ),
        moving=lambda params, choice: jax.tree.map(lambda leaf: choice["skips"][0] > 0, params),
    )
    return SimpleNamespace(
        init=lambda key, image: {PARAMS: {"scale": jnp.ones(())}, BATCH_STATS: {}},
        apply=apply,
        sampled=part,
        choices={},
        decode=lambda choice: tuple(np.concatenate([choice["operations"], choice["skips"]]).tolist()),
    )


def prepared(examples: Any, rows: jax.Array, key: jax.Array, rates: Any) -> Batch:
    return Batch(jnp.zeros((1, 1, 1, len(rows))), examples.targets[rows], None, jnp.ones(len(rows)))


def test_a_search_that_stops_between_updates_of_the_controller_goes_on_with_the_same_bits() -> None:
    fields, space = enas.Fields(samples=2, controller_steps=4), whole_space()
    algorithm, child = enas.step(fields, PROBLEM, space), np.arange(7) < 3
    rows = np.random.default_rng(0).integers(16, size=(1, 7, 2, 8)).astype(np.int32)
    indices = {CHILD: feed.spread(rows[:, :3, 0], child)[0], CONTROLLER: feed.spread(rows[:, :4], ~child)[0]}
    learning = {CHILD: np.full(7, 0.1, np.float32), CONTROLLER: np.full(7, 0.01, np.float32)}
    rates = {"learning_rate": learning, TURN: (~child).astype(np.float32)}
    given = epoch.Examples(np.zeros((16, 1)), np.arange(16) % 2), indices, jax.random.key(3), rates
    run = jax.jit(epoch.epoch(algorithm.update, dict.fromkeys(indices, prepared), by_turns=True))
    begun = algorithm.init(enas.fresh(fields, PROBLEM, space, jax.random.key(0)))
    whole, infos = run(begun, *given, 0, 7)
    np.testing.assert_array_equal(infos[CHILD].taken, child)
    np.testing.assert_array_equal(infos[CONTROLLER].taken, ~child)
    for stop in (2, 5):
        there, first = run(begun, *given, 0, stop)
        kept = jax.tree.map(np.asarray, there)
        again, second = run(kept, *given, stop, 7)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
        for one, other, wanted in zip(*map(jax.tree.leaves, (first, second, infos)), strict=True):
            np.testing.assert_array_equal(one + other, wanted)
    after, _ = run(begun, *given, 0, 3)
    assert all(jax.tree.map(np.array_equal, after.variables[CONTROLLER], begun.variables[CONTROLLER]).values())
    # Of the child's turn and of the controller's: θ rests in the latter.
    np.testing.assert_array_equal(after.variables[PARAMS]["scale"], whole.variables[PARAMS]["scale"])
    assert not np.array_equal(whole.variables[BASELINE], begun.variables[BASELINE])
    assert not np.array_equal(whole.variables[CONTROLLER]["lstm"], begun.variables[CONTROLLER]["lstm"])


def test_the_best_of_the_candidates_on_the_whole_split_is_found() -> None:
    """On three batches, of which the last one is filled up: what fills it up does not count."""
    fields, space = sampled.Fields(candidates=6), whole_space()
    choices = jax.tree.map(lambda *x: jnp.stack(x), *CHOICES[:6])
    phase = sampled.deriving(fields, PROBLEM, space, lambda v, key: CHOICES[0])
    state = phase.begin(jax.random.key(0), SimpleNamespace(variables={**begin(), SAMPLED: {}}))
    assert (phase.epochs, phase.feeds["candidates"].whole, phase.feeds["candidates"].augment) == (1, True, False)
    variables = {**state.variables, SAMPLED: {**state.variables[SAMPLED], "choices": choices}}
    state, update = state._replace(variables=variables), jax.jit(phase.algorithm.update)
    for counted in (8, 8, 3):
        part = Batch(
            jnp.zeros((1, 1, 1, 8)), jnp.zeros(8, jnp.int32), None, (jnp.arange(8) < counted).astype("float32")
        )
        state, infos = update(state, {"candidates": part}, jax.random.key(1))
        assert float(infos["candidates"].metrics["images"]) == counted
    after = phase.after_epoch(jax.tree.map(np.asarray, state))
    wanted = (2 * RIGHT[:6] + np.minimum(RIGHT[:6], 3)) / 19
    np.testing.assert_allclose(after.variables[SAMPLED]["value"], wanted, rtol=1e-6)
    best = sampled.found(space)(after.variables, 0)
    assert best == space.decode(CHOICES[int(wanted.argmax())])


def test_random_search_shares_all_but_the_controller() -> None:
    space = whole_space()
    problem = supernets.problem(space, 2, (1, 1, 1))
    training, deriving = shared_random.search(sampled.Fields(epochs=3), problem).phases
    searching, same = enas.search(enas.Fields(epochs=3), problem).phases
    progress = np.arange(4) / 12
    ours, theirs = (phase.rates(progress)["learning_rate"][CHILD] for phase in (training, searching))
    np.testing.assert_array_equal(ours, theirs)
    assert training.feeds[CHILD] == searching.feeds[CHILD] and deriving.feeds == same.feeds
    drawn = jax.jit(deriving.begin)(jax.random.key(0), jax.jit(training.begin)(jax.random.key(0), None))
    bits = np.asarray(drawn.variables[SAMPLED]["choices"]["skips"])
    assert bits.shape == (100, 1) and 20 < bits.sum() < 80


def test_what_an_epoch_sees() -> None:
    """The child its split once; the controller as many batches as it asks for; the candidates each image once."""
    text = {
        "space": {"name": "enas_macro", "layers": 3, "channels": 2},
        "method": {"name": "enas", "epochs": 2, "batch_size": 16, "controller_steps": 3, "samples": 5},
        "data": {"source": "digits", "limit": 101},
        "network": {"channels": 2},
        "train": {"batch_size": 16},
        "controls": [],
    }
    s = compose.setting(config.from_dict(text))
    searching, deriving = compose.search(s, "enas").phases
    training, validation = (set(compose.split_rows(s, split, 0).tolist()) for split in ("training", "validation"))
    found, later = (feed.inputs(s, searching, number) for number in (0, 1))
    assert (found.steps, found.rates[TURN].tolist()) == (6, [0, 0, 0, 1, 1, 1])
    assert found.indices[CHILD].shape == (1, 6, 16) and found.indices[CONTROLLER].shape == (1, 6, 5, 16)
    rows = found.indices[CHILD][0, :3].ravel().tolist()
    assert len(set(rows)) == 48 and set(rows) <= training and not found.indices[CHILD][0, 3:].any()
    rewarded = found.indices[CONTROLLER][0, 3:].reshape(-1, 16)
    assert not found.indices[CONTROLLER][0, :3].any() and {*rewarded.ravel().tolist()} <= validation
    passes = rewarded.reshape(5, 48)  # each three batches are a pass of its own
    assert all(len(set(row)) == 48 for row in passes.tolist()) and len({tuple(row) for row in passes.tolist()}) == 5
    assert not np.array_equal(found.indices[CONTROLLER], later.indices[CONTROLLER])
    scored = feed.inputs(s, deriving, 0)
    counted = scored.rates["counted"]["candidates"].astype(int)
    seen = [row for rows, n in zip(scored.indices["candidates"][0], counted, strict=True) for row in rows[:n].tolist()]
    assert sorted(seen) == sorted(validation) and counted.tolist() == [16, 16, 16, len(validation) - 48]


def test_the_pruner_follows_the_child_alone_and_rests_in_the_controllers_turn() -> None:
    """Each operation of each layer keeps its share of the weights, pruned ones stay 0, and all layers end sparse."""
    space = spaces.SPACES["enas_macro"].make(spaces.SPACES["enas_macro"].schema(3, 4), 2, lambda tree: tree, None)
    problem = supernets.problem(space, 2, (8, 8, 1), keep=0.25)
    c = scas_enas.Fields(epochs=4, controller_steps=3, samples=2, prune_every=2, retrain_steps=1, ramp=0.5)
    searching, _ = scas_enas.search(c, problem).phases
    rates = [searching.rates((epoch + np.arange(8) / 8) / 4)[PRUNING] for epoch in range(4)]
    assert [rate["renew"].tolist() for rate in rates] == [[False, True, False, True, False, False, False, False]] * 4
    shapes = problem.shapes(space)[PARAMS]
    for group in sparsity.prunable_groups(shapes, space.rules):
        kept = np.stack([rate["kept"][group.name].each for rate in rates])
        wanted = [sparsity.kept_in_layer(group.size, 0.25 + 0.75 * max(0.0, 1 - n / 10) ** 3) for n in range(1, 21)]
        assert kept[:, :5].ravel().tolist() == wanted and (kept[:, 5:] == kept[:, 4:5]).all()
    assert searching.rates(np.array([0.25]))[PRUNING]["renew"].tolist() == [True]


def test_the_pruned_search_takes_a_step_of_each_turn() -> None:
    space = spaces.SPACES["enas_macro"].make(spaces.SPACES["enas_macro"].schema(3, 2), 2, lambda tree: tree, None)
    searching, _ = scas_enas.search(scas_enas.Fields(samples=2), supernets.problem(space, 2, (4, 4, 1))).phases
    state = jax.eval_shape(searching.begin, jax.random.key(0), None)
    masks = variables.flatten(state.variables[MASKS])
    assert masks and {path: leaf.shape for path, leaf in masks.items()} == {
        path: variables.flatten(state.variables[PARAMS])[path].shape for path in masks
    }
    rates = jax.tree.map(lambda x: jnp.float32(np.ravel(x)[0]), searching.rates(np.array([0.0, 0.5])))
    batch = Batch(jnp.zeros((1, 4, 4, 2)), jnp.zeros(2, int), None, jnp.ones(2))
    given = {CHILD: batch, CONTROLLER: jax.tree.map(lambda x: jnp.stack([x, x]), batch)}

    def step(state: Any) -> Any:
        held = state._replace(variables={**state.variables, RATES: {**rates, TURN: jnp.float32(0)}})
        learning = rates["learning_rate"]
        return searching.algorithm.update(held, given, jax.random.key(1), learning_rate=learning)[0].variables[MASKS]

    after = variables.flatten(jax.eval_shape(step, state))
    assert {path: leaf.shape for path, leaf in after.items()} == {path: leaf.shape for path, leaf in masks.items()}


@pytest.mark.parametrize("name", ["enas_macro", "enas_micro"])
def test_a_child_is_made_of_whole_slices_each_of_which_is_pruned_by_itself(name: str) -> None:
    """So every child has the sparsity of the whole, whatever was drawn how often."""
    space = spaces.SPACES[name].make(spaces.SPACES[name].schema(), 10, lambda tree: tree, None)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))[PARAMS]
    choice = space.encode(space.sample(np.random.default_rng(0)))
    moving = variables.flatten(jax.eval_shape(lambda: space.sampled.moving(shapes, choice)))
    several = 0
    for path, stack in variables.flatten(variables.prunable(shapes, space.rules)).items():
        leaf = variables.flatten(shapes)[path]
        assert moving[path].shape in ((), leaf.shape[: len(moving[path].shape)]) and len(moving[path].shape) <= stack
        several += len(moving[path].shape)
    assert several > 10
