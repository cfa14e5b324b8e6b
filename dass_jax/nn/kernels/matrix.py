"""Window operations on a small image as the matrix between input and output pixels that they are.

More multiplications, but one matrix product instead of 2·k² operations to compile and to start.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn.kernels.windows import output_size, tap_line


@functools.partial(jax.jit, inline=True, static_argnums=(2, 3))
def depthwise(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """y[o, n] = Σ_i T[o, i] x[i, n] over pixels, where T[o, i] is the tap that leads from i to o."""
    (height, width), k = x.shape[-3:-1], w.shape[-1]
    taps = jnp.asarray(_tap_matrix(height, width, k, stride, dilation), w.dtype)
    pixels = x.reshape(*x.shape[:-3], height * width, x.shape[-1])
    y = jnp.matmul(jnp.tensordot(w.reshape(*w.shape[:-2], k * k), taps, 1), pixels)
    return _image(y, output_size(height, stride), output_size(width, stride))


@functools.cache
def _tap_matrix(height: int, width: int, k: int, stride: int, dilation: int) -> np.ndarray:
    """[k², output pixels, input pixels]: 1 where the tap leads from the input pixel to the output pixel."""
    rows, columns = (tap_line(size, k, stride, dilation) for size in (height, width))
    matrix = np.einsum("ahi,bwj->abhwij", rows, columns)
    return matrix.reshape(k * k, rows.shape[1] * columns.shape[1], height * width)


@functools.partial(jax.jit, inline=True, static_argnums=1)
def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """The largest of each window's pixels; −∞ is added to those outside of it."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
    outside = jnp.asarray(np.where(taps.any(-1, keepdims=True), 0, -np.inf), x.dtype)
    return _image((_pixel_product(taps, x) + outside).max(-3), height, width)


@functools.partial(jax.jit, inline=True, static_argnums=1)
def avg_pool(x: jax.Array, stride: int) -> jax.Array:
    """The product with the matrix of means."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
    mean = taps.sum(0, dtype=np.float64) / taps.sum((0, 2))[:, None]
    return _image(_pixel_product(mean, x), height, width)


def _pixel_product(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """matrix [..., output pixels, input pixels] times x [..., C, H, W, N] → [..., C, ..., output pixels, N].

    At the highest precision: a matrix of zeros and ones must pick pixels, not round them.
    """
    windows = (1,) if matrix.ndim == 3 else ()
    pixels = x.reshape(*x.shape[:-3], *windows, -1, x.shape[-1])
    return jnp.matmul(jnp.asarray(matrix, x.dtype), pixels, precision=lax.Precision.HIGHEST)


def _image(pixels: jax.Array, height: int, width: int) -> jax.Array:
    """[..., height·width, N] → [..., height, width, N]."""
    return pixels.reshape(*pixels.shape[:-2], height, width, pixels.shape[-1])
