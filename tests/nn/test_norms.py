"""Normalised maps and sums of them against NumPy, and their gradients of first and second order against JAX's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dass_jax.nn.kernels import norms

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
EPSILON = 0.1
"""Large: a wrong place for it shows."""
PIXELS = (-3, -2, -1)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(1.0, 2.0, size=shape)


def same(tree: Any) -> Any:
    return tree


def by_numpy(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(PIXELS, keepdims=True)) / np.sqrt(x.var(PIXELS, keepdims=True) + EPSILON)


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(PIXELS), x.var(PIXELS)


@pytest.mark.parametrize("affine", [False, True])
def test_normalised_equals_numpy(affine: bool) -> None:
    x, scale, bias = normal(2, 3, 4, 5, 6), normal(2, 3), normal(2, 3)
    y, found = norms.normalised(x, (scale, bias) if affine else None, same, EPSILON)
    wanted = by_numpy(x)
    if affine:
        wanted = wanted * scale[..., None, None, None] + bias[..., None, None, None]
    np.testing.assert_allclose(y, wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, statistics(x), rtol=1e-9)


@pytest.mark.parametrize("maps", [3, 1])
def test_a_sum_of_normalised_maps_equals_einsum(maps: int) -> None:
    x, mixing = normal(2, 2, maps, 4, 3, 2, 5), normal(2, 2, 3)
    wanted = np.einsum("sotchwn,sot->tchwn", np.broadcast_to(by_numpy(x), (2, 2, 3, 4, 3, 2, 5)), mixing)
    for given in (x, x.reshape(2, -1, 3, 2, 5)) if maps > 1 else (x,):  # and side by side
        (found, shift), moments = norms.normalised_sum(given, mixing, same, EPSILON)
        np.testing.assert_allclose(found + shift[..., None, None, None], wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moments, statistics(x), rtol=1e-9)


def test_a_constant_map_has_no_variance_and_no_gradient_through_it() -> None:
    x = np.full((2, 3, 4, 5), 0.1)  # whose square and mean are rounded
    (y, (_, variance)), back = jax.vjp(lambda x: norms.normalised(x, None, same, EPSILON), x)
    assert np.all(variance >= 0)
    np.testing.assert_allclose(y, 0, atol=1e-12)
    g = normal(*x.shape)
    wanted = (g - g.mean(PIXELS, keepdims=True)) / np.sqrt(EPSILON)
    zeros = np.zeros(2)
    np.testing.assert_allclose(back((jnp.asarray(g), (zeros, zeros)))[0], wanted, rtol=1e-9, atol=1e-9)


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "normalised": (lambda x: norms.normalised(x, None, same, EPSILON)[0], (normal(2, 3, 4, 2, 2),)),
    "normalised, affine": (
        lambda x, scale, bias: norms.normalised(x, (scale, bias), same, EPSILON)[0],
        (normal(3, 4, 2, 2), normal(3), normal(3)),
    ),
    "normalised_sum": (
        lambda x, mixing: norms.normalised_sum(x, mixing, same, EPSILON)[0],
        (normal(2, 2, 3, 2, 4, 2, 2), normal(2, 2, 3)),
    ),
    "normalised_sum side by side": (
        lambda x, mixing: norms.normalised_sum(x, mixing, same, EPSILON)[0],
        (normal(2, 12, 4, 2, 2), normal(2, 2, 3)),
    ),
    "normalised_sum of shared maps": (
        lambda x, mixing: norms.normalised_sum(x, mixing, same, EPSILON)[0],
        (normal(2, 2, 1, 2, 4, 2, 2), normal(2, 2, 3)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_first_and_second_order(case: str) -> None:
    function, arguments = CASES[case]
    check_grads(jax.jit(function), arguments, order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_forward_over_reverse(case: str) -> None:
    function, arguments = CASES[case]

    def slope(*inputs: jax.Array) -> Any:
        return jax.grad(lambda *a: sum(jnp.sin(y).sum() for y in jax.tree.leaves(function(*a))), 0)(*inputs)

    check_grads(jax.jit(slope), arguments, order=1, modes=["fwd"], atol=1e-5, rtol=1e-5)
