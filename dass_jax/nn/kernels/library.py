"""Window operations as XLA's own grouped convolution and `reduce_window`: for accelerators, slow on a CPU.

Leading axes become channels. XLA brings [C, H, W, N] into the layout that its convolution wants.
"""

import functools
import itertools
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


def pointwise(x: jax.Array, w: jax.Array) -> jax.Array:
    """`kernels.pointwise` of every pixel. Height, width and images stay axes of their own: to make them one, XLA may
    have to change the layout of x."""
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
    # Kept for the transpose are x and y; which pixels are equal would be nine maps too.
    return y, jax.checkpoint(_shared, prevent_cse=False, static_argnums=(3,))(x, y, moved, stride)


def _shared(x: jax.Array, y: jax.Array, moved: jax.Array, stride: int) -> jax.Array:
    """The tangent of y = max_pool(x) for that of x. Written so that its transpose is one pass, in which every pixel
    asks the nine windows that it is in; windows that gave to their pixels would be nine maps to write and to read."""
    tied = functools.reduce(jnp.add, [(view == y).astype(widened(y).dtype) for view in _views(x, stride, -jnp.inf)])
    parts = []
    for tap in itertools.product(range(3), repeat=2):
        spread = functools.partial(_spread, tap=tap, stride=stride, size=x.shape[-3:-1])
        own = jnp.where(x == spread(y, outside=jnp.inf), widened(moved), 0)
        parts += jax.linear_transpose(spread, tied)(own)
    return (lax.optimization_barrier(functools.reduce(jnp.add, parts)) / tied).astype(y.dtype)


def _spread(y: jax.Array, tap: tuple[int, ...], stride: int, size: tuple[int, ...], outside: float = 0.0) -> jax.Array:
    """For every pixel what the window says in which it has the given place, or `outside` if there is none:
    [..., C, h, w, N] → [..., C, H, W, N]."""
    borders = [
        (place - 1, whole - (windows - 1) * stride - place, stride - 1)
        for place, whole, windows in zip(tap, size, y.shape[-3:-1], strict=True)
    ]
    return lax.pad(y, jnp.asarray(outside, y.dtype), [(0, 0, 0)] * (y.ndim - 3) + borders + [(0, 0, 0)])


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
