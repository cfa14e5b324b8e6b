"""Accumulation in the real networks: a loop over the parts in values, the memory of one part in bytes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, relaxation, variables
from dass_jax.bilevel import Sample, accumulated
from dass_jax.bilevel.levels import gradients
from dass_jax.methods import darts, dass, relaxed
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.spaces.darts import darts as darts_space
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, SCORES
from tests import supernets

KEY = jax.random.key(0)


def batch(size: int, pixels: int) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(jnp.asarray(rng.normal(size=(1, pixels, pixels, size))), jnp.asarray(rng.integers(0, 10, size)))


def supernet(channels: int, pixels: int, live: Any = supernets.EACH_KIND) -> tuple[Any, Any, Any]:
    """(space, variables, which of the weights are prunable)."""
    sizes = SupernetConfig(classes=10, cells=1, channels=channels, nodes=1)
    space = darts_space(sizes, live=live)
    shapes = {name: choice.shape for name, choice in space.choices.items()}
    fresh = jax.jit(lambda key: space.init(key, (pixels, pixels, 1)))(jax.random.key(1))
    v = {**fresh, ALPHA: relaxation.init(jax.random.key(2), shapes)}
    stacks = variables.prunable(v[PARAMS], space.rules)
    return space, dass.with_scores(v, stacks), stacks


def test_the_supernets_gradient_is_the_mean_over_the_parts_and_statistics_move_part_by_part(x64: None) -> None:
    """By α, θ and s, of the sparse loss."""
    space, v, stacks = supernet(2, 8)
    v, collections = jax.tree.map(np.float64, v), (ALPHA, PARAMS, SCORES)
    weights, whole = dass.sparse_weights(stacks, 0.5), batch(12, 8)
    loss = relaxed.supernet_loss(space.apply, classification(10), relaxed.softmax_choice, weights)

    @jax.jit
    def one(v: Any, part: Batch) -> Any:
        return gradients(loss, v, collections, Sample(part, KEY))

    after, found = v, []
    for number in range(3):
        part = jax.tree.map(lambda x, n=number: x[..., n::3], whole)
        slope, (value, (metrics, updates)) = one(after, part)
        after = {**after, **updates}
        found.append((slope, value, metrics))
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *found)

    together = jax.jit(lambda v: gradients(accumulated(loss, 3), v, collections, Sample(whole, KEY)))
    slope, (value, (metrics, updates)) = together(v)
    statistics = (expected, {BATCH_STATS: after[BATCH_STATS]})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        ((slope, value, metrics), updates),
        statistics,
    )


def step_bytes(parts: int, hypergradient: bilevel.Hypergradient) -> int:
    """What XLA sets aside for one bi-level step of a supernet beside its arguments and results."""
    space, v, _ = supernet(4, 16, supernets.living(("dil_conv_3x3",), ("max_pool_3x3",)))
    problem = supernets.problem(space, 10, (16, 16, 1), hypergradient=hypergradient)
    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, relaxed.dense_weights)
    step = darts.step(PARAMS, accumulated(loss, parts), relaxed.Bilevel(), problem)
    one = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, batch(64, 16))
    batches, rates = {"upper": one, "lower": one}, {"upper": jnp.float32(0.1), "lower": jnp.float32(0.1)}
    compiled = jax.jit(step.update).lower(step.init(v), batches, KEY, learning_rate=rates).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["first_order", "unrolled"])
def test_a_step_in_four_parts_needs_less_than_half_of_the_memory(name: str) -> None:
    hypergradient = bilevel.ESTIMATORS[name]()
    assert step_bytes(4, hypergradient) < 0.5 * step_bytes(1, hypergradient)
