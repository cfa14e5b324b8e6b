"""Dense convolution as a product of the weights with the windows of the image, written out: k² · I maps.

XLA's own convolution on a CPU is ten and more times slower in a loop, which is where training steps run.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels import strips
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.strips import Strips
from dass_jax.nn.kernels.windows import pad, windows


@functools.partial(jax.jit, inline=True, static_argnums=(2, 3))
def convolution(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """x [I, H, W, N] with w [O, I, k, k], padded with zeros: [O, H', W', N]."""
    return _convolution(x, w, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    return _forward(x, w, stride, padding)[0]


def _forward(x: jax.Array, w: jax.Array, stride: int, padding: int) -> tuple[jax.Array, tuple]:
    return _convolved(x, w, stride, padding), (x, w)


def _backward(stride: int, padding: int, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gradients(*residuals, g, stride, padding)


_convolution.defvjp(_forward, _backward)


def _strips(x: jax.Array, w: jax.Array, stride: int, padding: int) -> Strips:
    k = w.shape[-1]
    height, width = ((size + 2 * padding - k) // stride + 1 for size in x.shape[1:3])
    of_a_row = (k * k * x.shape[0] + w.shape[0]) * width * x.shape[-1]
    rows = strips.rows_of_a_strip(height, w.size, of_a_row)
    reach, columns = ((size - 1) * stride + max(k, stride) for size in (rows, width))
    return Strips(-(-height // rows), rows, rows * stride, reach, columns, width)


def _matrix(w: jax.Array) -> jax.Array:
    """[O, k · k · I]"""
    return w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1)


@functools.partial(compiled_once, static_argnums=(2, 3))
def _convolved(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    cut, k = _strips(x, w, stride, padding), w.shape[-1]

    def convolved(strip: jax.Array) -> jax.Array:
        products = jnp.matmul(_matrix(w), _windows(strip, k, stride, cut))
        return products.reshape(w.shape[0], cut.results, cut.columns, -1)

    height = (x.shape[1] + 2 * padding - k) // stride + 1
    return strips.forward(strips.padded(x, cut, padding), cut, convolved)[:, :height]


@functools.partial(compiled_once, static_argnums=(3, 4))
def _gradients(x: jax.Array, w: jax.Array, g: jax.Array, stride: int, padding: int) -> tuple[jax.Array, jax.Array]:
    cut, k = _strips(x, w, stride, padding), w.shape[-1]

    def gradients(strip: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = g.reshape(g.shape[0], -1)
        to_windows = jnp.matmul(_matrix(w).T, flat).reshape(k, k, x.shape[0], *g.shape[1:])
        # With the operand of more rows on the left the product takes a third of the time.
        return _to_strip(to_windows, stride, cut), jnp.matmul(_windows(strip, k, stride, cut), flat.T)

    to_x, to_w = strips.backward(strips.padded(x, cut, padding), strips.padded_results(g, cut), cut, gradients)
    return strips.cut(to_x, x, padding), to_w.reshape(k, k, *w.shape[1::-1]).transpose(3, 2, 0, 1)


def _windows(strip: jax.Array, k: int, stride: int, cut: Strips) -> jax.Array:
    """[k · k · I, windows · N]"""
    views = windows(strip, k, stride, 1, cut.results, cut.columns)
    return lax.optimization_barrier(jnp.concatenate(views)).reshape(k * k * strip.shape[0], -1)


def _to_strip(to_windows: jax.Array, stride: int, cut: Strips) -> jax.Array:
    """The gradient through `_windows`: what was taken from a pixel is added there; [k, k, I, windows, N] → [I, …, N].

    Pixel stride · h + r of a strip has been read by the taps r, r + stride, … of the windows h, h − 1, …
    """
    k, (rows, columns) = to_windows.shape[0], to_windows.shape[3:5]
    before = (k - 1) // stride
    padded = lax.optimization_barrier(pad(to_windows, before, (before, before)))
    zeros = jnp.zeros_like(padded[0, 0, :, before:, before:])

    def taps(phase: int) -> list[tuple[int, int]]:
        return [(tap, before - (tap - phase) // stride) for tap in range(phase, k, stride)]

    def read(row: int, column: int) -> jax.Array:
        both = itertools.product(taps(row), taps(column))
        own = (padded[i, j, :, a : a + rows + before, b : b + columns + before] for (i, a), (j, b) in both)
        return functools.reduce(jnp.add, own, zeros)

    phases = jnp.stack([jnp.stack([read(row, column) for column in range(stride)], 3) for row in range(stride)], 2)
    strip = phases.reshape(phases.shape[0], stride * (rows + before), stride * (columns + before), -1)
    return strip[:, : cut.reach, : cut.width]
