"""Activations in bfloat16: what is narrower, what stays float32, and how near the results are."""

import functools
import re
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from dass_jax import bilevel, relaxation, variables
from dass_jax.architectures.darts import Cell, Genotype, edges
from dass_jax.bilevel import levels
from dass_jax.methods import darts, dass, relaxed
from dass_jax.networks.derived import Model, Network, NetworkConfig, derived
from dass_jax.nn import kernels
from dass_jax.nn.layers import BatchNorm
from dass_jax.spaces.darts import Space, Supernet, SupernetConfig
from dass_jax.spaces.darts import darts as darts_space
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification, cross_entropy
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, SCORES, Variables
from tests import supernets

WIDE, NARROW = jnp.float32, jnp.bfloat16
SUPERNET = SupernetConfig(classes=3, cells=1, channels=4, nodes=1)
NETWORK = NetworkConfig(classes=3, cells=2, channels=4)
CELL: Cell = (
    (("max_pool_3x3", 0), ("sep_conv_3x3", 1)),
    (("dil_conv_5x5", 2), ("skip_connect", 0)),
    (("avg_pool_3x3", 1), ("sep_conv_5x5", 3)),
)
IMAGE = (32, 32, 3)
"""The auxiliary head's size."""


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def batch(size: int) -> Batch:
    return Batch(noise(3, size, size, 16), jnp.arange(16) % 3)


def supernet(dtype: Any, sizes: SupernetConfig = SUPERNET, live: Any = supernets.EACH_KIND) -> tuple[Space, Variables]:
    space = darts_space(sizes, dtype=dtype, live=live)
    alpha = {name: noise(*choice.shape) for name, choice in space.choices.items()}
    return space, {**jax.jit(lambda key: space.init(key, (12, 12, 3)))(jax.random.key(0)), ALPHA: alpha}


def network(dtype: Any) -> tuple[Model, Variables]:
    model = derived(Genotype(CELL, CELL), NETWORK, dtype=dtype)
    return model, jax.jit(lambda key: model.init(key, IMAGE))(jax.random.key(0))


def supernet_loss(space: Space, weights: relaxed.Weights) -> bilevel.Loss:
    return relaxed.supernet_loss(space.apply, classification(3), relaxed.softmax_choice, weights)


def supernet_gradients(dtype: Any) -> Any:
    """(loss, {collection: gradient})."""
    space, v = supernet(dtype)
    loss, sample = supernet_loss(space, relaxed.dense_weights), bilevel.Sample(batch(12), None)
    found, (value, _) = jax.jit(lambda v: levels.gradients(loss, v, (ALPHA, PARAMS), sample))(v)
    return value, found


def network_gradients(dtype: Any) -> Any:
    model, v = network(dtype)
    images, targets, *_ = batch(32)
    scale = jnp.full((*model.paths, 16), 1.1)

    @jax.jit
    def run(params: Any) -> Any:
        logits, auxiliary, _ = model.apply(params, v[BATCH_STATS], images, True, scale)
        return cross_entropy(logits, targets) + 0.4 * cross_entropy(auxiliary, targets)

    value, found = jax.value_and_grad(run)(v[PARAMS])
    return value, {PARAMS: found}


def cosine(one: Any, other: Any) -> float:
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.fixture(scope="module")
def in_float32() -> dict[Any, Any]:
    """Of each function its result in float32, which does not depend on the form (tests/spaces/test_forms.py)."""
    return {function: function(WIDE) for function in (supernet_gradients, network_gradients)}


@pytest.mark.parametrize("form", ["for a CPU", "library"])
@pytest.mark.parametrize(("gradients", "similar"), [(supernet_gradients, 0.99), (network_gradients, 0.98)])
def test_loss_and_gradients_are_near_those_of_float32_and_in_float32(
    monkeypatch: pytest.MonkeyPatch, in_float32: dict[Any, Any], gradients: Any, similar: float, form: str
) -> None:
    """The network's gradients are sensitive: rounding only its weights and images to bfloat16 gives 0.996."""
    if form == "library":
        monkeypatch.setattr(kernels, "form", lambda x: kernels.library)
    (value, found), (wanted_value, wanted) = gradients(NARROW), in_float32[gradients]
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(wanted)} == {jnp.dtype(jnp.float32)}
    assert value != wanted_value
    assert float(value) == pytest.approx(float(wanted_value), rel=2e-3)
    for collection in wanted:
        assert similar < cosine(found[collection], wanted[collection]) < 0.99999


BATCHES = {"upper": batch(12), "lower": batch(12)}


def search_step(space: Space, collection: str, weights: relaxed.Weights, hypergradient: Any) -> bilevel.Algorithm:
    """With its learning rates."""
    problem = supernets.problem(space, 3, (12, 12, 3), hypergradient=hypergradient)
    step = darts.step(collection, supernet_loss(space, weights), relaxed.Bilevel(), problem)
    rates = {level: jnp.float32(0.1) for level in BATCHES}
    return step._replace(update=functools.partial(step.update, learning_rate=rates))


@pytest.mark.parametrize("collection", [PARAMS, SCORES])
@pytest.mark.parametrize("hypergradient", [bilevel.first_order(), bilevel.unrolled(1)], ids=["first order", "unrolled"])
def test_a_search_step_leaves_every_variable_and_optimizer_in_its_dtype(collection: str, hypergradient: Any) -> None:
    space, v = supernet(NARROW)
    stacks = variables.prunable(v[PARAMS], space.rules)
    weights = {PARAMS: relaxed.dense_weights, SCORES: dass.sparse_weights(stacks, 0.5)}[collection]
    step = search_step(space, collection, weights, hypergradient)
    before = step.init(dass.with_scores(v, stacks))
    after, info = jax.eval_shape(step.update, before, BATCHES, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    assert {leaf.dtype for leaf in jax.tree.leaves(info)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}


def test_a_second_order_step_can_be_lowered_for_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    space, v = supernet(NARROW, live=None)
    step = search_step(space, PARAMS, relaxed.dense_weights, bilevel.unrolled(1))
    lowered = export.export(jax.jit(step.update), platforms=("cuda", "tpu"))(
        *jax.eval_shape(lambda: (step.init(v), BATCHES, jax.random.key(0)))
    )
    module = lowered.mlir_module()
    # The first cell has two sources of eight channels; what reads a source is in its channels' groups.
    assert "feature_group_count = 16 " in module and "reduce_window" in module and "select_and_scatter" not in module


def outputs(module: nn.Module, *arguments: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """What each module inside hands on, by its path."""
    run = functools.partial(
        module.apply, train=True, capture_intermediates=True, mutable=["intermediates", BATCH_STATS]
    )
    _, found = jax.eval_shape(run, *arguments)
    leaves = jax.tree_util.tree_leaves_with_path(found["intermediates"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


EVERYTHING = tuple((True,) * len(SUPERNET.operations) for _ in edges(SUPERNET.nodes))
"""All operations of a cell live."""


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
def test_images_are_kept_in_the_dtype_asked_for_and_sums_and_logits_in_float32(dtype: Any) -> None:
    sizes = SUPERNET._replace(cells=2)
    (_, v), (_, w) = supernet(dtype, sizes, live=None), network(dtype)
    weights = relaxation.softmax(v[ALPHA])
    modules = (
        (
            Supernet(sizes, (EVERYTHING, EVERYTHING), dtype=dtype, name="supernet"),
            {PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS]},
            noise(3, 12, 12, 7),
            weights,
        ),
        (Network(Genotype(CELL, CELL), NETWORK, dtype=dtype), w, noise(3, *IMAGE[:2], 7)),
    )
    for module, *arguments in modules:
        found = outputs(module, *arguments)
        images = {path for path, leaf in found.items() if leaf.ndim >= 4 and leaf.shape[-1] == 7}
        edges = {path for path in images if re.search(r"edges_\d+/__call__", path)}
        assert len(images - edges) > 15 and bool(edges) == (module.name == "supernet")
        assert {found[path].dtype for path in images - edges} == {jnp.dtype(dtype)}
        # Weights, logits, and what the edges add to a node.
        assert {found[path].dtype for path in edges | (found.keys() - images)} == {jnp.dtype(jnp.float32)}


def test_statistics_of_bfloat16_activations_are_those_of_float32() -> None:
    x = (3 + noise(4, 8, 8, 64)).astype(NARROW)  # 4,096 numbers of one sign: a sum in bfloat16 would stop at about 256
    # The variance is the mean square, ten times as large here, less the mean's square: it has a digit less.
    norm = BatchNorm(train=True, affine=True, momentum=0.0)
    v = norm.init(jax.random.key(0), x)
    y, updates = norm.apply(v, x, mutable=[BATCH_STATS])
    exact = np.asarray(x, np.float64)
    for name, wanted in (("mean", exact.mean((1, 2, 3))), ("var", exact.var((1, 2, 3)))):
        assert updates[BATCH_STATS][name].dtype == jnp.float32
        np.testing.assert_allclose(updates[BATCH_STATS][name], wanted, rtol=1e-6 if name == "mean" else 1e-4)
    assert y.dtype == NARROW
    assert norm.clone(train=False).apply({**v, **updates}, x).dtype == NARROW


def test_the_gradient_through_statistics_is_that_of_float32_rounded() -> None:
    x, g = (3 + noise(4, 8, 8, 64)).astype(NARROW), (1 + noise(4, 8, 8, 64, seed=1)).astype(NARROW)
    norm = BatchNorm(train=True, affine=False)

    def pulled(x: jax.Array, g: jax.Array) -> jax.Array:
        v = norm.init(jax.random.key(0), x)
        return jax.vjp(lambda x: norm.apply(v, x, mutable=[BATCH_STATS])[0], x)[1](g)[0]

    found, wanted = pulled(x, g), pulled(x.astype(WIDE), g.astype(WIDE))
    assert found.dtype == NARROW
    np.testing.assert_allclose(np.float32(found), wanted, rtol=0.01, atol=0.01)
