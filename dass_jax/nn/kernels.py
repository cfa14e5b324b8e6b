"""The arithmetic of the primitives, in the forms that XLA compiles well.

Activations are [..., C, H, W, N]. With the batch innermost, a spatial shift is a slice of contiguous rows and a
per-channel weight is a scalar, so a depthwise convolution is k² shifted multiply-adds that vectorise over N; a
pointwise one is a matrix product. XLA's own grouped convolution is ten and more times slower on a CPU, as is the
gradient of its max pooling. Leading axes broadcast, so that all edges which leave one node are one operation.

On a small image a depthwise convolution is better written as the matrix between input and output pixels that it is:
more multiplications, but one matrix product instead of 2·k² operations to compile and to start.

The plain definitions that these forms must equal are in the tests.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def output_size(size: int, stride: int) -> int:
    """Height or width after an operation with "same" padding."""
    return -(-size // stride)


def _pad(x: jax.Array, low: int, high: tuple[int, int], value: float = 0.0, interior: int = 0) -> jax.Array:
    """Pads H and W of x [..., C, H, W, N]."""
    spatial = [(low, amount, interior) for amount in high]
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - 3) + spatial + [(0, 0, 0)])


def _windows(x: jax.Array, k: int, stride: int, dilation: int, height: int, width: int) -> list[jax.Array]:
    """The k² shifted views [..., C, height, width, N] of the padded x, row-major over the window."""
    return [
        x[..., i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride, :]
        for i in range(0, k * dilation, dilation)
        for j in range(0, k * dilation, dilation)
    ]


def _taps(w: jax.Array) -> list[jax.Array]:
    """w [..., C, k, k] as k² arrays [..., C, 1, 1, 1]."""
    k = w.shape[-1]
    return [w[..., i, j, None, None, None] for i in range(k) for j in range(k)]


def _correlate(padded: jax.Array, w: jax.Array, stride: int, dilation: int, height: int, width: int) -> jax.Array:
    # The barrier keeps XLA from recomputing the padding inside each of the k² reads.
    windows = _windows(lax.optimization_barrier(padded), w.shape[-1], stride, dilation, height, width)
    return functools.reduce(jnp.add, (x * tap for x, tap in zip(windows, _taps(w), strict=True)))


SMALL_IMAGE = 64
"""Pixels up to which a window operation is a product with the matrix between input and output pixels."""


def is_small(x: jax.Array) -> bool:
    """Whether the image of x [..., C, H, W, N] has at most `SMALL_IMAGE` pixels."""
    return x.shape[-3] * x.shape[-2] <= SMALL_IMAGE


def depthwise(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Depthwise convolution with zero padding (k − 1)/2 · dilation.

    Args:
      x: [..., C, H, W, N].
      w: [..., C, k, k], k odd; leading axes broadcast against those of x (equal in number).

    Returns:
      [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """
    if is_small(x):
        return depthwise_by_matrix(x, w, stride, dilation)
    return depthwise_by_shifts(x, w, stride, dilation)


def depthwise_by_matrix(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`depthwise` as y[o, n] = Σ_i T[o, i] x[i, n] over pixels, where T[o, i] is the tap that leads from i to o."""
    (height, width), k = x.shape[-3:-1], w.shape[-1]
    taps = jnp.asarray(_tap_matrix(height, width, k, stride, dilation), w.dtype)
    pixels = x.reshape(*x.shape[:-3], height * width, x.shape[-1])
    y = jnp.matmul(jnp.tensordot(w.reshape(*w.shape[:-2], k * k), taps, 1), pixels)
    return _image(y, output_size(height, stride), output_size(width, stride))


@functools.cache
def _tap_matrix(height: int, width: int, k: int, stride: int, dilation: int) -> np.ndarray:
    """[k², output pixels, input pixels]: 1 where the tap leads from the input pixel to the output pixel."""
    rows, columns = (_tap_line(size, k, stride, dilation) for size in (height, width))
    matrix = np.einsum("ahi,bwj->abhwij", rows, columns)
    return matrix.reshape(k * k, rows.shape[1] * columns.shape[1], height * width)


def _tap_line(size: int, k: int, stride: int, dilation: int) -> np.ndarray:
    tap, out, inp = np.ogrid[:k, : output_size(size, stride), :size]
    return (inp == out * stride + (tap - (k - 1) // 2) * dilation).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_by_shifts(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`depthwise` as k² shifted multiply-adds, with the gradients written in the same way."""
    return _depthwise_forward(x, w, stride, dilation)[0]


def _depthwise_forward(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> tuple[jax.Array, tuple]:
    pad = (w.shape[-1] - 1) // 2 * dilation
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    return _correlate(_pad(x, pad, (pad, pad)), w, stride, dilation, height, width), (x, w)


def _depthwise_backward(stride: int, dilation: int, residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    k, (height, width) = w.shape[-1], x.shape[-3:-1]
    pad = (k - 1) // 2 * dilation
    # Gradient to x: the stride becomes zeros between the entries of g, and the window turns by 180 degrees.
    high = tuple(
        size + pad - (inner - 1) * stride - 1 for size, inner in zip((height, width), g.shape[-3:-1], strict=True)
    )
    spread = _pad(g, pad, high, interior=stride - 1)
    gx = _correlate(spread, w[..., ::-1, ::-1], 1, dilation, height, width)
    # Gradient to w: per tap a sum over H, then one product with ones over W·N, which a matmul does fastest.
    windows = _windows(
        lax.optimization_barrier(_pad(x, pad, (pad, pad))), k, stride, dilation, g.shape[-3], g.shape[-2]
    )
    partial = jnp.stack([(window * g).sum(-3) for window in windows], axis=-3)  # [..., C, k², W, N]
    partial = partial.reshape(*partial.shape[:-2], -1)
    gw = (partial @ jnp.ones(partial.shape[-1], partial.dtype)).reshape(*partial.shape[:-2], k, k)
    return _unbroadcast(gx, x.shape), _unbroadcast(gw, w.shape)


def _unbroadcast(gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axes, keepdims=True) if axes else gradient


depthwise_by_shifts.defvjp(_depthwise_forward, _depthwise_backward)


def pointwise(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """1×1 convolution: x [..., I, H, W, N], w [..., O, I] with the same leading axes → [..., O, ⌈H/s⌉, ⌈W/s⌉, N]."""
    x = x[..., ::stride, ::stride, :]
    y = jnp.matmul(w, x.reshape(*x.shape[:-3], -1))
    return y.reshape(*y.shape[:-1], *x.shape[-3:])


def convolution(x: jax.Array, w: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """Dense convolution: x [I, H, W, N], w [O, I, k, k] → [O, H', W', N]."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("CHWN", "OIHW", "CHWN")
    )


def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 maximum, padded with −∞: [..., C, H, W, N] → [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].

    Among tied maxima the gradient is shared, not given to the first.
    """
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    if is_small(x):
        taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
        outside = jnp.asarray(np.where(taps.any(-1, keepdims=True), 0, -np.inf), x.dtype)
        return _image((_pixel_product(taps, x) + outside).max(-3), height, width)
    padded = lax.optimization_barrier(_pad(x, 1, (1, 1), -jnp.inf))
    return functools.reduce(jnp.maximum, _windows(padded, 3, stride, 1, height, width))


def avg_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 mean over the pixels inside the image (padding is not counted); shapes as `max_pool`."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    if is_small(x):
        taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
        mean = taps.sum(0, dtype=np.float64) / taps.sum((0, 2))[:, None]
        return _image(_pixel_product(mean, x), height, width)
    padded = lax.optimization_barrier(_pad(x, 1, (1, 1)))
    total = functools.reduce(jnp.add, _windows(padded, 3, stride, 1, height, width))
    inside = _pad(jnp.ones((*x.shape[-3:-1], 1), x.dtype)[None], 1, (1, 1))
    return total / functools.reduce(jnp.add, _windows(inside, 3, stride, 1, height, width))


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


def shifted_pair(x: jax.Array) -> jax.Array:
    """The two stride-2 views of a factorized reduce, x[0::2, 0::2] and x[1::2, 1::2]: [..., 2, C, ⌈H/2⌉, ⌈W/2⌉, N].

    At an odd size the second view's last row or column would be missing; it is zero.
    """
    odd = _pad(x, -1, (1, 1))
    return jnp.stack([x[..., ::2, ::2, :], odd[..., ::2, ::2, :]], axis=-5)
