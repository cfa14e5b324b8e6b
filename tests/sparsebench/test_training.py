"""The program of all cells is the recipe's on the cell's own network: weights, scores, masks and statistics."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import sparsity, variables
from dass_jax.architectures.nasbench201 import Cell, of_key
from dass_jax.networks.any_cell import numbers, of_derived
from dass_jax.networks.nasbench201 import nasbench201
from dass_jax.nn.skeletons import Sizes
from dass_jax.recipes import prune, recipe
from dass_jax.sparsebench import sizes, training
from dass_jax.sparsebench.fields import Fields, Network
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, SCORES, flatten, unflatten

SHAPE, CLASSES = (4, 4, 2), 3
C = Fields(network=Network(cells=1, channels=4))
SIZES = Sizes(CLASSES, 1, 4)
WHOLE = sizes.skeleton(SIZES, SHAPE)
FIELDS = prune.Fields(**dataclasses.asdict(C.train))


def laid(tree: Any, cell: Cell, like: Any) -> Any:
    """A tree of the cell's own network where its leaves lie in the one of all cells; the rest as in `like`."""
    found = {path: np.array(leaf) for path, leaf in flatten(like).items()}
    for path, leaf in flatten(tree).items():
        name, edge = of_derived(path, cell)
        found[name][... if edge is None else edge] = leaf
    return unflatten(found)


def doubled(tree: Any) -> Any:
    """In float64."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def evaluated(p: recipe.Problem, v: Any) -> jax.Array:
    return p.net.apply(sparsity.masked_weights(v), v[BATCH_STATS], batch(6).images, False)[0]


def batch(number: int) -> Batch:
    rng = np.random.default_rng(number)
    return Batch(jnp.asarray(rng.normal(size=(2, 4, 4, 6))), jnp.asarray(rng.integers(CLASSES, size=6)))


@jax.jit
def any_theta(cell: Any, state: Any, batch: Batch) -> Any:
    algorithm = recipe.train_weights(FIELDS, training.problem(C, SHAPE, CLASSES, cell, None))
    return algorithm.update(state, {PARAMS: batch}, jax.random.key(0), learning_rate={PARAMS: jnp.asarray(0.1)})


@jax.jit
def any_scores(cell: Any, kept: Any, state: Any, batch: Batch) -> Any:
    algorithm = prune.learn_scores(FIELDS, training.problem(C, SHAPE, CLASSES, cell, kept))
    return algorithm.update(state, {SCORES: batch}, jax.random.key(0), learning_rate={SCORES: jnp.asarray(0.3)})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "distribution"), [("341032", "erk"), ("013240", "global"), ("230413", "layer")])
def test_steps_of_all_stages_are_those_of_the_recipe_on_the_cells_own_network(name: str, distribution: Any) -> None:
    cell, keep = of_key(name), 0.2
    number, kept = jnp.asarray(numbers(cell)), sizes.kept(WHOLE, cell, keep, distribution)
    every = training.problem(C, SHAPE, CLASSES, number, kept)
    own = every._replace(net=nasbench201(cell, SIZES), keep=keep, distribution=distribution, chosen=None)
    theta, scores = recipe.train_weights(FIELDS, own), prune.learn_scores(FIELDS, own)

    def theta_step(state: Any, batch: Batch) -> Any:
        return theta.update(state, {PARAMS: batch}, jax.random.key(0), learning_rate={PARAMS: jnp.asarray(0.1)})

    def score_step(state: Any, batch: Batch) -> Any:
        return scores.update(state, {SCORES: batch}, jax.random.key(0), learning_rate={SCORES: jnp.asarray(0.3)})

    theta_step, score_step = jax.jit(theta_step), jax.jit(score_step)
    wide = doubled(recipe.fresh(own, jax.random.key(1)))
    first = recipe.fresh(every, jax.random.key(2))
    begun = doubled({name: laid(wide[name], cell, first[name]) for name in wide})
    ordinary, one = theta.init(wide), recipe.train_weights(FIELDS, every).init(begun)

    def both(steps: tuple[int, ...], own_step: Any, any_step: Any) -> None:
        nonlocal ordinary, one
        for step in steps:
            (ordinary, info), (one, other) = own_step(ordinary, batch(step)), any_step(one, batch(step))
            (level,) = info
            np.testing.assert_allclose(info[level].loss, other[level].loss, rtol=1e-8)
            np.testing.assert_allclose(info[level].gradient_norm, other[level].gradient_norm, rtol=1e-8)
        for name, tree in ordinary.variables.items():
            found, wanted = flatten(one.variables[name]), flatten(laid(tree, cell, one.variables[name]))
            for path in found:
                np.testing.assert_allclose(found[path], wanted[path], rtol=1e-8, atol=1e-10, err_msg=path)

    both((0, 1), theta_step, lambda state, b: any_theta(number, state, b))
    ordinary = prune.begin_scores(ordinary.variables, scores, own)
    one = prune.begin_scores(one.variables, prune.learn_scores(FIELDS, every), every)
    both((2, 3), score_step, lambda state, b: any_scores(number, kept, state, b))
    ordinary, one = (
        algorithm.init(prune.pruned(state.variables, p))
        for algorithm, state, p in ((theta, ordinary, own), (recipe.train_weights(FIELDS, every), one, every))
    )
    masks = one.variables[MASKS]
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(masks)) == sparsity.kept_total(
        ordinary.variables[PARAMS], own.stacks(ordinary.variables[PARAMS]), keep
    )
    assert all((mask <= layers).all() for mask, layers in zip(*map(jax.tree.leaves, (masks, kept.layers)), strict=True))
    both((4, 5), theta_step, lambda state, b: any_theta(number, state, b))
    # In evaluation too, by the running averages.
    outputs = [evaluated(p, state.variables) for p, state in ((own, ordinary), (every, one))]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-7, atol=1e-9)


def test_one_program_serves_all_cells() -> None:
    assert any_theta._cache_size() == 1 and any_scores._cache_size() <= 2


def data(train: int, test: int) -> training.Data:
    """Images whose brightness tells their class."""
    rng = np.random.default_rng(0)
    found: list[Any] = []
    for number in (train, test):
        labels = rng.integers(CLASSES, size=number).astype(np.int32)
        found += [(rng.integers(0, 60, (number, *SHAPE)) + 60 * labels[:, None, None, None]).astype(np.uint8), labels]
    return training.Data(*found, np.full(2, 0.4, np.float32), np.full(2, 0.3, np.float32))


def test_programs_learn_keep_their_counts_and_are_compiled_once() -> None:
    train = dataclasses.replace(C.train, batch_size=16, pretrain_epochs=6, score_epochs=2, finetune_epochs=3)
    c = dataclasses.replace(C, seeds=2, train=train)
    p, d, rates = training.programs(c, SHAPE, CLASSES), data(96, 60), training.rates(c)
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    for name, distribution in (("341032", "erk"), ("013240", "layer")):
        cell = of_key(name)
        number, kept = jnp.asarray(numbers(cell)), sizes.kept(WHOLE, cell, 0.3, distribution)
        dense = p.dense(number, keys, rates, d)
        sparse = p.sparse(number, dense, kept, keys, rates, d)
        assert p.right(number, dense, d).min() > 40 and p.right(number, sparse, d).min() > 30  # of 60, 20 by chance
        counts = variables.flatten(kept.counts)
        for path, mask in flatten(sparse[MASKS]).items():
            rows = np.asarray(mask).reshape(2, len(counts[path]), -1).sum(-1)
            np.testing.assert_array_equal(rows, np.broadcast_to(counts[path], rows.shape))
        first, second = (np.concatenate([np.ravel(x[n]) for x in jax.tree.leaves(sparse[PARAMS])]) for n in range(2))
        assert (first != second).any()
    assert [program._cache_size() for program in p] == [1, 1, 1]
