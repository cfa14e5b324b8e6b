"""Derived networks: the exact sizes, drop-path edge by edge, the auxiliary head, and the initial values."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import variables
from dass_jax.architectures.darts import PUBLISHED, Cell, Genotype
from dass_jax.networks.derived import DerivedCell, NetworkConfig, derived
from dass_jax.nn.layers import FactorizedReduce, ReLUConvNorm, batch_norm
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.sparsity import kept_total

NORM = batch_norm(train=True, affine=True)
SMALL = Genotype(
    normal=((("skip_connect", 0), ("dil_conv_3x3", 1)), (("max_pool_3x3", 1), ("skip_connect", 2))),
    reduce=((("skip_connect", 0), ("sep_conv_3x3", 1)), (("skip_connect", 2), ("avg_pool_3x3", 1))),
)


def network(name: str) -> Any:
    if name == "supernet":
        return darts(SupernetConfig(cells=8, channels=16))
    return derived(PUBLISHED[name], NetworkConfig(cells=20, channels=36, auxiliary=False))


@pytest.mark.parametrize(
    ("name", "total", "prunable", "kept"),
    [
        ("darts_v2", 3_349_342, 3_308_940, 33_251),
        ("dass_99", 1_713_790, 1_701_468, 17_045),
        ("darts_sparse", 2_118_142, 2_098_476, 21_057),
        ("supernet", 1_930_618, 1_930_512, 19_701),
    ],
)
def test_parameter_counts_are_exact(name: str, total: int, prunable: int, kept: int) -> None:
    model = network(name)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))[variables.PARAMS]
    stacks = variables.prunable(params, model.rules)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == total
    assert sum(count * size for _, count, size in variables.layers(params, stacks)) == prunable
    assert kept_total(params, stacks, 0.01) == kept
    assert kept_total(params, stacks, 1.0) == prunable


def cell_run(cell: Cell, reduction: bool, fill: Any) -> tuple[Any, np.ndarray, np.ndarray, Any]:
    """(path_scale → output, the two preprocessed inputs, parameters) of one cell of 4 channels."""
    rng = np.random.default_rng(0)
    before, previous = rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(2, 4, 4, 2))
    module = DerivedCell(cell, 4, reduction, False, NORM)
    params = fill(jax.eval_shape(lambda: module.init(jax.random.key(0), before, previous))["params"])
    aligned = [
        ReLUConvNorm(4, NORM).apply({"params": params[f"preprocess_{i}"]}, x, mutable=["batch_stats"])[0]
        for i, x in enumerate((before, previous))
    ]

    @jax.jit
    def run(path_scale: Any) -> jax.Array:
        return module.apply({"params": params}, before, previous, path_scale, mutable=["batch_stats"])[0]

    return run, aligned[0], aligned[1], params


@pytest.mark.usefixtures("x64")
def test_zero_path_scale_removes_all_edges_but_the_identities(random_like: Any) -> None:
    cell: Cell = (
        (("sep_conv_3x3", 0), ("skip_connect", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 0)),
        (("dil_conv_5x5", 1), ("avg_pool_3x3", 3)),
        (("skip_connect", 0), ("skip_connect", 3)),
    )
    run, before, previous, _ = cell_run(cell, False, random_like)
    found = run(jnp.zeros((4, 2, 2)))
    wanted = np.concatenate([previous, previous, np.zeros_like(previous), before + previous])
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_skip_that_halves_the_image_is_dropped_and_one_inside_the_cell_is_not(random_like: Any) -> None:
    run, before, _, params = cell_run(SMALL.reduce, True, random_like)
    assert not jnp.any(run(jnp.zeros((2, 2, 2))))
    scale = jnp.zeros((2, 2, 2)).at[0, 0].set(jnp.array([2.0, 0.0]))  # the first edge, in the first image only
    reduce = FactorizedReduce(4, NORM)
    skip, _ = reduce.apply({"params": params["node_0_0_skip_connect"]}, before, mutable=["batch_stats"])
    wanted = np.array(2 * skip)
    wanted[..., 1] = 0
    chex.assert_trees_all_close(run(scale), np.concatenate([wanted, wanted]), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_path_scale_of_ones_is_no_drop_path_and_each_entry_reaches_one_edge(random_like: Any) -> None:
    run, *_ = cell_run(SMALL.normal, False, random_like)
    full = run(None)
    chex.assert_trees_all_close(run(jnp.ones((2, 2, 2))), full, rtol=1e-12, atol=1e-12)
    changed = {}
    for node, pair in np.ndindex(2, 2):
        difference = np.abs(run(jnp.ones((2, 2, 2)).at[node, pair].set(0.5)) - full)
        changed[node, pair] = [bool(part.max() > 1e-9) for part in np.split(difference, 2)]
    # Node 1 reads node 0 through the identity (1, 1), which like (0, 0) does not listen.
    assert changed == {(0, 0): [False, False], (0, 1): [True, True], (1, 0): [False, True], (1, 1): [False, False]}


def test_path_scale_reaches_every_cell_of_the_network() -> None:
    model = derived(SMALL, NetworkConfig(classes=3, cells=3, channels=2, auxiliary=False))
    assert model.paths == (3, 2, 2)
    v = jax.jit(lambda key: model.init(key, (8, 8, 3)))(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))
    run = jax.jit(lambda scale: model.apply(v["params"], v["batch_stats"], images, True, scale)[0])
    full = run(jnp.ones((*model.paths, 4)))
    for cell in range(3):
        assert jnp.abs(run(jnp.ones((*model.paths, 4)).at[cell].set(0.1)) - full).max() > 1e-4, cell


@pytest.mark.parametrize(("stem", "size"), [("cifar", 32), ("imagenet", 224)])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_auxiliary_logits_exist_in_training_only(auxiliary: bool, stem: str, size: int) -> None:
    model = derived(SMALL, NetworkConfig(classes=7, cells=3, channels=4, stem=stem, auxiliary=auxiliary))
    found = jax.eval_shape(lambda: model.init(jax.random.key(0), (size, size, 3)))
    assert ("auxiliary" in found["params"]) == auxiliary
    images = jnp.zeros((3, size, size, 5))
    for train in (True, False):
        logits, extra, statistics = jax.eval_shape(
            lambda v, train=train: model.apply(v["params"], v["batch_stats"], images, train), found
        )
        assert logits.shape == (5, 7)
        assert (None if extra is None else extra.shape) == ((5, 7) if auxiliary and train else None)
        assert statistics.keys() - found["batch_stats"].keys() == set()


def test_evaluation_moves_no_statistics_and_training_moves_all_of_them() -> None:
    model = derived(SMALL, NetworkConfig(classes=3, cells=2, channels=2, auxiliary=False))
    v = jax.jit(lambda key: model.init(key, (8, 8, 3)))(jax.random.key(0))
    images = 2 + jax.random.normal(jax.random.key(1), (3, 8, 8, 4))
    run = jax.jit(lambda train: model.apply(v["params"], v["batch_stats"], images, train)[2], static_argnums=0)
    chex.assert_trees_all_equal(run(False), v["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), run(True), v["batch_stats"])
    assert all(jax.tree.leaves(moved))
    chex.assert_trees_all_equal_shapes_and_dtypes(run(True), v["batch_stats"])


def test_initial_values_are_uniform_within_one_over_root_fan_in_and_norms_are_neutral() -> None:
    model = derived(SMALL, NetworkConfig(classes=10, cells=1, channels=16, auxiliary=False))
    init = jax.jit(lambda key: model.init(key, (8, 8, 3)))
    v, other = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 1))
    stacks = variables.flatten(variables.prunable(v["params"], model.rules))
    for path, leaf in variables.flatten(v["params"]).items():
        assert leaf.dtype == jnp.float32
        if path in stacks:
            bound = variables.fan_in(leaf.shape, stacks[path]) ** -0.5
            assert 0.8 * bound < np.abs(leaf).max() <= bound * (1 + 1e-6), path
            assert float(leaf.std()) == pytest.approx(bound / 3**0.5, rel=0.2), path
            assert (leaf != variables.flatten(other["params"])[path]).any(), path
        else:
            assert (leaf == (1 if path.endswith("scale") else 0)).all(), path
    for path, leaf in variables.flatten(v["batch_stats"]).items():
        assert (leaf == (1 if path.endswith("var") else 0)).all(), path
    drawn = jax.tree.leaves(variables.select(v["params"], variables.unflatten(stacks)))
    values = np.concatenate([np.ravel(leaf) for leaf in drawn])
    assert len(np.unique(values)) > 0.99 * len(values)  # no two leaves share their draws
