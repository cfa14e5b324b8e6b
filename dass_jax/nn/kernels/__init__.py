"""The arithmetic of the primitives, in the forms that XLA compiles well.

Activations are [..., C, H, W, N]. With the batch innermost, a spatial shift is a slice of contiguous rows and a
per-channel weight is a scalar, so a depthwise convolution is k² shifted multiply-adds that vectorise over N; a
pointwise one is a matrix product. XLA's own grouped convolution is ten and more times slower on a CPU, as is the
gradient of its max pooling. Leading axes broadcast, so that all edges which leave one node are one operation.

On a small image a depthwise convolution is better written as the matrix between input and output pixels that it is.
The form is chosen here and nowhere else: each is a module with the functions `depthwise`, `max_pool` and `avg_pool`.
`channels_last` is no such form: it has another layout, for `models.inference`.

The plain definitions that these forms must equal are in the tests.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels import matrix, shifts
from dass_jax.nn.kernels.sums import moments as moments
from dass_jax.nn.kernels.sums import scaled as scaled
from dass_jax.nn.kernels.sums import spread as spread
from dass_jax.nn.kernels.sums import weighted_sum as weighted_sum
from dass_jax.nn.kernels.windows import pad

SMALL_IMAGE = 64
"""Pixels up to which a window operation is a product with the matrix between input and output pixels."""


def is_small(x: jax.Array) -> bool:
    """Whether the image of x [..., C, H, W, N] has at most `SMALL_IMAGE` pixels."""
    return x.shape[-3] * x.shape[-2] <= SMALL_IMAGE


def form(x: jax.Array) -> ModuleType:
    """The module whose functions suit the image of x [..., C, H, W, N]."""
    return matrix if is_small(x) else shifts


def depthwise(x: jax.Array, w: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Depthwise convolution with zero padding (k − 1)/2 · dilation.

    Args:
      x: [..., C, H, W, N].
      w: [..., C, k, k], k odd; leading axes broadcast against those of x (equal in number).

    Returns:
      [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """
    return form(x).depthwise(x, w, stride, dilation)


def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 maximum, padded with −∞: [..., C, H, W, N] → [..., C, ⌈H/stride⌉, ⌈W/stride⌉, N].

    Among tied maxima the gradient is shared, not given to the first.
    """
    return form(x).max_pool(x, stride)


def avg_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """3×3 mean over the pixels inside the image (padding is not counted); shapes as `max_pool`."""
    return form(x).avg_pool(x, stride)


def pointwise(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    """1×1 convolution: x [..., I, H, W, N], w [..., O, I] with the same leading axes → [..., O, ⌈H/s⌉, ⌈W/s⌉, N]."""
    x = lax.optimization_barrier(x[..., ::stride, ::stride, :])
    y = jnp.matmul(w, x.reshape(*x.shape[:-3], -1))
    return lax.optimization_barrier(y.reshape(*y.shape[:-1], *x.shape[-3:]))


def convolution(x: jax.Array, w: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """Dense convolution: x [I, H, W, N], w [O, I, k, k] → [O, H', W', N]."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("CHWN", "OIHW", "CHWN")
    )


def shifted_pair(x: jax.Array) -> jax.Array:
    """The two stride-2 views of a factorized reduce, x[0::2, 0::2] and x[1::2, 1::2]: [..., 2, C, ⌈H/2⌉, ⌈W/2⌉, N].

    At an odd size the second view's last row or column would be missing; it is zero.
    """
    odd = pad(x, -1, (1, 1))
    return jnp.stack([x[..., ::2, ::2, :], odd[..., ::2, ::2, :]], axis=-5)
