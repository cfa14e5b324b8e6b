"""Window operations as shifted multiply-adds and shifted maxima, with gradients written in the same way."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.sums import sums_of_products
from dass_jax.nn.kernels.windows import inside, output_size, pad, windows


def _taps(w: jax.Array) -> list[jax.Array]:
    """w [..., C, k, k] as k² arrays [..., C]."""
    k, leading = w.shape[-1], w.shape[:-2]
    first = (0,) * len(leading)
    # `lax.slice`: jnp's indexing would be two operations more, for some thousand taps.
    ones = [lax.slice(w, (*first, i, j), (*leading, i + 1, j + 1)) for i in range(k) for j in range(k)]
    return [one.reshape(leading) for one in ones]


def _correlate(padded: jax.Array, w: jax.Array, stride: int, dilation: int, height: int, width: int) -> jax.Array:
    leading = np.broadcast_shapes(padded.shape[:-3], w.shape[:-2])
    shape = (*leading, height, width, padded.shape[-1])
    own = [axis for axis, size in enumerate(padded.shape) if axis >= len(leading) or size == leading[axis]]
    padded = padded.reshape([padded.shape[axis] for axis in own])
    views = windows(padded, w.shape[-1], stride, dilation, height, width)
    products = (
        lax.broadcast_in_dim(view, shape, own) * lax.broadcast_in_dim(tap, shape, range(len(leading)))
        for view, tap in zip(views, _taps(w), strict=True)
    )
    return functools.reduce(jnp.add, products)


@functools.partial(jax.jit, inline=True, static_argnums=(2, 3))
def depthwise(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """The sum of k² shifted views times their taps."""
    return _depthwise(x, w, stride, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    return _convolved(x, w, stride, dilation)


def _depthwise_forward(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> tuple[jax.Array, tuple]:
    return _convolved(x, w, stride, dilation), (x, w)


def _depthwise_backward(stride: int, dilation: int, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    # Two functions, so that α's step, which needs no gradient of weights, does not call for it.
    return _gradient_of_input(x.shape, w, g, stride, dilation), _gradient_of_weights(x, w.shape, g, stride, dilation)


def _border(k: int, dilation: int) -> int:
    return (k - 1) // 2 * dilation


@functools.partial(compiled_once, static_argnums=(2, 3))
def _convolved(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    border = _border(w.shape[-1], dilation)
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    # Without the barrier XLA computes the padding again in each of the k² reads, and nothing vectorises.
    padded = lax.optimization_barrier(pad(x, border, (border, border)))
    return _correlate(padded, w, stride, dilation, height, width)


@functools.partial(compiled_once, static_argnums=(0, 3, 4))
def _gradient_of_input(shape: tuple[int, ...], w: jax.Array, g: jax.Array, stride: int, dilation: int) -> jax.Array:
    # The stride becomes zeros between the entries of g, and the window turns by 180 degrees.
    border, (height, width) = _border(w.shape[-1], dilation), shape[-3:-1]
    high = (
        height + border - (g.shape[-3] - 1) * stride - 1,
        width + border - (g.shape[-2] - 1) * stride - 1,
    )
    spread = pad(g, border, high, interior=stride - 1)
    shared = [axis for axis, size in enumerate(shape[:-3]) if size == 1 and g.shape[axis] != 1]
    return _summed_correlation(shared, lax.optimization_barrier(spread), w[..., ::-1, ::-1], dilation, height, width)


@functools.partial(compiled_once, static_argnums=(1, 3, 4))
def _gradient_of_weights(x: jax.Array, shape: tuple[int, ...], g: jax.Array, stride: int, dilation: int) -> jax.Array:
    k, border = shape[-1], _border(shape[-1], dilation)
    views = windows(lax.optimization_barrier(pad(x, border, (border, border))), k, stride, dilation, *g.shape[-3:-1])
    # Stacked last, each entry would choose among k² arrays, which XLA on a CPU compiles slowly and for every call anew.
    gradient = jnp.moveaxis(jnp.stack(sums_of_products(tuple(views), g)), 0, -1)
    return _unbroadcast(gradient.reshape(*g.shape[:-3], k, k), shape)


def _summed_correlation(
    axes: list[int], padded: jax.Array, w: jax.Array, dilation: int, height: int, width: int
) -> jax.Array:
    """The correlation at stride 1, summed over leading axes that stay with size 1.

    One term after the other: summed by a reduction, XLA on a CPU computes each of the k² products by itself, and
    takes ten times as long. From zeros on: a first term outside of the loop would be compiled a second time.
    """
    if not axes:
        return _correlate(padded, w, 1, dilation, height, width)
    axis, *others = axes
    leading = np.broadcast_shapes(padded.shape[:-3], w.shape[:-2])
    summed = [1 if i in axes else size for i, size in enumerate(leading)]
    zeros = jnp.zeros((*summed, height, width, padded.shape[-1]), padded.dtype)

    def add_term(index: Any, sums: jax.Array) -> jax.Array:
        one, own = (lax.dynamic_slice_in_dim(a, index if a.shape[axis] > 1 else 0, 1, axis) for a in (padded, w))
        return sums + _summed_correlation(others, one, own, dilation, height, width)

    return lax.fori_loop(0, padded.shape[axis], add_term, zeros)


def _unbroadcast(gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    # Without the barrier XLA on a CPU sums each of the k² products by itself, and writes all of them to memory for it.
    return lax.optimization_barrier(gradient).sum(axes, keepdims=True) if axes else gradient


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.jit, inline=True, static_argnums=1)
def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """The largest of nine shifted views."""
    return _max_pool(x, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, stride: int) -> jax.Array:
    return _maxima(x, stride)


def _max_pool_forward(x: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _maxima(x, stride)
    return y, (x, y)


@functools.partial(compiled_once, static_argnums=1)
def _maxima(x: jax.Array, stride: int) -> jax.Array:
    return functools.reduce(jnp.maximum, _views_for_pool(x, stride, -jnp.inf))


@functools.partial(compiled_once, static_argnums=0)
def _max_pool_backward(stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    x, y = residuals
    tied = functools.reduce(jnp.add, [(view == y).astype(g.dtype) for view in _views_for_pool(x, stride, -jnp.inf)])
    nothing = jnp.zeros_like(x)
    # A pixel's gradient comes from those of the nine windows around it whose maximum it is.
    around = zip(_views_ofwindows(y, x, stride, jnp.inf), _views_ofwindows(g / tied, x, stride, 0.0), strict=True)
    return (functools.reduce(jnp.add, [lax.select(x == maximum, share, nothing) for maximum, share in around]),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _views_for_pool(x: jax.Array, stride: int, outside: float) -> list[jax.Array]:
    """The nine pixels of every 3×3 window: nine arrays in the shape of the pool's output."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    return windows(lax.optimization_barrier(pad(x, 1, (1, 1), outside)), 3, stride, 1, height, width)


def _views_ofwindows(y: jax.Array, x: jax.Array, stride: int, outside: float) -> list[jax.Array]:
    """Of y, one entry per 3×3 window over x, what belongs to each pixel's windows: nine arrays in the shape of x."""
    height, width = x.shape[-3:-1]
    rows, columns = y.shape[-3:-1]
    high = (height - (rows - 1) * stride, width - (columns - 1) * stride)
    return windows(lax.optimization_barrier(pad(y, 1, high, outside, stride - 1)), 3, 1, 1, height, width)


@functools.partial(jax.jit, inline=True, static_argnums=1)
def avg_pool(x: jax.Array, stride: int) -> jax.Array:
    """The sum of nine shifted views over the number of pixels inside the image."""
    return depthwise(x, jnp.ones((*(1,) * (x.ndim - 3), 3, 3), x.dtype), stride, 1) / inside(x, stride)
