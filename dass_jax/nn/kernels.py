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
    views = _windows(lax.optimization_barrier(_pad(x, pad, (pad, pad))), k, stride, dilation, *g.shape[-3:-1])
    gw = _sums_of_products(tuple(views), g).reshape(*g.shape[:-3], k, k)
    return _unbroadcast(gx, x.shape), _unbroadcast(gw, w.shape)


@jax.custom_jvp
def _sums_of_products(views: tuple[jax.Array, ...], g: jax.Array) -> jax.Array:
    """Σ over H, W and N of view · g, for each view [..., C, H, W, N] and g of the same shape: [..., C, views].

    One reduction for all views reads them in one pass. As a reduction each, XLA on a CPU writes every product to memory
    first, which takes 5 to 8 times as long and one array as large as g per view.
    """
    products = [jnp.broadcast_to(view * g, g.shape) for view in views]
    zeros = [jnp.zeros((), g.dtype)] * len(products)
    axes = tuple(range(g.ndim - 3, g.ndim))
    sums = lax.reduce(products, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], axes)
    return jnp.stack(sums, axis=-1)


@_sums_of_products.defjvp
def _sums_of_products_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Only second derivatives come here. JAX cannot transpose a reduction of several arrays, so the sums are plain.
    (views, g), (moved_views, moved_g) = primals, tangents
    moved = [
        (moved_view * g + view * moved_g).sum((-3, -2, -1)) for view, moved_view in zip(views, moved_views, strict=True)
    ]
    return _sums_of_products(views, g), jnp.stack(moved, axis=-1)


def _unbroadcast(gradient: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    # Without the barrier XLA on a CPU sums each of the k² products by itself, and writes all of them to memory for it.
    return lax.optimization_barrier(gradient).sum(axes, keepdims=True) if axes else gradient


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
    if is_small(x):
        height, width = (output_size(size, stride) for size in x.shape[-3:-1])
        taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
        outside = jnp.asarray(np.where(taps.any(-1, keepdims=True), 0, -np.inf), x.dtype)
        return _image((_pixel_product(taps, x) + outside).max(-3), height, width)
    return _max_pool_by_shifts(x, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_by_shifts(x: jax.Array, stride: int) -> jax.Array:
    return _max_pool_forward(x, stride)[0]


def _max_pool_forward(x: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = functools.reduce(jnp.maximum, _views_for_pool(x, stride, -jnp.inf))
    return y, (x, y)


def _max_pool_backward(stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    x, y = residuals
    tied = functools.reduce(jnp.add, [(view == y).astype(g.dtype) for view in _views_for_pool(x, stride, -jnp.inf)])
    # A pixel's gradient comes from those of the nine windows around it whose maximum it is.
    windows = zip(_views_of_windows(y, x, stride, jnp.inf), _views_of_windows(g / tied, x, stride, 0.0), strict=True)
    return (functools.reduce(jnp.add, [jnp.where(x == maximum, share, 0) for maximum, share in windows]),)


_max_pool_by_shifts.defvjp(_max_pool_forward, _max_pool_backward)


def _views_for_pool(x: jax.Array, stride: int, outside: float) -> list[jax.Array]:
    """The nine pixels of every 3×3 window: nine arrays in the shape of the pool's output."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    return _windows(lax.optimization_barrier(_pad(x, 1, (1, 1), outside)), 3, stride, 1, height, width)


def _views_of_windows(y: jax.Array, x: jax.Array, stride: int, outside: float) -> list[jax.Array]:
    """Of y, one entry per 3×3 window over x, what belongs to each pixel's windows: nine arrays in the shape of x."""
    height, width = x.shape[-3:-1]
    rows, columns = y.shape[-3:-1]
    high = (height - (rows - 1) * stride, width - (columns - 1) * stride)
    return _windows(lax.optimization_barrier(_pad(y, 1, high, outside, stride - 1)), 3, 1, 1, height, width)


def avg_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 mean over the pixels inside the image (padding is not counted); shapes as `max_pool`."""
    if is_small(x):
        height, width = (output_size(size, stride) for size in x.shape[-3:-1])
        taps = _tap_matrix(*x.shape[-3:-1], 3, stride, 1)
        mean = taps.sum(0, dtype=np.float64) / taps.sum((0, 2))[:, None]
        return _image(_pixel_product(mean, x), height, width)
    return depthwise_by_shifts(x, jnp.ones((*(1,) * (x.ndim - 3), 3, 3), x.dtype), stride, 1) / _inside(x, stride)


def _inside(x: jax.Array, stride: int) -> jax.Array:
    """How many pixels of each 3×3 window lie inside the image: [⌈H/stride⌉, ⌈W/stride⌉, 1]."""
    rows, columns = (_tap_line(size, 3, stride, 1).sum((0, 2)) for size in x.shape[-3:-1])
    return jnp.asarray(np.outer(rows, columns)[..., None], x.dtype)


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
