"""Dense convolution as one product of the weights with the windows of the image, written out: k² · I maps.

XLA's own convolution on a CPU is ten and more times slower in a loop, which is where training steps run.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.windows import pad, windows


@functools.partial(jax.jit, inline=True, static_argnums=(2, 3))
def convolution(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    """x [I, H, W, N] with w [O, I, k, k], padded with zeros: [O, H', W', N]."""
    return _convolution(x, w, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, w: jax.Array, stride: int, padding: int) -> jax.Array:
    return _forward(x, w, stride, padding)[0]


def _forward(x: jax.Array, w: jax.Array, stride: int, padding: int) -> tuple[jax.Array, tuple]:
    maps = _windows(x, w.shape[-1], stride, padding)
    y = jnp.matmul(_matrix(w), maps.reshape(maps.shape[0], -1))
    return y.reshape(-1, *maps.shape[1:]), (x, w)


def _backward(stride: int, padding: int, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    (x, w), flat = residuals, g.reshape(g.shape[0], -1)
    k = w.shape[-1]
    maps = _windows(x, k, stride, padding)
    to_w = jnp.matmul(flat, maps.reshape(maps.shape[0], -1).T).reshape(-1, k, k, x.shape[0]).transpose(0, 3, 1, 2)
    to_maps = jnp.matmul(_matrix(w).T, flat).reshape(k, k, x.shape[0], *g.shape[1:])
    return _to_image(to_maps, x.shape[1], x.shape[2], stride, padding), to_w


_convolution.defvjp(_forward, _backward)


def _matrix(w: jax.Array) -> jax.Array:
    """[O, k · k · I]"""
    return w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1)


@functools.partial(compiled_once, static_argnums=(1, 2, 3))
def _windows(x: jax.Array, k: int, stride: int, padding: int) -> jax.Array:
    """[k · k · I, H', W', N]"""
    padded = lax.optimization_barrier(pad(x, padding, (padding, padding)))
    height, width = ((size - k) // stride + 1 for size in padded.shape[1:3])
    return jnp.concatenate(windows(padded, k, stride, 1, height, width))


@functools.partial(compiled_once, static_argnums=(1, 2, 3, 4))
def _to_image(to_maps: jax.Array, height: int, width: int, stride: int, padding: int) -> jax.Array:
    """The gradient through `_windows`: what was taken from a pixel is added there, [k, k, I, H', W', N] → [I, H, W, N].

    Pixel stride · h + r of the padded image has been read by the taps r, r + stride, … of the windows h, h − 1, …
    """
    k, (rows, columns) = to_maps.shape[0], to_maps.shape[3:5]
    reach = (k - 1) // stride
    padded = lax.optimization_barrier(pad(to_maps, reach, (reach, reach)))
    zeros = jnp.zeros((to_maps.shape[2], rows + reach, columns + reach, to_maps.shape[-1]), to_maps.dtype)

    def taps(phase: int) -> list[tuple[int, int]]:
        return [(tap, reach - (tap - phase) // stride) for tap in range(phase, k, stride)]

    def read(row: int, column: int) -> jax.Array:
        both = itertools.product(taps(row), taps(column))
        own = (padded[i, j, :, a : a + rows + reach, b : b + columns + reach] for (i, a), (j, b) in both)
        return functools.reduce(jnp.add, own, zeros)

    phases = jnp.stack([jnp.stack([read(row, column) for column in range(stride)], 3) for row in range(stride)], 2)
    y = phases.reshape(phases.shape[0], stride * (rows + reach), stride * (columns + reach), -1)
    edges = [(-padding, size + padding - y.shape[axis], 0) for axis, size in ((1, height), (2, width))]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
