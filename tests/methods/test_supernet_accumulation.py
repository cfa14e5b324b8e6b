"""Accumulation in the real networks: a loop over the parts in values, the memory of one part in bytes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, relaxation, variables
from dass_jax.bilevel import Sample, accumulated
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
    """(apply, variables, which of the weights are prunable)."""
    space = darts(config)
    v = {
        **space.init(jax.random.key(1), (pixels, pixels, 1)),
        ALPHA: relaxation.init(jax.random.key(2), space.alpha_shapes),
    }
    stacks = variables.prunable(v[PARAMS], space.rules)
    return space.apply, dass.with_scores(v, stacks), stacks


@pytest.mark.parametrize("collection", [PARAMS, SCORES])
def test_the_supernets_gradient_is_the_mean_over_the_parts_and_statistics_move_part_by_part(
    collection: str, x64: None
) -> None:
    apply, v, stacks = supernet(SupernetConfig(classes=10, cells=1, channels=2, nodes=1), 8)
    v = jax.tree.map(lambda x: x.astype(jnp.float64), v)
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


def step_bytes(parts: int, hypergradient: bilevel.Hypergradient) -> int:
    """What XLA sets aside for one bi-level step of a supernet beside its arguments and results."""
    apply, v, _ = supernet(SupernetConfig(classes=10, cells=1, channels=4, nodes=1), 16)
    loss = accumulated(dass.supernet_loss(apply, relaxation.softmax, dass.dense_weights), parts)
    alternation = dass.step(PARAMS, loss, optax.adam(0.1), optax.sgd(0.1), hypergradient, "upper_first", same)
    both = [jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, batch(64, 16))] * 2
    compiled = jax.jit(alternation.update).lower(alternation.init(v), both, KEY).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["first_order", "unrolled"])
def test_a_step_in_four_parts_needs_less_than_half_of_the_memory(name: str) -> None:
    hypergradient = bilevel.ESTIMATORS[name]()
    assert step_bytes(4, hypergradient) < 0.5 * step_bytes(1, hypergradient)
