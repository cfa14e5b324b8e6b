"""Norms beyond √max, against the same gradients in float64; below it, those of optax."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel
from dass_jax.bilevel.norms import clip_by_global_norm, norm

pytestmark = pytest.mark.usefixtures("x64")

LARGE = [1e10, 1e19, 1e25, 3e37]
"""Of a typical entry; float32 ends at 3.4e38, its square root is 1.8e19."""


def gradient(size: float, dtype: Any = np.float32) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {"a": (size * draw.standard_normal((20, 3))).astype(dtype), "b": (size * 1e-3 * np.ones(7)).astype(dtype)}


def exact(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norm_and_clip_are_those_of_optax_where_these_are_finite(size: float, dtype: Any) -> None:
    g, precision = gradient(size, dtype), 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(jax.jit(norm)(g), jax.jit(optax.tree.norm)(g), rtol=precision)
    vector = g["a"].ravel()  # the same additions
    assert jax.jit(norm)(vector) == jax.jit(optax.tree.norm)(vector)
    for limit in (1e-2, 5.0):
        ours, theirs = (
            jax.jit(lambda g, t=t: t.update(g, t.init(g))[0])(g)
            for t in (clip_by_global_norm(limit), optax.clip_by_global_norm(limit))
        )
        chex.assert_trees_all_close(ours, theirs, rtol=precision)


@pytest.mark.parametrize("size", LARGE)
def test_norm_and_clip_of_large_gradients_are_those_of_float64(size: float) -> None:
    g = gradient(size)
    np.testing.assert_allclose(jax.jit(norm)(g), optax.tree.norm(exact(g)), rtol=1e-6)
    ours = jax.jit(clip_by_global_norm(5.0).update)(g, ())[0]
    theirs = optax.clip_by_global_norm(5.0).update(exact(g), optax.EmptyState())[0]
    for name in g:
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


def test_a_norm_beyond_the_dtype_still_clips() -> None:
    g = {"a": np.full(100, 3e38, np.float32)}
    assert norm(g) == np.inf
    np.testing.assert_allclose(clip_by_global_norm(5.0).update(g, optax.EmptyState())[0]["a"], 0.5, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    g = gradient(1.0)
    g["b"][2] = value
    assert not np.isfinite(norm(g))
    assert not np.isfinite(clip_by_global_norm(5.0).update(g, optax.EmptyState())[0]["b"]).all()


@pytest.mark.parametrize("size", [1.0, *LARGE[:-1]])
def test_the_derivative_of_the_clip_is_that_of_float64(size: float) -> None:
    """As unrolled hypergradients take it: of one entry of the clipped gradient, by all entries, times their size.

    At the largest size the derivatives themselves are below float32's smallest normal number.
    """

    def entry(transform: Any, g: Any) -> jax.Array:
        return transform.update(g, optax.EmptyState())[0]["a"][0, 0]

    g = gradient(size)
    ours = jax.grad(lambda g: entry(clip_by_global_norm(5.0), g))(g)
    theirs = jax.grad(lambda g: entry(optax.clip_by_global_norm(5.0), g))(exact(g))
    for name in g:
        np.testing.assert_allclose(ours[name] * size, theirs[name] * size, rtol=1e-4, atol=1e-6)


def test_a_step_with_a_large_gradient_moves_by_the_clip_and_is_sound() -> None:
    slope = jnp.full(4, 1e25, jnp.float32)

    def loss(v: Any, batch: Any, key: Any) -> Any:
        return (v["scores"] * slope).sum(), ({}, {})

    descent = bilevel.descend(bilevel.Level("scores", loss, bilevel.sgd(0.9, 0.0, 5.0)))
    state, info = descent.update(
        descent.init({"scores": jnp.zeros(4)}), None, jax.random.key(0), learning_rate=jnp.ones(())
    )
    np.testing.assert_allclose(state.variables["scores"], -2.5, rtol=1e-6)
    np.testing.assert_allclose(info["scores"].gradient_norm, 2e25, rtol=1e-6)
    assert info["scores"].unsound == {"scores": -1}
