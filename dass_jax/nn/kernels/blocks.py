"""Channels of many operations side by side, for a TPU: maps [S, K, H, W, N] with K = operations · targets · channels.

A TPU's vectors have 128 lanes, and XLA pads whatever lies along them. The channels of one operation, or the images of a
batch, fill a part of them; those of all operations that leave a node fill them, and convolutions and sums over
operations are products of matrices whose blocks off the diagonal are zero. That is many more multiplications than there
need be, by units that would wait for memory otherwise.
"""

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.precision import widened

_WIDEST = 512
"""Channels that one matrix takes: beyond, its zeros cost more than they save."""


def separable(x: jax.Array, depthwise_w: jax.Array, pointwise_w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`kernels.separable` as one dense convolution, whose weights are the products of both.

    A map less to write and to read again: a depthwise convolution leaves a TPU's units for products idle, and what it
    writes has to change its layout for the product after it.

    Args:
      x: [S, I, H, W, N], for all operations, or [S, T·I, H, W, N].
      depthwise_w: [S, T, I, k, k].
      pointwise_w: [S, T, O, I].

    Returns:
      [S, T·O, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """
    (sources, operations, outputs, inputs), k = pointwise_w.shape, depthwise_w.shape[-1]
    border, count = (k - 1) // 2 * dilation, 1
    if x.shape[1] == inputs:
        weights = pointwise_w[..., None, None] * depthwise_w[:, :, None]
    else:
        together = max(n for n in range(1, operations + 1) if operations % n == 0 and (n == 1 or n * inputs <= _WIDEST))
        count = operations // together
        diagonal = jnp.eye(together, dtype=pointwise_w.dtype)[:, None, :, None]
        dense = pointwise_w.reshape(-1, together, outputs, 1, inputs) * diagonal
        spatial = depthwise_w.reshape(-1, 1, together * inputs, k, k)
        weights = dense.reshape(-1, together * outputs, together * inputs)[..., None, None] * spatial
    y = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        weights.astype(x.dtype).reshape(sources * operations * outputs, -1, k, k),
        (stride, stride),
        [(border, border)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
        feature_group_count=sources * count,
    )
    return y.reshape(sources, operations * outputs, *y.shape[1:])


def weighted_terms(x: jax.Array, w: jax.Array) -> jax.Array:
    """Σ over sources and operations of x · w: x [S, O·T·C, H, W, N], w [S, O, T, C] → [T, C, H, W, N], in float32 at
    least."""
    y = jnp.einsum("fsk,skhwn->fhwn", _matrix(w), widened(x), precision=lax.Precision.HIGHEST)
    return y.reshape(*w.shape[2:], *x.shape[-3:])


def through_terms(w: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `weighted_terms` by x: w [S, O, T, C], g [T, C, H, W, N] → [S, O·T·C, H, W, N]."""
    flat = widened(g).reshape(-1, *g.shape[-3:])
    return jnp.einsum("fsk,fhwn->skhwn", _matrix(w), flat, precision=lax.Precision.HIGHEST)


def repeated(x: jax.Array, g: jax.Array) -> jax.Array:
    """g [T, C, H, W, N] once for each source and operation of x [S, O·T·C, H, W, N]: of the shape of x."""
    (sources, channels), own = x.shape[:2], g.shape[:2]
    return through_terms(jnp.ones((sources, channels // (own[0] * own[1]), *own), widened(g).dtype), g)


def _matrix(w: jax.Array) -> jax.Array:
    """[S, O, T, C] → [T·C, S, O·T·C]: that of the sum over S and O."""
    sources, operations, targets, channels = w.shape
    kept = targets * channels
    rows = w.reshape(1, sources, operations, kept) * jnp.eye(kept, dtype=w.dtype)[:, None, None]
    return rows.reshape(kept, sources, operations * kept)
