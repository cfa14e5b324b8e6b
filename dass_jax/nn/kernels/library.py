"""Window operations as XLA's own grouped convolution and `reduce_window`: for accelerators, slow on a CPU.

Leading axes become channels. XLA brings [C, H, W, N] into the layout that its convolution wants.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn.kernels.windows import inside, output_size, pad, windows
from dass_jax.nn.precision import widened


def depthwise(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """A convolution with one group per channel of x.

    Where x has size 1 and w has more, several operations read one source: they are output channels of the source's
    group, so that x is not repeated in memory.
    """
    lead, border = np.broadcast_shapes(x.shape[:-4], w.shape[:-3]), (w.shape[-1] - 1) // 2 * dilation
    shared = tuple(axis for axis in range(len(lead)) if x.shape[axis] == 1)
    # The library puts the groups first: sources, channels, then the operations that share a source.
    order = (*(axis for axis in range(len(lead)) if axis not in shared), len(lead), *shared)
    kernels = jnp.broadcast_to(w, (*lead, *w.shape[-3:])).transpose(*order, len(lead) + 1, len(lead) + 2)
    groups = x.reshape(-1, *x.shape[-3:])
    y = lax.conv_general_dilated(
        groups,
        kernels.reshape(-1, 1, *w.shape[-2:]),
        (stride, stride),
        [(border, border)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
        feature_group_count=len(groups),
    )
    return jnp.moveaxis(y.reshape(*kernels.shape[:-2], *y.shape[1:]), range(len(order)), order)


def separable(x: jax.Array, depthwise_w: jax.Array, pointwise_w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`kernels.separable` as one dense convolution, whose weights are the products of both.

    Many more multiplications, of the kind that a TPU has units for, and a map less to write and to read again: a
    depthwise convolution leaves these units idle, and what it writes has to change its layout for the product after it.
    """
    (sources, operations, outputs, inputs), k = pointwise_w.shape, depthwise_w.shape[-1]
    border = (k - 1) // 2 * dilation
    weights = pointwise_w[..., None, None] * depthwise_w[:, :, None]
    y = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        weights.astype(x.dtype).reshape(-1, inputs, k, k),
        (stride, stride),
        [(border, border)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
        feature_group_count=x.shape[0] * x.shape[1],
    )
    return y.reshape(sources, operations, outputs, *y.shape[1:])


def pointwise(x: jax.Array, w: jax.Array) -> jax.Array:
    """A product over the channels, which leaves the pixels' axes as they are: to make them one, XLA would have to bring
    them into one order."""
    return jnp.einsum("...oi,...ihwn->...ohwn", w, x)


def convolution(x: jax.Array, w: jax.Array, stride: int, padding: int, dilation: int = 1) -> jax.Array:
    """Dense convolution: x [I, H, W, N], w [O, I, k, k] → [O, H', W', N]."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """`reduce_window`, but with the derivative of the other forms, in both modes and of any order.

    The library's own gives the gradient of tied maxima to the first of them, and in bfloat16 ties are common.
    """
    return _reduce_window(x, stride, -jnp.inf, lax.max)


@max_pool.defjvp
def _max_pool_jvp(stride: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (moved,) = primals, tangents
    y = max_pool(x, stride)
    largest = [view == y for view in _views(x, stride, -jnp.inf)]
    moved = widened(moved)
    tied = functools.reduce(jnp.add, [each.astype(moved.dtype) for each in largest])
    shares = [jnp.where(each, view, 0) for each, view in zip(largest, _views(moved, stride, 0.0), strict=True)]
    return y, (functools.reduce(jnp.add, shares) / tied).astype(y.dtype)


def _views(x: jax.Array, stride: int, outside: float) -> list[jax.Array]:
    """The nine pixels of every 3×3 window."""
    height, width = (output_size(size, stride) for size in x.shape[-3:-1])
    return windows(pad(x, 1, (1, 1), outside), 3, stride, 1, height, width)


def avg_pool(x: jax.Array, stride: int) -> jax.Array:
    """The window's sum over the number of pixels inside the image."""
    wide = widened(x)
    return (_reduce_window(wide, stride, 0.0, lax.add) / inside(wide, stride)).astype(x.dtype)


def _reduce_window(x: jax.Array, stride: int, start: float, combine: Callable[..., jax.Array]) -> jax.Array:
    """x [..., C, H, W, N]: 3×3 windows in H and W, padded by one pixel of `start`."""
    lead = (1,) * (x.ndim - 3)
    pads = [(0, 0)] * (x.ndim - 3) + [(1, 1)] * 2 + [(0, 0)]
    return lax.reduce_window(x, start, combine, (*lead, 3, 3, 1), (*lead, stride, stride, 1), pads)
