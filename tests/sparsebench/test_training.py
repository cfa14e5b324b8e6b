"""The program of all cells is the recipe's on the cell's own network: weights, scores, masks and statistics."""

import dataclasses
import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import sparsity, variables
from dass_jax.architectures.darts import Genotype
from dass_jax.architectures.nasbench201 import of_key
from dass_jax.networks.any_genotype import Fields as Genotypes
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.model import Model
from dass_jax.networks.nasbench201 import nasbench201
from dass_jax.nn.skeletons import Sizes
from dass_jax.recipes import prune, recipe
from dass_jax.sparsebench import sizes, spaces, training
from dass_jax.sparsebench.fields import Fields, Network
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, SCORES, flatten, unflatten

SHAPE, CLASSES = (4, 4, 2), 3
C = Fields(network=Network(cells=1, channels=4))
SPACE = spaces.space_of(C)
FIELDS = prune.Fields(**dataclasses.asdict(C.train))
GENOTYPE = Genotype(
    ((("sep_conv_5x5", 0), ("max_pool_3x3", 1)), (("dil_conv_3x3", 1), ("skip_connect", 2))),
    ((("skip_connect", 0), ("sep_conv_3x3", 1)), (("avg_pool_3x3", 0), ("dil_conv_5x5", 2))),
)


def laid(tree: Any, cell: Any, like: Any, space: spaces.Space = SPACE) -> Any:
    """A tree of the cell's own network where its leaves lie in the one of all cells; the rest as in `like`."""
    found, own = {path: np.array(leaf) for path, leaf in flatten(like).items()}, flatten(tree)
    for path, leaf in found.items():
        for edge, name in space.derived_of(path, cell).items():
            leaf[... if edge is None else edge] = own.pop(name)
    assert not own
    return unflatten(found)


def doubled(tree: Any) -> Any:
    """In float64."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def batch(number: int) -> Batch:
    rng = np.random.default_rng(number)
    return Batch(jnp.asarray(rng.normal(size=(2, 4, 4, 6))), jnp.asarray(rng.integers(CLASSES, size=6)))


def step(own: recipe.Problem, v: Any, masks: Any, batch: Batch) -> Any:
    """The recipe's sparse loss, its gradients by θ and s, and the variables after a step of either."""

    def loss(moving: Any) -> Any:
        return recipe.network_loss(own, lambda v: sparsity.masked_through(v[PARAMS], v[SCORES], masks))(
            {**v, **moving}, batch, jax.random.key(0)
        )

    moving = {name: v[name] for name in (PARAMS, SCORES)}
    (value, (_, updates)), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
    moved = jax.tree.map(lambda x, g: x - 0.3 * g, moving, gradient)
    return value, {**v, **updates, **moved}


@jax.jit
def any_step(cell: Any, v: Any, masks: Any, batch: Batch) -> Any:
    return step(training.problem(SPACE.model(CLASSES, cell), SHAPE, CLASSES, None), v, masks, batch)


def problems(cell: Any, net: Model, keep: float, distribution: Any, space: spaces.Space = SPACE) -> tuple[Any, Any]:
    """The recipe's on the cell's own network, and on that of all cells."""
    kept = sizes.kept(sizes.skeleton(space, CLASSES, SHAPE), cell, keep, distribution)
    every = training.problem(space.model(CLASSES, jnp.asarray(space.numbers(cell))), SHAPE, CLASSES, kept)
    return every._replace(net=net, keep=keep, distribution=distribution, chosen=None), every


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "distribution"), [("341032", "erk"), ("014240", "global")])
def test_steps_are_those_of_the_recipe_on_the_cells_own_network(name: str, distribution: Any) -> None:
    """Loss, gradients by weights and scores, statistics and masks, for three steps of both in float64."""
    cell, keep = of_key(name), 0.2
    number = jnp.asarray(SPACE.numbers(cell))
    own, every = problems(cell, nasbench201(cell, Sizes(CLASSES, 1, 4)), keep, distribution)
    own_step = jax.jit(functools.partial(step, own))
    own_masks, any_masks = (jax.jit(p.masks) for p in (own, every))
    v, first = (doubled(p.net.init(jax.random.key(1), SHAPE)) for p in (own, every))
    w = doubled({collection: laid(tree, cell, first[collection]) for collection, tree in v.items()})
    v, w = (with_scores(p, each) for p, each in ((own, v), (every, w)))
    for examples in map(batch, range(3)):
        masks, laid_masks = own_masks(v[SCORES], v[PARAMS]), any_masks(w[SCORES], w[PARAMS])
        empty = jax.tree.map(np.zeros_like, laid_masks)
        chex.assert_trees_all_equal(laid_masks, laid(masks, cell, empty))
        assert sum(mask.sum() for mask in jax.tree.leaves(masks)) == sparsity.kept_total(
            v[PARAMS], own.stacks(v[PARAMS]), keep
        )
        (value, v), (other, w) = own_step(v, masks, examples), any_step(number, w, laid_masks, examples)
        np.testing.assert_allclose(value, other, rtol=1e-8)
        for collection, tree in v.items():
            found, wanted = flatten(w[collection]), flatten(laid(tree, cell, w[collection]))
            for path in found:
                np.testing.assert_allclose(found[path], wanted[path], rtol=1e-8, atol=1e-10, err_msg=path)
    assert any_step._cache_size() == 1  # for all cells


@pytest.mark.parametrize("distribution", ["layer", "erk", "global"])
def test_masks_of_a_genotype_are_those_of_its_own_network(distribution: Any) -> None:
    """Its gradients are (`tests/networks/test_any_genotype.py`), so that all else is."""
    space = spaces.space_of(Fields(space="darts", network=Genotypes(cells=3, channels=4, nodes=2)))
    net = derived(GENOTYPE, NetworkConfig(CLASSES, cells=3, channels=4, auxiliary=False))
    own, every = problems(GENOTYPE, net, 0.2, distribution, space)
    v, w = (p.net.init(jax.random.key(seed), SHAPE)[PARAMS] for seed, p in enumerate((own, every)))
    w = laid(v, GENOTYPE, w, space)
    masks, found = (jax.jit(p.masks)(variables.select(x, p.stacks(x)), x) for p, x in ((own, v), (every, w)))
    chex.assert_trees_all_equal(found, laid(masks, GENOTYPE, jax.tree.map(np.zeros_like, found), space))


def with_scores(p: recipe.Problem, v: Any) -> Any:
    """The variables with scores of their own order, in float64."""
    stacks = p.stacks(v[PARAMS])
    return {**v, SCORES: sparsity.init_scores(variables.select(v[PARAMS], stacks), stacks)}


def data(train: int, test: int) -> training.Data:
    """Images whose brightness tells their class."""
    rng = np.random.default_rng(0)
    found: list[Any] = []
    for number in (train, test):
        labels = rng.integers(CLASSES, size=number).astype(np.int32)
        found += [(rng.integers(0, 60, (number, *SHAPE)) + 60 * labels[:, None, None, None]).astype(np.uint8), labels]
    return training.Data(*found, np.full(2, 0.4, np.float32), np.full(2, 0.3, np.float32))


def one_layer(classes: int, cell: Any) -> Model:
    """A network that compiles in a moment: one layer, and of two others the one that the cell says."""

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
        weights = jax.random.normal(key, (3, CLASSES, math.prod(image_shape))) / 6
        theta = {"edges": {"weight": weights[1:]}, "linear": {"weight": weights[0], "bias": jnp.zeros(CLASSES)}}
        return {PARAMS: theta, BATCH_STATS: {"seen": jnp.zeros(())}}

    def apply(params: Any, stats: Any, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        weight = params["linear"]["weight"] + params["edges"]["weight"][cell[0]]
        logits = (weight @ images.reshape(-1, images.shape[-1])).T + params["linear"]["bias"]
        return logits, None, {"seen": stats["seen"] + train}

    return Model(init, apply, (0,), ((r"edges/weight", 1), (r".*/weight", 0), (r".*/bias", None)))


def kept_of(edge: int, count: int) -> training.Kept:
    layers = np.zeros((2, CLASSES, 32), np.float32)
    layers[edge] = 1
    counts = np.array([count, 0] if edge == 0 else [0, count], np.int32)
    return training.Kept(
        {"edges": {"weight": layers}, "linear": {"weight": np.ones((CLASSES, 32), np.float32)}},
        {"edges": {"weight": counts}, "linear": {"weight": np.array([9], np.int32)}},
    )


def test_programs_learn_keep_their_counts_and_are_compiled_once() -> None:
    train = dataclasses.replace(C.train, batch_size=16, pretrain_epochs=5, score_epochs=2, finetune_epochs=3)
    c = dataclasses.replace(C, seeds=2, train=train)
    p, d, rates = training.programs(c, one_layer, SHAPE, CLASSES), data(100, 60), training.rates(c)
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    for edge, count in ((0, 20), (1, 5)):
        cell, kept = jnp.full(6, edge), kept_of(edge, count)
        dense = p.dense(cell, keys, rates, d)
        sparse = p.sparse(cell, dense, kept, keys, rates, d)
        assert p.right(cell, dense, d).min() > 40 and p.right(cell, sparse, d).min() > 40  # of 60, 20 by chance
        assert dense[BATCH_STATS]["seen"].tolist() == [30, 30] and sparse[BATCH_STATS]["seen"].tolist() == [60, 60]
        for path, mask in flatten(sparse[MASKS]).items():
            rows = np.asarray(mask).reshape(2, *np.shape(flatten(kept.counts)[path]), -1).sum(-1)
            np.testing.assert_array_equal(rows, np.broadcast_to(flatten(kept.counts)[path], rows.shape))
        # Under the masks only kept weights have moved, and the seeds differ.
        for path, mask in flatten(sparse[MASKS]).items():
            before, after = flatten(dense[PARAMS])[path], flatten(sparse[PARAMS])[path]
            assert (before != after)[np.asarray(mask) == 1].all() and (before == after)[np.asarray(mask) == 0].all()
            assert (after[0] != after[1]).any()
    assert [program._cache_size() for program in p] == [1, 1, 1]


def test_without_epochs_for_them_scores_are_magnitudes() -> None:
    train = dataclasses.replace(C.train, batch_size=16, pretrain_epochs=2, score_epochs=0, finetune_epochs=1)
    c, d, keys = dataclasses.replace(C, seeds=1, train=train), data(40, 20), jnp.stack([jax.random.key(0)])
    p, rates, cell, kept = (
        training.programs(c, one_layer, SHAPE, CLASSES),
        training.rates(c),
        jnp.zeros(6, int),
        kept_of(0, 20),
    )
    dense = p.dense(cell, keys, rates, d)
    mask = np.asarray(p.sparse(cell, dense, kept, keys, rates, d)[MASKS]["linear"]["weight"]).ravel()
    magnitudes = np.abs(np.asarray(dense[PARAMS]["linear"]["weight"])).ravel()
    assert magnitudes[mask == 1].min() > magnitudes[mask == 0].max() and mask.sum() == 9
