"""The kernels for a few images at a time: x [N, H, W, C], weights with their output channels last. No gradients.

With few images the batch cannot fill a vector register, but the channels can: a spatial shift is then a slice of whole
pixels and a depthwise tap a vector, which on a CPU makes a depthwise convolution of one image 4 to 6 times faster than
with the channels first.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels.windows import inside, output_size


def _windows(x: jax.Array, k: int, stride: int, dilation: int, outside: float = 0.0) -> list[jax.Array]:
    """The k² shifted views of the padded x, row-major over the window."""
    images, rows, columns, channels = x.shape
    border = (k - 1) // 2 * dilation
    height, width = output_size(rows, stride), output_size(columns, stride)
    # Row by row: over a channel axis of 36 LLVM unrolls the loop that pads, and then makes no vectors of it.
    borders = [(0, 0, 0), (border, border, 0), (border * channels, border * channels, 0)]
    padded = lax.pad(x.reshape(images, rows, columns * channels), jnp.asarray(outside, x.dtype), borders)
    padded = padded.reshape(images, rows + 2 * border, columns + 2 * border, channels)
    # Without the barrier XLA pads anew inside each of the k² reads, which is 100 times slower.
    padded = lax.optimization_barrier(padded)
    return [
        padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(0, k * dilation, dilation)
        for j in range(0, k * dilation, dilation)
    ]


def depthwise(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """w [k, k, C]; otherwise as `kernels.depthwise`."""
    k = len(w)
    views = _windows(x, k, stride, dilation)
    return functools.reduce(jnp.add, (view * tap for view, tap in zip(views, w.reshape(k * k, -1), strict=True)))


def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """As `kernels.max_pool`."""
    return functools.reduce(jnp.maximum, _windows(x, 3, stride, 1, -jnp.inf))


def avg_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """As `kernels.avg_pool`."""
    return functools.reduce(jnp.add, _windows(x, 3, stride, 1)) / inside(x, stride)


def pointwise(x: jax.Array, w: jax.Array) -> jax.Array:
    """w [I, O]: [N, H, W, I] → [N, H, W, O]."""
    # As in `kernels.pointwise`: what x comes from is computed with x's own axes.
    x = lax.optimization_barrier(x)
    return (x.reshape(-1, len(w)) @ w).reshape(*x.shape[:-1], -1)


def convolution(x: jax.Array, w: jax.Array, stride: int) -> jax.Array:
    """Dense, w [I, k, k, O], padding (k − 1)/2."""
    border = (w.shape[1] - 1) // 2
    layout = ("NHWC", "IHWO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride, stride), [(border, border)] * 2, dimension_numbers=layout)


def factorized(x: jax.Array, w: jax.Array) -> jax.Array:
    """w [I, O]: the first half of the outputs from x[0::2, 0::2], the second from x[1::2, 1::2], zero outside of x."""
    ((_, height, width, _), half) = x.shape, w.shape[1] // 2
    borders = [(0, 0, 0), (0, height % 2, 0), (0, width % 2, 0), (0, 0, 0)]
    further = lax.pad(x[:, 1::2, 1::2], jnp.zeros((), x.dtype), borders)
    parts = [pointwise(x[:, ::2, ::2], w[:, :half]), pointwise(further, w[:, half:])]
    return jnp.concatenate(parts, axis=-1)
