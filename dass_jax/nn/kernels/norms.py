"""Normalisation of maps by their own statistics, alone and inside a weighted sum, each with its gradient in one piece.

What happens per channel between two passes over the maps is a call of its own, as the passes are: XLA on a CPU works
through it once for all calls of one shape, and with one order of operands, so that they share machine code. Left to
JAX, the statistics' gradient would meet that of the maps in one operation with all that is per channel in it.

The statistics are sums over H, W and N, in float32 at least. They and their gradients are averaged over the
devices that share a batch. What is returned for running averages has no gradient.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.relu import relu
from dass_jax.nn.kernels.sums import PIXELS, product, product_and_sum, spread, through_terms, weighted_terms

Average = Callable[[Any], Any]
"""The mean of a pytree over all devices that share a batch."""
Pair = tuple[jax.Array, jax.Array]
Affine = Pair | None
"""(scale, bias), each [..., C]."""


def scale_and_shift(mean: jax.Array, inverse: jax.Array, affine: Affine) -> Pair:
    """(scale, shift), each [..., C] as all arguments: x · scale + shift is x normalised, then scaled and moved.
    `inverse` is 1/√(variance + ε)."""
    if affine is None:
        return inverse, -mean * inverse
    scale = inverse * affine[0]
    return scale, affine[1] - mean * scale


def weight_and_shift(mean: jax.Array, inverse: jax.Array, mixing: jax.Array) -> Pair:
    """(weight [S, O, T, C], shift [T, C]) of mean and `inverse` [S, O, T or 1, C] and mixing [S, O, T]: the sum of maps
    times weight, plus shift, is the sum of normalised maps times mixing."""
    weight = mixing[..., None] * inverse
    return weight, -(weight * mean).sum((0, 1))


def inverse_deviation(variance: jax.Array, epsilon: float) -> jax.Array:
    """1 / √(variance + ε)."""
    return lax.rsqrt(variance + epsilon)


def scaled(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """x · scale + shift for x [..., C, H, W, N], scale and shift [..., C]."""
    return (x * spread(scale) + spread(shift)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def normalised(x: jax.Array, affine: Affine, average: Average, epsilon: float) -> tuple[jax.Array, Pair]:
    """x [..., C, H, W, N] normalised over H, W and N, then scaled and moved; and (mean, variance), each [..., C]."""
    return _normalised_forward(x, affine, average, epsilon)[0]


def _normalised_forward(x: jax.Array, affine: Affine, average: Average, epsilon: float) -> tuple[Any, tuple]:
    sums = average(product_and_sum(x, x))
    (scale, shift), inverse = _coefficients(scale_and_shift, _pixels(x), epsilon, sums, affine)
    return (scaled(x, scale, shift), _statistics(_pixels(x), sums)), (x, affine, sums, inverse, scale)


def _normalised_backward(average: Average, epsilon: float, residuals: tuple, cotangents: tuple) -> tuple:
    (x, affine, sums, inverse, scale), (g, _) = residuals, cotangents
    to_coefficients = product_and_sum(x, g)
    to_sums, to_affine = _gradient_per_channel(scale_and_shift, _pixels(x), sums, inverse, affine, to_coefficients)
    return _gradient_of_map(x, g, scale, average(to_sums)), to_affine


normalised.defvjp(_normalised_forward, _normalised_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def normalised_sum(x: jax.Array, mixing: jax.Array, average: Average, epsilon: float) -> tuple[Pair, Pair]:
    """Σ over sources and operations of the normalised maps times mixing, for x [S, O, T or 1, C, H, W, N] or, side by
    side (`blocks`), [S, O·T·C, H, W, N], and mixing [S, O, T]: (the sum [T, C, H, W, N] without its shift, that shift
    [T, C]) and (mean, variance), each [S, O, T or 1, C].

    The normalised maps themselves are never made: their scales are multiplied with the mixing weights.
    """
    return _normalised_sum_forward(x, mixing, average, epsilon)[0]


def _normalised_sum_forward(x: jax.Array, mixing: jax.Array, average: Average, epsilon: float) -> tuple[Any, tuple]:
    sums = average(_rows(product_and_sum(x, x), x, mixing))
    (weight, shift), inverse = _coefficients(weight_and_shift, _pixels(x), epsilon, sums, mixing)
    return ((weighted_terms(x, weight), shift), _statistics(_pixels(x), sums)), (x, mixing, sums, inverse, weight)


def _normalised_sum_backward(average: Average, epsilon: float, residuals: tuple, cotangents: tuple) -> tuple:
    (x, mixing, sums, inverse, weight), ((g, to_shift), _) = residuals, cotangents
    to_coefficients = product(x, g).reshape(weight.shape), to_shift
    to_sums, to_mixing = _gradient_per_channel(weight_and_shift, _pixels(x), sums, inverse, mixing, to_coefficients)
    return _gradient_of_summed_maps(x, g, weight, average(to_sums)), to_mixing


normalised_sum.defvjp(_normalised_sum_forward, _normalised_sum_backward)


def _rows(per_channel: Pair, x: jax.Array, mixing: jax.Array) -> Pair:
    """What is per channel of x of `normalised_sum`, as [S, O, T or 1, C]."""
    shape = (*mixing.shape, -1) if x.ndim == 5 else x.shape[:-3]
    return jax.tree.map(lambda leaf: leaf.reshape(shape), per_channel)


def _pixels(x: jax.Array) -> int:
    return math.prod(x.shape[axis] for axis in PIXELS)


def _statistics(pixels: int, sums: Pair) -> Pair:
    """(mean, variance) of (Σ x², Σ x). Computed again where it is read: as results of a call they would be two kernels
    more for each norm; outside of it XLA makes them part of the running averages' own."""
    square, mean = (total / pixels for total in sums)
    return mean, relu(square - mean * mean)  # rounding can leave it below 0


@functools.partial(compiled_once, static_argnums=(0, 1, 2))
def _coefficients(function: Callable[..., Pair], pixels: int, epsilon: float, sums: Pair, own: Any) -> tuple:
    """What `scale_and_shift` or `weight_and_shift` makes of the statistics and its own argument; 1/√(variance + ε)."""
    mean, variance = _statistics(pixels, sums)
    inverse = inverse_deviation(variance, epsilon)
    return function(mean, inverse, own), inverse


@functools.partial(compiled_once, static_argnums=(0, 1))
def _gradient_per_channel(
    function: Callable[..., Pair], pixels: int, sums: Pair, inverse: jax.Array, own: Any, cotangents: Pair
) -> tuple[Pair, Any]:
    """The gradients by (Σ x², Σ x) and by the own argument."""
    mean, variance = _statistics(pixels, sums)
    _, back = jax.vjp(function, mean, inverse, own)
    to_mean, to_inverse, to_own = back(jax.tree.map(lambda g: g.astype(inverse.dtype), cotangents))
    # Of 1/√(variance + ε) by its own value: what XLA need not divide for, it does not compute in a kernel of its own.
    to_square = lax.select(variance > 0, -0.5 * inverse**3 * to_inverse, lax.full_like(variance, 0)) / pixels
    return (to_square, to_mean / pixels - 2 * mean * to_square), to_own


@compiled_once
def _gradient_of_map(x: jax.Array, g: jax.Array, scale: jax.Array, to_sums: Pair) -> jax.Array:
    return (g * spread(scale) + _through_sums(x, to_sums)).astype(x.dtype)


@compiled_once
def _gradient_of_summed_maps(x: jax.Array, g: jax.Array, weight: jax.Array, to_sums: Pair) -> jax.Array:
    return (through_terms(x, weight, g) + _through_sums(x, to_sums)).astype(x.dtype)


def _through_sums(x: jax.Array, to_sums: Pair) -> jax.Array:
    to_square, to_sum = (leaf.reshape(x.shape[:-3]) for leaf in to_sums)
    return x * spread(2 * to_square) + spread(to_sum)
