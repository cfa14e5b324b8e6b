"""The arithmetic of the primitives, in the forms that XLA compiles well.

Activations are [..., C, H, W, N]. With the batch innermost, a spatial shift is a slice of contiguous rows and a
per-channel weight is a scalar, so a depthwise convolution is k² shifted multiply-adds that vectorise over N; a
pointwise one is a matrix product. XLA's own grouped convolution is ten and more times slower on a CPU, as is the
gradient of its max pooling. Leading axes broadcast, so that all edges which leave one node are one operation.

On a small image a depthwise convolution is better written as the matrix between input and output pixels that it is. On
an accelerator both are the library's; on a TPU a depthwise and a pointwise one after it are a dense one, in a supernet,
for the channels of all operations side by side (`blocks`). A dense convolution on a CPU is a product of tiles
(`winograd`) or of windows (`patches`), strip by strip, or with holes of shifted images (`dilated`). Products are the
library's everywhere.
The form is chosen here and nowhere else: each is a module with the functions `depthwise`, `max_pool` and `avg_pool`,
or with `convolution`.
`channels_last` is no such form: it has another layout, for `networks.inference`.

Weights are cast to the dtype of x, and the result has it.

The plain definitions that these forms must equal are in the tests.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels import blocks, dilated, library, matrix, patches, shifts, taps, winograd
from dass_jax.nn.kernels.norms import Average as Average
from dass_jax.nn.kernels.norms import inverse_deviation as inverse_deviation
from dass_jax.nn.kernels.norms import normalised as normalised
from dass_jax.nn.kernels.norms import normalised_sum as normalised_sum
from dass_jax.nn.kernels.norms import scale_and_shift as scale_and_shift
from dass_jax.nn.kernels.norms import scaled as scaled
from dass_jax.nn.kernels.norms import weight_and_shift as weight_and_shift
from dass_jax.nn.kernels.relu import relu as relu
from dass_jax.nn.kernels.relu import relu6 as relu6
from dass_jax.nn.kernels.sums import combination as combination
from dass_jax.nn.kernels.sums import multiples as multiples
from dass_jax.nn.kernels.sums import spread as spread
from dass_jax.nn.kernels.sums import weighted_sum as weighted_sum
from dass_jax.nn.kernels.windows import inside, pad
from dass_jax.nn.precision import widened

SMALL_IMAGE = 64
"""Pixels up to which a window operation is a product with the matrix between input and output pixels."""


def is_small(x: jax.Array) -> bool:
    """Whether the image of x [..., C, H, W, N] has at most `SMALL_IMAGE` pixels."""
    return x.shape[-3] * x.shape[-2] <= SMALL_IMAGE


def form(x: jax.Array) -> ModuleType:
    """The module whose functions suit the image of x [..., C, H, W, N] and the backend that JAX takes by default.

    The backend is asked while JAX traces. `lax.platform_dependent` would choose when XLA compiles, but traces and
    differentiates every form for each of a supernet's hundreds of operations. All forms are right on every device.
    """
    if jax.default_backend() != "cpu":
        return library
    return matrix if is_small(x) else shifts


def _operand(x: jax.Array, chosen: ModuleType) -> jax.Array:
    """The forms for a CPU compute in float32 at least and round once, as an accelerator's units do by themselves."""
    return x if chosen is library else widened(x)


def depthwise(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Depthwise convolution with zero padding (k − 1)/2 · dilation.

    Args:
      x: [..., C, H, W, N].
      w: [..., C, k, k], k odd; leading axes broadcast against those of x (equal in number).

    Returns:
      [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """
    chosen = form(x)
    y = chosen.depthwise(_operand(x, chosen), _operand(w.astype(x.dtype), chosen), stride, dilation)
    return y.astype(x.dtype)


def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 maximum, padded with −∞: [..., C, H, W, N] → [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].

    Among tied maxima the gradient is shared, not given to the first.
    """
    chosen = form(x)
    return chosen.max_pool(_operand(x, chosen), stride).astype(x.dtype)


def max_pool_by_views(x: jax.Array, stride: int = 1) -> jax.Array:
    """`max_pool`, on a CPU as shifted maxima on small images too: for a program of few operations on many maps. Nine
    products compile faster, and take 8 to 30 times as long (8×8 pixels, 48 maps, 32 and 500 images)."""
    chosen = library if jax.default_backend() != "cpu" else shifts
    return chosen.max_pool(_operand(x, chosen), stride).astype(x.dtype)


def avg_pool(x: jax.Array, stride: int = 1, padded: bool = False) -> jax.Array:
    """3×3 mean over the pixels inside the image or, `padded`, over all nine, zeros outside; shapes as `max_pool`."""
    chosen = form(x)
    y = chosen.avg_pool(_operand(x, chosen), stride)
    if padded:
        y = y * (inside(x, stride) / 9).astype(y.dtype)
    return y.astype(x.dtype)


def pointwise(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """1×1 convolution: x [..., I, H, W, N], w [..., O, I] with the same leading axes → [..., O, ⌈H/s⌉, ⌈W/s⌉, N]."""
    x = apart(x[..., ::stride, ::stride, :])
    if jax.default_backend() != "cpu":
        return library.pointwise(x, w.astype(x.dtype))
    y = jnp.matmul(w.astype(x.dtype), x.reshape(*x.shape[:-3], -1))
    return apart(y.reshape(*y.shape[:-1], *x.shape[-3:]))


def separable(
    x: jax.Array,
    depthwise_w: Sequence[jax.Array],
    pointwise_w: Sequence[jax.Array],
    stride: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """A depthwise convolution and a pointwise one after it.

    On a TPU the maps of all operations are side by side, see `blocks`: what one such call has made goes into the next
    as it is, and into `normalised_sum` and `weighted_sum`.

    Args:
      x: [S, T or 1, I, H, W, N]; or [S, T·I, H, W, N].
      depthwise_w: [S, t, I, k, k], k odd, whose t add up to T; zero padding (k − 1)/2 · dilation.
      pointwise_w: [S, t, O, I], likewise.

    Returns:
      [S, T, O, ⌈H/stride⌉, ⌈W/stride⌉, N]; or [S, T·O, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """
    spatial, dense = (jnp.concatenate(parts, axis=1) for parts in (depthwise_w, pointwise_w))
    if jax.default_backend() == "tpu":
        return blocks.separable(x.reshape(len(x), -1, *x.shape[-3:]), spatial, dense, stride, dilation)
    with jax.named_scope("depthwise"):
        y = depthwise(x, spatial, stride, dilation)
    with jax.named_scope("pointwise"):
        return pointwise(y, dense)


def apart(x: jax.Array) -> jax.Array:
    """x and its gradient, each computed once on a CPU, where XLA repeats a sum in every operation that reads it."""
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def convolution(x: jax.Array, w: jax.Array, stride: int = 1, padding: int = 0, dilation: int = 1) -> jax.Array:
    """Dense convolution: x [I, H, W, N], w [O, I, k, k] → [O, H', W', N]; with dilation > 1 the maps keep their size,
    at stride 1 and padding (k − 1)/2 · dilation."""
    w = w.astype(x.dtype)
    if dilation > 1:
        if jax.default_backend() != "cpu":
            return library.convolution(x, w, 1, (w.shape[-1] - 1) // 2 * dilation, dilation)
        return dilated.convolution(widened(x), widened(w), dilation).astype(x.dtype)
    if jax.default_backend() != "cpu":
        return library.convolution(x, w, stride, padding)
    wide = widened(x), widened(w)
    if _suits_tiles(x, w, stride, padding):
        return winograd.convolution(*wide).astype(x.dtype)
    return patches.convolution(*wide, stride, padding).astype(x.dtype)


def convolution_by_taps(x: jax.Array, w: jax.Array) -> jax.Array:
    """`convolution` with stride 1 and padding k // 2, in a loop over many operations whose windows are mostly zero."""
    w = w.astype(x.dtype)
    if jax.default_backend() != "cpu":
        return library.convolution(x, w, 1, w.shape[-1] // 2)
    return taps.convolution(widened(x), widened(w)).astype(x.dtype)


def _suits_tiles(x: jax.Array, w: jax.Array, stride: int, padding: int) -> bool:
    """Whether tiles of 6×6 pixels need fewer products than windows, and do not take more memory: they are of the
    results too, 36 / 16 maps for each of either, against nine for each input."""
    if (w.shape[-1], stride, padding) != (3, 1, 1):
        return False
    products = [math.prod(-(-size // side) for size in x.shape[1:3]) * area for side, area in ((4, 36), (1, 9))]
    return products[0] < products[1] and w.shape[0] <= 3 * w.shape[1]


def shifted_pair(x: jax.Array) -> jax.Array:
    """The two stride-2 views of a factorized reduce, x[0::2, 0::2] and x[1::2, 1::2]: [..., 2, C, ⌈H/2⌉, ⌈W/2⌉, N].

    At an odd size the second view's last row or column would be missing; it is zero.
    """
    odd = pad(x, -1, (1, 1))
    return jnp.stack([x[..., ::2, ::2, :], odd[..., ::2, ::2, :]], axis=-5)
