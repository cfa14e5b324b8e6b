"""What every algorithm promises, asked of all of them: a new estimator or method enters the table, and is asked too.

* structure, shapes and dtypes of the state survive an update; collections that it does not train stay the same bits;
* it is traced once, and eager = jit = a scan under vmap over seeds under pmap over two devices;
* every argument of `update`, every collection that it reads and every option of its maker changes some output.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, relaxation, variables
from dass_jax.bilevel import Level
from dass_jax.methods import dass, dass_op, prune
from dass_jax.methods.losses import Batch, accuracy, cross_entropy
from dass_jax.runtime import parallel
from dass_jax.variables import ALPHA, BATCH_STATS, MASKS, PARAMS, SCORES

STACKS = {"first": {"weight": 0}, "second": {"weight": 0}}
KEEP = 0.5
EXTRA = {"learning_rate": 0.3}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}

Reduce = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def in_float64(x64: None) -> Iterator[None]:
    """Equal to 1e-9 is not asked of 32-bit floats."""
    yield


def begin(seed: int = 0) -> variables.Variables:
    """Every collection of a network of two layers, six and twelve weights."""
    rng = np.random.default_rng(seed)
    params = {
        "first": {"weight": rng.normal(size=(3, 2))},
        "second": {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=4)},
    }
    weights = variables.select(params, STACKS)
    v = {
        ALPHA: {"normal": rng.normal(size=(2,))},
        PARAMS: params,
        SCORES: jax.tree.map(lambda w: rng.normal(size=w.shape), weights),
        MASKS: jax.tree.map(lambda w: (rng.random(w.shape) < 0.7).astype(float), weights),
        BATCH_STATS: {"seen": rng.normal(size=2)},
    }
    return jax.tree.map(jnp.asarray, v)


def batch(seed: int) -> Batch:
    """Images [C 2, H 1, W 1, N 8] of 4 classes."""
    rng = np.random.default_rng(100 + seed)
    return Batch(rng.normal(size=(2, 1, 1, 8)), rng.integers(0, 4, 8))


def network(params: Any, stats: Any, images: jax.Array, reduce: Reduce) -> tuple[jax.Array, jax.Array, Any]:
    """(two branches [2, 4, N] of logits, new statistics), smooth, so that second derivatives exist everywhere."""
    x = images[:, 0, 0]
    hidden = params["first"]["weight"] @ x
    branches = jnp.stack([params["second"]["weight"] @ f(hidden) for f in (jnp.tanh, jnp.sin)])
    seen = 0.9 * stats["seen"] + 0.1 * reduce(x.mean(-1))
    return branches + params["second"]["bias"][:, None], seen, {"seen": seen}


def supernet(reduce: Reduce) -> Callable[..., Any]:
    def apply(params: Any, stats: Any, edge_weights: Any, images: jax.Array, train: bool) -> Any:
        branches, _, stats = network(params, stats, images, reduce)
        return jnp.tensordot(edge_weights["normal"], branches, 1).T, stats

    return apply


def derived(reduce: Reduce) -> Callable[..., Any]:
    def apply(params: Any, stats: Any, images: jax.Array, train: bool, path_scale: Any) -> Any:
        branches, _, stats = network(params, stats, images, reduce)
        return branches[0].T, branches[1].T, stats

    return apply


def noisy_loss(weights: dass.Weights, reduce: Reduce) -> bilevel.Loss:
    """The supernet's loss under a draw from the key (the same on all devices)."""

    def loss(v: Any, b: Batch, key: jax.Array) -> Any:
        logits, stats = supernet(reduce)(weights(v), v[BATCH_STATS], relaxation.softmax(v[ALPHA]), b.images, True)
        logits = logits * (1 + 0.1 * jax.random.uniform(key, (4,), logits.dtype))
        return cross_entropy(logits, b.labels), ({"accuracy": accuracy(logits, b.labels)}, {BATCH_STATS: stats})

    return loss


def sgd(decay: float = 0.01, momentum: float = 0.9) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay), optax.trace(momentum), bilevel.scale_by_given_learning_rate())


DENSE, SPARSE = dass.dense_weights, dass.sparse_weights(STACKS, KEEP)
BOTH = [batch(0), batch(1)]
SEVERAL = [batch(0), jax.tree.map(lambda *x: np.stack(x), batch(1), batch(2))]


class Case(NamedTuple):
    """One algorithm."""

    make: Callable[[Reduce], bilevel.Algorithm]
    batches: Any
    trains: set[str]
    reads: set[str]
    """Collections on which the rest of the result depends."""
    uses_key: bool = True


def alternation(hypergradient: Any, collection: str = PARAMS, weights: Any = DENSE, **options: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = noisy_loss(weights, reduce)
        upper = Level(ALPHA, loss, optax.adam(0.1))
        return bilevel.alternate(upper, Level(collection, loss, sgd()), hypergradient, reduce=reduce, **options)

    return make


def accumulating(hypergradient: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = bilevel.accumulated(noisy_loss(DENSE, reduce), 2)
        upper = Level(ALPHA, loss, optax.adam(0.1))
        return bilevel.alternate(upper, Level(PARAMS, loss, sgd()), hypergradient, reduce=reduce, cosine=True)

    return make


def in_three_turns(reduce: Reduce) -> bilevel.Algorithm:
    common = bilevel.first_order(), "upper_first", reduce
    return dass.unsplit(noisy_loss(SPARSE, reduce), optax.adam(0.1), sgd(), sgd(), *common, cosine=True)


def under_fixed_masks(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(prune.masked_weights, reduce)
    return dass_op.step(loss, optax.adam(0.1), sgd(), bilevel.unrolled(2), "upper_first", reduce)


def single_level(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(DENSE, reduce)
    return bilevel.joint([Level(ALPHA, loss, optax.adam(0.1)), Level(PARAMS, loss, sgd())], reduce)


def several_steps(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(DENSE, reduce)
    lower = Level(PARAMS, loss, sgd(), steps=2)
    return bilevel.alternate(Level(ALPHA, loss, optax.adam(0.1)), lower, bilevel.unrolled(3), reduce=reduce)


def dass_step(collection: str, weights: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = dass.supernet_loss(supernet(reduce), relaxation.softmax, weights)
        return dass.step(
            collection, loss, optax.adam(0.1), sgd(), bilevel.first_order(), "upper_first", reduce, cosine=True
        )

    return make


ARGUMENTS: dict[str, dict[str, Any]] = {
    "first_order": {},
    "unrolled": {"steps": 2},
    "finite_difference": {"radius": 1e-3},
    "neumann": {"terms": 3, "lr": 0.1, "damping": 0.1},
    "conjugate_gradient": {"iterations": 2, "damping": 0.5},
    "amended": {"eta": 0.1, "damping": 0.1},
}
"""For every estimator."""

DENSE_PARTS, SPARSE_PARTS = {ALPHA, PARAMS}, {ALPHA, PARAMS, SCORES}
TABLE = {
    **{
        f"{name}, θ below": Case(
            alternation(bilevel.ESTIMATORS[name](**arguments), cosine=True), BOTH, DENSE_PARTS, DENSE_PARTS
        )
        for name, arguments in ARGUMENTS.items()
    },
    **{
        f"{name}, s below": Case(
            alternation(bilevel.ESTIMATORS[name](**arguments), SCORES, SPARSE), BOTH, {ALPHA, SCORES}, SPARSE_PARTS
        )
        for name, arguments in ARGUMENTS.items()
    },
    "lower first": Case(alternation(None, order="lower_first"), BOTH, DENSE_PARTS, DENSE_PARTS),
    "several lower steps": Case(several_steps, SEVERAL, DENSE_PARTS, DENSE_PARTS),
    "joint": Case(single_level, batch(0), DENSE_PARTS, DENSE_PARTS),
    "dass, un-split": Case(in_three_turns, BOTH, SPARSE_PARTS, SPARSE_PARTS),
    "dass_op": Case(under_fixed_masks, BOTH, DENSE_PARTS, {*DENSE_PARTS, MASKS}),
    "unrolled, accumulated": Case(accumulating(bilevel.unrolled(2)), BOTH, DENSE_PARTS, DENSE_PARTS),
    "conjugate gradient, accumulated": Case(
        accumulating(bilevel.conjugate_gradient(2, 0.5)), BOTH, DENSE_PARTS, DENSE_PARTS
    ),
    "dass, step 1": Case(dass_step(PARAMS, DENSE), BOTH, DENSE_PARTS, DENSE_PARTS, uses_key=False),
    "dass, step 2": Case(dass_step(SCORES, SPARSE), BOTH, {ALPHA, SCORES}, SPARSE_PARTS, uses_key=False),
    "train weights": Case(
        lambda reduce: prune.train_weights(derived(reduce), sgd(), 0.4, reduce),
        batch(0),
        {PARAMS},
        {PARAMS, MASKS},
        uses_key=False,
    ),
    "train weights, accumulated": Case(
        lambda reduce: prune.train_weights(derived(reduce), sgd(), 0.4, reduce, parts=2),
        batch(0),
        {PARAMS},
        {PARAMS, MASKS},
        uses_key=False,
    ),
    "learn scores": Case(
        lambda reduce: prune.learn_scores(derived(reduce), sgd(), STACKS, KEEP, 0.4, reduce),
        batch(0),
        {SCORES},
        {SCORES, PARAMS},
        uses_key=False,
    ),
    "learn scores, accumulated": Case(
        lambda reduce: prune.learn_scores(derived(reduce), sgd(), STACKS, KEEP, 0.4, reduce, parts=2),
        batch(0),
        {SCORES},
        {SCORES, PARAMS},
        uses_key=False,
    ),
}
"""All of them also carry running statistics, which nobody reads but they themselves."""


class Subject(NamedTuple):
    """A case, ready to be looked at."""

    case: Case
    algorithm: bilevel.Algorithm
    update: Callable[..., Any]
    """`algorithm.update`, compiled."""
    traces: list[None]
    """One entry for each time that it was traced."""
    batches: Any
    state: bilevel.State
    """After one update: no optimizer state is zero then."""


def extra() -> dict[str, jax.Array]:
    return jax.tree.map(jnp.asarray, EXTRA)


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    return {}


@pytest.fixture(params=TABLE)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    name, case = request.param, TABLE[request.param]
    if name not in subjects:
        algorithm, traces = case.make(bilevel.levels.same), []

        def update(*arguments: Any, **options: Any) -> Any:
            traces.append(None)
            return algorithm.update(*arguments, **options)

        compiled, batches = jax.jit(update), jax.tree.map(jnp.asarray, case.batches)
        state, _ = compiled(algorithm.init(begin()), batches, jax.random.key(0), **extra())
        subjects[name] = Subject(case, algorithm, compiled, traces, batches, state)
    return subjects[name]


def same_bits(one: Any, other: Any) -> bool:
    """Structure, dtypes and bits."""
    left, right = jax.tree.leaves(one), jax.tree.leaves(other)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(left, right, strict=True)
    )


def test_an_eager_update_touches_its_own_collections_only_and_equals_the_compiled_one(subject: Subject) -> None:
    state = subject.state
    after, info = subject.algorithm.update(state, subject.batches, jax.random.key(1), **extra())
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_structs(after, state)
    for name in state.variables:
        if name in {*subject.case.trains, BATCH_STATS}:
            assert not same_bits(after.variables[name], state.variables[name]), name
        else:
            assert after.variables[name] is state.variables[name], name
    assert all(np.isfinite(leaf).all() and np.ndim(leaf) == 0 for leaf in jax.tree.leaves(info))
    chex.assert_trees_all_close(
        subject.update(state, subject.batches, jax.random.key(1), **extra()), (after, info), **CLOSE
    )
    assert len(subject.traces) == 1


def test_in_32_bits_nothing_becomes_64(subject: Subject) -> None:
    def single(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)

    state = subject.algorithm.init(single(begin()))
    arguments = state, single(subject.batches), jax.random.key(0)
    after, info = jax.eval_shape(lambda *a: subject.algorithm.update(*a, **single(extra())), *arguments)
    chex.assert_trees_all_equal_dtypes(after, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(info)} == {np.dtype("float32"), np.dtype("int32")}


def test_a_scan_over_steps_under_vmap_over_seeds_on_two_devices_with_half_batches_is_a_loop(subject: Subject) -> None:
    """As a run does it, in one program."""
    states = [subject.algorithm.init(begin(seed)) for seed in range(3)]
    keys = jax.random.split(jax.random.key(10), (3, 2))
    split = subject.case.make(parallel.mean)

    def halves(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], 2, -1), -2, 0)

    def run(state: bilevel.State, keys: jax.Array, batches: Any) -> Any:
        def step(state: Any, key: jax.Array) -> Any:
            return split.update(state, batches, key, **extra())

        return jax.lax.scan(step, state, keys)

    everywhere = jax.pmap(
        jax.vmap(run, (0, 0, None)), axis_name=parallel.AXIS, devices=jax.devices()[:2], in_axes=(None, None, 0)
    )
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    found = jax.tree.map(np.asarray, everywhere(stacked, keys, jax.tree.map(halves, subject.batches)))
    for seed, state in enumerate(states):
        infos = []
        for key in keys[seed]:
            state, info = subject.update(state, subject.batches, key, **extra())
            infos.append(info)
        wanted = state, jax.tree.map(lambda *x: np.stack(x), *infos)
        for device in range(2):
            chex.assert_trees_all_close(jax.tree.map(lambda x, at=(device, seed): x[at], found), wanted, **CLOSE)


def test_every_argument_and_every_collection_that_is_read_changes_the_result(subject: Subject) -> None:
    state, batches, key = subject.state, subject.batches, jax.random.key(3)
    base = subject.update(state, batches, key, **extra())

    def differs(*arguments: Any, **changed: Any) -> bool:
        return not same_bits(subject.update(*arguments, **{**extra(), **changed}), base)

    assert not differs(state, batches, key)
    assert differs(state, batches, jax.random.key(4)) == subject.case.uses_key
    assert differs(state, batches, key, learning_rate=jnp.asarray(0.1))
    leaves, structure = jax.tree.flatten(batches)
    for number, leaf in enumerate(leaves):
        other = [*leaves]
        other[number] = (leaf + 1) % 4 if leaf.dtype == jnp.int64 else leaf + 0.5
        assert differs(state, jax.tree.unflatten(structure, other), key), f"leaf {number} of the batches"
    for name, optimizer in state.optimizers.items():
        moved = jax.tree.map(lambda x: x + 1, optimizer)
        assert differs(state._replace(optimizers={**state.optimizers, name: moved}), batches, key), name


def test_the_result_depends_on_the_collections_that_are_read_and_on_no_other(subject: Subject) -> None:
    state, key, fresh = subject.state, jax.random.key(3), begin(9)
    base, base_info = subject.update(state, subject.batches, key, **extra())
    for name in state.variables:
        changed = state._replace(variables={**state.variables, name: fresh[name]})
        after, info = subject.update(changed, subject.batches, key, **extra())
        rest = [other for other in state.variables if other != name]
        same = same_bits(
            ({n: after.variables[n] for n in rest}, after.optimizers, info),
            ({n: base.variables[n] for n in rest}, base.optimizers, base_info),
        )
        assert same == (name not in subject.case.reads), name


OTHER = {
    "unrolled": {"steps": 3},
    "finite_difference": {"radius": 0.5},
    "neumann": {"terms": 4, "lr": 0.2, "damping": 0.2},
    "conjugate_gradient": {"iterations": 3, "damping": 0.6},
    "amended": {"eta": 0.2, "damping": 0.2},
}


def estimate(name: str, arguments: dict[str, Any]) -> np.ndarray:
    """α's gradient by an estimator."""
    loss = noisy_loss(DENSE, bilevel.levels.same)
    upper, lower = Level(ALPHA, loss, optax.sgd(1.0)), Level(PARAMS, loss, sgd())
    v = begin()
    samples = [bilevel.Sample(jax.tree.map(jnp.asarray, b), jax.random.key(n)) for n, b in enumerate(BOTH)]
    point = bilevel.Point(v, lower.transform.init(v[PARAMS]), *samples, extra())
    found = bilevel.ESTIMATORS[name](**arguments)
    return np.asarray(found(upper, lower, point, bilevel.levels.same)[0]["normal"])


@pytest.fixture(scope="module")
def estimates() -> dict[str, np.ndarray]:
    """Of every estimator with its arguments in the table."""
    with jax.enable_x64(True):
        return {name: estimate(name, arguments) for name, arguments in ARGUMENTS.items()}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in OTHER.items() for option in options])
def test_every_argument_of_an_estimator_changes_it(name: str, option: str, estimates: Any) -> None:
    found = estimate(name, {**ARGUMENTS[name], option: OTHER[name][option]})
    assert np.abs(found - estimates[name]).max() > 1e-7


def test_rematerialisation_changes_no_result(estimates: Any) -> None:
    found = estimate("unrolled", {**ARGUMENTS["unrolled"], "remat": True})
    np.testing.assert_allclose(found, estimates["unrolled"], rtol=1e-12)


def test_every_estimator_is_in_the_table_and_they_all_differ(estimates: Any) -> None:
    assert set(estimates) == set(bilevel.ESTIMATORS)
    assert len({tuple(found.round(6)) for found in estimates.values()}) == len(estimates)
