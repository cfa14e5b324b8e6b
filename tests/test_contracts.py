"""What every algorithm promises, asked of all of them: a new estimator or method enters the table, and is asked too.

* structure, shapes and dtypes of the state survive an update; collections that it does not train stay the same bits;
* it is traced once, and eager = jit = a scan under vmap over seeds under pmap over two devices;
* every argument of `update`, every collection that it reads and every option of its maker changes some output.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, methods, policies, recipes, relaxation, sparsity, variables
from dass_jax.bilevel import Level
from dass_jax.methods import (
    darts,
    dass,
    dass_joint,
    dass_op,
    dso,
    enas,
    entmax,
    relaxed,
    sampled,
    scas_darts,
    scas_smash,
    smash,
)
from dass_jax.methods.enas import BASELINE, CONTROLLER
from dass_jax.methods.sampled import ARCHITECTURE, CHILD, SAMPLED
from dass_jax.networks.model import Model
from dass_jax.phases import single
from dass_jax.recipes import gradual, prune, recipe
from dass_jax.runtime import parallel
from dass_jax.sparsity import ASIDE, PRUNING, Share
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import accuracy, classification, cross_entropy
from dass_jax.variables import ALPHA, BATCH_STATS, MASKS, PARAMS, RATES, SCORES
from tests import supernets

RELAXATION, CONNECTIONS = entmax.RELAXATION, dso.CONNECTIONS
STACKS = {"first": {"weight": 0}, "second": {"weight": 0}}
RULES = ((r".*/weight", 0), (r".*/bias", None))
KEEP = 0.5
LEARNING_RATES = {"upper": 0.1, "lower": 0.3, "scores": 0.2, PARAMS: 0.3, SCORES: 0.2, CHILD: 0.3, CONTROLLER: 0.1}
"""Of all levels by their names."""
CLOSE = {"rtol": 1e-9, "atol": 1e-12}

PLACES = 8
"""Of a sampled architecture."""

Reduce = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def in_float64(x64: None) -> Iterator[None]:
    """Equal to 1e-9 is not asked of 32-bit floats."""
    yield


def begin(seed: int = 0) -> variables.Variables:
    """Every collection of a network of two layers, six and twelve weights, with four branches to choose from, three of
    which live; a step's rates ask for new masks, which keep fewer weights of odd seeds."""
    rng = np.random.default_rng(seed)
    params = {
        "first": {"weight": rng.normal(size=(3, 2))},
        "second": {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=4)},
    }
    weights = variables.select(params, STACKS)
    kept = {"3x2": Share(4.0 - seed % 2), "4x3": Share(7.0 - seed % 2)}
    v = {
        ALPHA: {"normal": 0.3 * rng.normal(size=(1, 4))},
        PARAMS: params,
        SCORES: jax.tree.map(lambda w: rng.normal(size=w.shape), weights),
        MASKS: jax.tree.map(lambda w: (rng.random(w.shape) < 0.7).astype(float), weights),
        BATCH_STATS: {"seen": rng.normal(size=2)},
        RELAXATION: {"alive": {"normal": np.arange(4)[None] != seed % 4}, "alpha": np.float64(1.5)},
        CONNECTIONS: {"alive": {"normal": np.arange(4)[None] != seed % 4}, "epochs": np.int32(seed)},
        CONTROLLER: {"logits": 0.3 * rng.normal(size=(PLACES, 4))},
        BASELINE: np.float64(0.1 + 0.1 * seed),
        ARCHITECTURE: {"branch": np.zeros(PLACES, np.int32)},
        SAMPLED: {"choices": {"branch": np.zeros((2, PLACES), np.int32)}, "value": np.zeros(2)},
        RATES: {
            "entmax": rng.uniform(1.3, 1.7, ()),
            PRUNING: {"renew": 1.0, "kept": kept},
            smash.GROWTH: np.float64(0.5 + 0.05 * seed),
            smash.SHARE: np.float64(0.7 - 0.05 * seed),
        },
        ASIDE: jax.tree.map(lambda w: rng.normal(size=w.shape), weights),
    }
    return jax.tree.map(jnp.asarray, v)


def batch(seed: int) -> Batch:
    """Images [C 2, H 1, W 1, N 8] of 4 classes."""
    rng = np.random.default_rng(100 + seed)
    return Batch(rng.normal(size=(2, 1, 1, 8)), rng.integers(0, 4, 8))


def network(params: Any, stats: Any, images: jax.Array, reduce: Reduce) -> tuple[jax.Array, Any]:
    """(four branches [4, 4, N] of logits, new statistics), smooth, so that second derivatives exist everywhere."""
    x = images[:, 0, 0]
    hidden = params["first"]["weight"] @ x
    branches = jnp.stack([params["second"]["weight"] @ f(hidden) for f in (jnp.tanh, jnp.sin, jnp.cos, jnp.arctan)])
    seen = 0.9 * stats["seen"] + 0.1 * reduce(x.mean(-1))
    return branches + params["second"]["bias"][:, None], {"seen": seen}


def supernet(reduce: Reduce) -> Callable[..., Any]:
    def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        branches, stats = network(params, stats, images, reduce)
        return jnp.tensordot(choice["normal"][0], branches, 1).T, stats

    return apply


def derived(reduce: Reduce) -> Model:
    def apply(params: Any, stats: Any, images: jax.Array, train: bool, path_scale: Any) -> Any:
        branches, stats = network(params, stats, images, reduce)
        return branches[0].T, branches[1].T, stats

    return Model(lambda key, image_shape: begin(), apply, (), RULES)


def drawn_space(reduce: Reduce) -> Any:
    """The network as a sampled space: all places together say which branch is taken."""

    def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        branches, stats = network(params, stats, images, reduce)
        return branches[choice["branch"].sum() % 4].T, stats

    def score(params: Any, choice: Any) -> policies.Score:
        logp = jax.nn.log_softmax(params["logits"])
        nll = -jnp.take_along_axis(logp, choice["branch"][:, None], 1).sum()
        entropy = jax.lax.stop_gradient(-(jnp.exp(logp) * logp).sum())
        return policies.Score(nll, entropy, (params["logits"] ** 2).sum())

    def sample(params: Any, key: jax.Array) -> Any:
        return {"branch": jax.random.categorical(key, params["logits"]).astype(jnp.int32)}

    def moving(params: Any, choice: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.arange(len(leaf)) != choice["branch"][0], params)

    policy = policies.Policy(lambda key: begin()[CONTROLLER], sample, score)
    return SimpleNamespace(apply=apply, sampled=SimpleNamespace(policy=policy, moving=moving))


def drawing(reduce: Reduce) -> bilevel.Algorithm:
    problem, space = searched(reduce), drawn_space(reduce)
    return single(sampled.child(sampled.Fields(), problem, space, enas.draw(space)), CHILD)


def learning_to_draw(reduce: Reduce) -> bilevel.Algorithm:
    fields = enas.Fields(samples=2, entropy_weight=0.1)
    return single(enas.controller(fields, searched(reduce), drawn_space(reduce)), CONTROLLER)


def written_space(reduce: Reduce) -> Any:
    """The network as a space of which a hyper-network writes the first layer: what is drawn says which branch is taken
    and, with noise, how large what is written is."""

    def draw(key: jax.Array, of_noise: jax.Array, growth: Any) -> Any:
        bits = jax.random.key_data(key).sum()
        noise = jnp.sin((jax.random.key_data(of_noise).sum() % 1000).astype(jnp.result_type(growth)))
        return {"branch": (bits % 4).astype(jnp.int32), "noise": growth * noise}

    def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        size = (1 + 0.1 * choice["noise"]) * choice.get("kept", 1.0)
        written = jax.tree.map(lambda w: w * size, params["first"])
        branches, stats = network({**params, "first": written}, stats, images, reduce)
        return branches[choice["branch"]].T, stats

    written = SimpleNamespace(
        draw=draw,
        decays=lambda params: {"first": {"weight": False}, "second": {"weight": True, "bias": True}},
        kept=lambda choice, share: {**choice, "kept": share},
        windows=RULES,
    )
    return SimpleNamespace(apply=apply, init=lambda key, shape: {PARAMS: begin()[PARAMS]}, written=written)


def writing(schema: type = smash.Fields, **fields: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        c, problem, space = schema(**fields), searched(reduce), written_space(reduce)
        pruning = scas_smash.pruning(c, problem, space) if schema is scas_smash.Fields else None
        return smash.step(c, problem, space, pruning)

    return make


def noisy_loss(weights: relaxed.Weights, reduce: Reduce) -> bilevel.Loss:
    """The supernet's loss under noise made of the key's own bits (the same on all devices): a random number generator
    would be most of what is compiled."""

    def loss(v: Any, b: Batch, key: jax.Array) -> Any:
        logits, stats = supernet(reduce)(weights(v), v[BATCH_STATS], relaxation.softmax(v[ALPHA]), b.images, True)
        noise = jnp.sin((jax.random.key_data(key).sum() % 1000 + jnp.arange(4)).astype(logits.dtype))
        logits = logits * (1 + 0.1 * noise)
        return cross_entropy(logits, b.targets), ({"accuracy": accuracy(logits, b.targets)}, {BATCH_STATS: stats})

    return loss


DENSE, SPARSE = relaxed.dense_weights, dass.sparse_weights(STACKS, KEEP)
BOTH = {"upper": batch(0), "lower": batch(1)}
SEVERAL = {"upper": batch(0), "lower": jax.tree.map(lambda *x: np.stack(x), batch(1), batch(2))}
BELOW = {"lower": batch(0)}


class Case(NamedTuple):
    """One algorithm."""

    make: Callable[[Reduce], bilevel.Algorithm]
    batches: Any
    levels: dict[str, str]
    """The levels that take a learning rate, each with the collection that it trains."""
    reads: set[str]
    """Collections on which the rest of the result depends."""
    uses_key: bool = True
    renews: frozenset[str] = frozenset()
    """Collections that no level trains, and that an update writes anew."""
    running: bool = True
    """Whether running statistics move."""


def sgd(level: str) -> optax.GradientTransformation:
    return bilevel.with_rate(bilevel.sgd(0.9, 0.01, 5.0), level)


def adam(level: str) -> optax.GradientTransformation:
    return bilevel.with_rate(bilevel.adam(0.5, 0.999, 1e-3), level)


def alternation(hypergradient: Any, collection: str = PARAMS, weights: Any = DENSE, **options: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = noisy_loss(weights, reduce)
        upper, lower = Level(ALPHA, loss, adam("upper")), Level(collection, loss, sgd("lower"))
        return bilevel.alternate(upper, lower, hypergradient, reduce=reduce, **options)

    return make


def accumulating(hypergradient: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = bilevel.accumulated(noisy_loss(DENSE, reduce), 2)
        upper, lower = Level(ALPHA, loss, adam("upper")), Level(PARAMS, loss, sgd("lower"))
        return bilevel.alternate(upper, lower, hypergradient, reduce=reduce, cosine=True)

    return make


def searched(reduce: Reduce, hypergradient: Any = None) -> methods.Problem:
    space = SimpleNamespace(apply=supernet(reduce))
    given = {"hypergradient": hypergradient} if hypergradient else {}
    return supernets.problem(space, 4, (1, 1, 2), keep=KEEP, average=reduce, **given)


def in_three_turns(reduce: Reduce) -> bilevel.Algorithm:
    return dass.in_three_turns(noisy_loss(SPARSE, reduce), dass_joint.Fields(cosine=True), searched(reduce))


def under_fixed_masks(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(sparsity.masked_weights, reduce)
    return dass_op.step(loss, relaxed.Bilevel(), searched(reduce, bilevel.unrolled(2)))


def single_level(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(DENSE, reduce)
    return bilevel.joint(
        {"upper": Level(ALPHA, loss, adam("upper")), "lower": Level(PARAMS, loss, sgd("lower"))}, reduce
    )


def several_steps(reduce: Reduce) -> bilevel.Algorithm:
    loss = noisy_loss(DENSE, reduce)
    lower = Level(PARAMS, loss, sgd("lower"), steps=2)
    return bilevel.alternate(Level(ALPHA, loss, adam("upper")), lower, bilevel.unrolled(3), reduce=reduce)


def dass_step(collection: str, weights: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        problem = searched(reduce)
        loss = relaxed.supernet_loss(supernet(reduce), problem.task, relaxed.softmax_choice, weights)
        return darts.step(collection, loss, relaxed.Bilevel(cosine=True), problem)

    return make


def removing(**fields: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        problem = searched(reduce, bilevel.unrolled(1))
        return entmax.step(entmax.Fields(**fields), problem, problem.space())

    return make


def optimising(**fields: Any) -> Any:
    costs = {"uniform": jnp.ones_like, "flops": lambda factor: 1 + factor**2}

    def make(reduce: Reduce) -> bilevel.Algorithm:
        tables = {name: lambda choice, cost=cost: jax.tree.map(cost, choice) for name, cost in costs.items()}
        space = SimpleNamespace(apply=supernet(reduce), costs=tables)
        return dso.step(dso.Fields(**fields), searched(reduce), space)

    return make


def pruned(hypergradient: Any = None, **fields: Any) -> Any:
    def make(reduce: Reduce) -> bilevel.Algorithm:
        loss = noisy_loss(sparsity.masked_weights, reduce)
        return scas_darts.step(loss, scas_darts.Fields(**fields), searched(reduce, hypergradient), RULES)

    return make


def trained(make: Any, schema: type = prune.Fields, **fields: Any) -> Any:
    def of(reduce: Reduce) -> bilevel.Algorithm:
        problem = recipes.Problem(
            net=derived(reduce),
            task=classification(4),
            image_shape=(1, 1, 2),
            keep=KEEP,
            average=reduce,
            auxiliary_weight=0.4,
            drop_path=0.0,
            name="",
        )
        return make(schema(**fields), problem)

    return of


ARGUMENTS: dict[str, dict[str, Any]] = {
    "first_order": {},
    "unrolled": {"steps": 2},
    "finite_difference": {"radius": 1e-3},
    "neumann": {"terms": 3, "lr": 0.1, "damping": 0.1},
    "conjugate_gradient": {"iterations": 2, "damping": 0.5},
    "amended": {"eta": 0.1, "damping": 0.1},
}
"""For every estimator."""

PRUNED_PARTS, WITH_ASIDE = {ALPHA, PARAMS, MASKS, RATES}, {ALPHA, PARAMS, MASKS, RATES, ASIDE}
STACKED = jax.tree.map(lambda *x: np.stack(x), batch(1), batch(2))
DENSE_PARTS, SPARSE_PARTS, LIVING_PARTS = {ALPHA, PARAMS}, {ALPHA, PARAMS, SCORES}, {ALPHA, PARAMS, RELAXATION}
OPTIMISED_PARTS = {ALPHA, PARAMS, CONNECTIONS}
THETA, SCORED = {"upper": ALPHA, "lower": PARAMS}, {"upper": ALPHA, "lower": SCORES}
TABLE = {
    **{
        f"{name}, θ below": Case(
            alternation(bilevel.ESTIMATORS[name](**arguments), cosine=True), BOTH, THETA, DENSE_PARTS
        )
        for name, arguments in ARGUMENTS.items()
    },
    **{
        f"{name}, s below": Case(
            alternation(bilevel.ESTIMATORS[name](**arguments), SCORES, SPARSE), BOTH, SCORED, SPARSE_PARTS
        )
        for name, arguments in ARGUMENTS.items()
    },
    "lower first": Case(alternation(None, order="lower_first"), BOTH, THETA, DENSE_PARTS),
    "several lower steps": Case(several_steps, SEVERAL, THETA, DENSE_PARTS),
    "joint": Case(single_level, batch(0), THETA, DENSE_PARTS),
    "unrolled, accumulated": Case(accumulating(bilevel.unrolled(2)), BOTH, THETA, DENSE_PARTS),
    "conjugate gradient, accumulated": Case(accumulating(bilevel.conjugate_gradient(2, 0.5)), BOTH, THETA, DENSE_PARTS),
    "dass, step 1": Case(dass_step(PARAMS, DENSE), BOTH, THETA, DENSE_PARTS, uses_key=False),
    "dass, step 2": Case(dass_step(SCORES, SPARSE), BOTH, SCORED, SPARSE_PARTS, uses_key=False),
    "dass_joint": Case(in_three_turns, BOTH, {**THETA, "scores": SCORES}, SPARSE_PARTS),
    "dass_op": Case(under_fixed_masks, BOTH, THETA, {*DENSE_PARTS, MASKS}),
    "entmax": Case(removing(entmax=1.5), BELOW, THETA, LIVING_PARTS, uses_key=False),
    "entmax, accumulated": Case(removing(entmax=1.5, accumulate=2), BELOW, THETA, LIVING_PARTS, uses_key=False),
    "entmax, bi-level": Case(removing(entmax=1.5, bilevel=True), BOTH, THETA, LIVING_PARTS, uses_key=False),
    "entmax, removal per step": Case(removing(entmax=1.5, removal="step"), BELOW, THETA, LIVING_PARTS, uses_key=False),
    "entmax, rising": Case(removing(entmax=1.3, entmax_end=1.7), BELOW, THETA, {*LIVING_PARTS, RATES}, uses_key=False),
    "dso, by cost": Case(optimising(budget="flops", form="prox"), BOTH, THETA, OPTIMISED_PARTS, uses_key=False),
    "dso, two steps of w": Case(optimising(weight_steps=2), SEVERAL, THETA, OPTIMISED_PARTS, uses_key=False),
    "scas_darts": Case(pruned(), BOTH, THETA, PRUNED_PARTS, renews=frozenset({MASKS})),
    "scas_darts, unrolled, with regrowth": Case(
        pruned(bilevel.unrolled(1), regrow=True), BOTH, THETA, WITH_ASIDE, renews=frozenset({MASKS, ASIDE})
    ),
    "gradual": Case(
        trained(gradual.train_weights, gradual.Fields, nesterov=True),
        {PARAMS: batch(0)},
        {PARAMS: PARAMS},
        {PARAMS, MASKS, RATES},
        uses_key=False,
        renews=frozenset({MASKS}),
    ),
    "enas, child": Case(
        drawing, {CHILD: batch(0)}, {CHILD: PARAMS}, {PARAMS, CONTROLLER}, renews=frozenset({ARCHITECTURE})
    ),
    "enas, controller": Case(
        learning_to_draw,
        {CONTROLLER: STACKED},
        {CONTROLLER: CONTROLLER},
        {PARAMS, CONTROLLER, BASELINE},
        renews=frozenset({BASELINE, SAMPLED}),
        running=False,
    ),
    "smash": Case(writing(), {PARAMS: batch(0)}, {PARAMS: PARAMS}, {PARAMS, RATES}),
    "scas_smash, shared windows too": Case(
        writing(scas_smash.Fields, prune_shared=True),
        {PARAMS: batch(0)},
        {PARAMS: PARAMS},
        {PARAMS, MASKS, RATES},
        renews=frozenset({MASKS}),
    ),
    "train weights": Case(
        trained(recipe.train_weights), {PARAMS: batch(0)}, {PARAMS: PARAMS}, {PARAMS, MASKS}, uses_key=False
    ),
    "train weights, accumulated": Case(
        trained(recipe.train_weights, accumulate=2),
        {PARAMS: batch(0)},
        {PARAMS: PARAMS},
        {PARAMS, MASKS},
        uses_key=False,
    ),
    "learn scores": Case(
        trained(prune.learn_scores), {SCORES: batch(0)}, {SCORES: SCORES}, {SCORES, PARAMS}, uses_key=False
    ),
    "learn scores, accumulated": Case(
        trained(prune.learn_scores, accumulate=2),
        {SCORES: batch(0)},
        {SCORES: SCORES},
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
    traces: list[set[str]]
    """Each time that it was traced: the collections that left as the very same arrays."""
    batches: Any
    state: bilevel.State
    """After one update: no optimizer state is zero then."""


def extra(**changed: float) -> dict[str, Any]:
    """What `update` takes by keyword, with other learning rates for the named levels."""
    return {"learning_rate": {name: jnp.asarray(rate) for name, rate in {**LEARNING_RATES, **changed}.items()}}


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    return {}


@pytest.fixture(params=TABLE)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return prepared(request.param, subjects)


def prepared(name: str, subjects: dict[str, Subject]) -> Subject:
    if name not in subjects:
        case = TABLE[name]
        algorithm, traces = case.make(bilevel.levels.same), []

        def update(state: bilevel.State, *arguments: Any, **options: Any) -> Any:
            after, info = algorithm.update(state, *arguments, **options)
            traces.append({name for name, value in state.variables.items() if after.variables[name] is value})
            return after, info

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


def test_an_update_touches_its_own_collections_only(subject: Subject) -> None:
    state = subject.state
    after, info = subject.update(state, subject.batches, jax.random.key(1), **extra())
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_structs(after, state)
    (untouched,) = subject.traces
    for name in state.variables:
        if name in {*subject.case.levels.values(), *([BATCH_STATS] if subject.case.running else [])}:
            assert not same_bits(after.variables[name], state.variables[name]), name
        elif name == RELAXATION in subject.case.reads:
            assert same_bits(after.variables[name], state.variables[name]), name  # noted anew
        elif name in subject.case.renews:
            assert name not in untouched, name
        else:
            assert name in untouched, name
    assert all(np.isfinite(leaf).all() and np.ndim(leaf) == 0 for leaf in jax.tree.leaves(info))


@pytest.mark.parametrize("name", [name for name in TABLE if not name.endswith(("s below", "accumulated"))])
def test_an_eager_update_is_the_compiled_one(name: str, subjects: dict[str, Subject]) -> None:
    """Of every composition and every estimator once: op by op they take long."""
    subject = prepared(name, subjects)
    found, wanted = (
        update(subject.state, subject.batches, jax.random.key(1), **extra())
        for update in (subject.algorithm.update, subject.update)
    )
    chex.assert_trees_all_close(found, wanted, **CLOSE)
    for collection in subject.traces[0]:
        assert found[0].variables[collection] is subject.state.variables[collection]


def test_in_32_bits_nothing_becomes_64(subject: Subject) -> None:
    def single(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)

    state = subject.algorithm.init(single(begin()))
    arguments = state, single(subject.batches), jax.random.key(0)
    after, info = jax.eval_shape(lambda *a: subject.algorithm.update(*a, **single(extra())), *arguments)
    chex.assert_trees_all_equal_dtypes(after, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(info)} == {np.dtype("float32"), np.dtype("int32")}


ON_DEVICES = {name for name in TABLE if not name.endswith(("s below", "accumulated"))}
ON_DEVICES |= {"unrolled, s below", "unrolled, accumulated", "train weights, accumulated"}
"""Every composition and every estimator once, and once with scores below, with a second-order and with a plain gradient
that is accumulated: means over devices are taken of what an estimator sees, whatever the level's collection."""


@pytest.mark.parametrize("name", [name for name in TABLE if name in ON_DEVICES])
def test_scans_of_several_seeds_on_two_devices_with_half_of_each_batch_are_loops_on_one(
    name: str, subjects: dict[str, Subject]
) -> None:
    """As a run composes them: a scan over steps, mapped over seeds, mapped over devices."""
    subject = prepared(name, subjects)
    states = [subject.algorithm.init(begin(seed)) for seed in range(3)]
    keys, split = jax.random.split(jax.random.key(10), (3, 2)), subject.case.make(parallel.mean)

    def halves(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], 2, -1), -2, 0)

    def run(states: bilevel.State, batches: Any) -> Any:
        def step(state: Any, key: jax.Array) -> Any:
            return split.update(state, batches, key, **extra())

        return jax.vmap(lambda state, keys: jax.lax.scan(step, state, keys))(states, keys)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    mapped = jax.pmap(run, axis_name=parallel.AXIS, devices=jax.devices()[:2], in_axes=(None, 0))
    found = mapped(stacked, jax.tree.map(halves, subject.batches))
    for seed, state in enumerate(states):
        infos = []
        for key in keys[seed]:
            state, info = subject.update(state, subject.batches, key, **extra())
            infos.append(info)
        wanted = state, jax.tree.map(lambda *x: jnp.stack(x), *infos)
        for device in range(2):
            chex.assert_trees_all_close(jax.tree.map(lambda x, i=(device, seed): x[i], found), wanted, **CLOSE)


def test_every_argument_and_every_collection_that_is_read_changes_the_result(subject: Subject) -> None:
    state, batches, key = subject.state, subject.batches, jax.random.key(3)
    base = subject.update(state, batches, key, **extra())

    def differs(*arguments: Any, **changed: float) -> bool:
        return not same_bits(subject.update(*arguments, **extra(**changed)), base)

    assert not differs(state, batches, key)
    assert differs(state, batches, jax.random.key(4)) == subject.case.uses_key
    for name in LEARNING_RATES:
        assert differs(state, batches, key, **{name: 0.05}) == (name in subject.case.levels), name
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
    upper, lower = Level(ALPHA, loss, optax.sgd(1.0)), Level(PARAMS, loss, sgd("lower"))
    v = begin()
    samples = [bilevel.Sample(jax.tree.map(jnp.asarray, b), jax.random.key(n)) for n, b in enumerate(BOTH.values())]
    point = bilevel.Point(v, lower.transform.init(v[PARAMS]), *samples, extra())
    found = bilevel.ESTIMATORS[name](**arguments)
    return np.asarray(jax.jit(lambda p: found(upper, lower, p, bilevel.levels.same)[0]["normal"])(point))


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
    assert len({tuple(found.ravel().round(6)) for found in estimates.values()}) == len(estimates)
