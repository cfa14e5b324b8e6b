"""Accumulation in the real networks: a loop over the parts in values, the memory of one part in bytes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, relaxation, variables
from dass_jax.bilevel import Level, Point, Sample, accumulated
from dass_jax.bilevel.levels import gradients, same
from dass_jax.methods import dass
from dass_jax.methods.losses import Batch
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, SCORES

KEY = jax.random.key(0)


def batch(size: int, pixels: int) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(jnp.asarray(rng.normal(size=(1, pixels, pixels, size))), jnp.asarray(rng.integers(0, 10, size)))


def supernet(config: SupernetConfig, pixels: int) -> tuple[Any, Any, Any]:
    """(apply, () → variables, which of the weights are prunable)."""
    space = darts(config)

    def begin() -> Any:
        alpha = relaxation.init(jax.random.key(2), space.alpha_shapes)
        v = {**space.init(jax.random.key(1), (pixels, pixels, 1)), ALPHA: alpha}
        return dass.with_scores(v, variables.prunable(v[PARAMS], space.rules))

    return space.apply, begin, variables.prunable(jax.eval_shape(begin)[PARAMS], space.rules)


@pytest.mark.parametrize("collection", [PARAMS, SCORES])
def test_the_supernets_gradient_is_the_mean_over_the_parts_and_statistics_move_part_by_part(
    collection: str, x64: None
) -> None:
    apply, begin, stacks = supernet(SupernetConfig(classes=10, cells=1, channels=2, nodes=1), 8)
    v = jax.tree.map(lambda x: x.astype(jnp.float64), jax.jit(begin)())
    weights = {PARAMS: dass.dense_weights, SCORES: dass.sparse_weights(stacks, 0.5)}[collection]
    loss, whole = dass.supernet_loss(apply, relaxation.softmax, weights), batch(12, 8)

    @jax.jit
    def one(v: Any, part: Batch) -> Any:
        return gradients(loss, v, (ALPHA, collection), Sample(part, KEY))

    after, found = v, []
    for number in range(3):
        part = jax.tree.map(lambda x, n=number: x[..., n::3], whole)
        slope, (value, (metrics, updates)) = one(after, part)
        after = {**after, **updates}
        found.append((slope, value, metrics))
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *found)

    together = jax.jit(lambda v: gradients(accumulated(loss, 3), v, (ALPHA, collection), Sample(whole, KEY)))
    slope, (value, (metrics, updates)) = together(v)
    statistics = (expected, {BATCH_STATS: after[BATCH_STATS]})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        ((slope, value, metrics), updates),
        statistics,
    )


def both_gradients(loss: bilevel.Loss, v: Any, batch: Batch) -> Any:
    """What a step of first order follows."""
    return gradients(loss, v, (ALPHA, PARAMS), Sample(batch, KEY))


def unrolled_gradient(loss: bilevel.Loss, v: Any, batch: Batch) -> Any:
    """What α follows in a step of second order."""
    upper, lower = Level(ALPHA, loss, optax.sgd(0.1)), Level(PARAMS, loss, optax.sgd(0.1))
    samples = [Sample(batch, key) for key in jax.random.split(KEY)]
    return bilevel.unrolled()(upper, lower, Point(v, lower.transform.init(v[PARAMS]), *samples, {}), same)


@pytest.mark.parametrize("found", [both_gradients, unrolled_gradient])
def test_a_step_in_four_parts_needs_less_than_half_of_the_memory(found: Callable[..., Any]) -> None:
    """By what XLA sets aside for a supernet beside arguments and results."""
    apply, begin, _ = supernet(SupernetConfig(classes=10, cells=1, channels=4, nodes=1), 16)
    loss = dass.supernet_loss(apply, relaxation.softmax, dass.dense_weights)
    images = Batch(jax.ShapeDtypeStruct((1, 16, 16, 64), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32))

    def planned(parts: int) -> int:
        lowered = jax.jit(functools.partial(found, accumulated(loss, parts))).lower(jax.eval_shape(begin), images)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert planned(4) < 0.5 * planned(1)
