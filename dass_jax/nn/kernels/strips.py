"""Dense convolutions strip by strip: some rows of the image at a time, so that what is written for a strip's products
is read again from the cache.

A form says how one strip is convolved and how its gradients are found; here is the loop over strips.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels.windows import pad

rows = functools.partial(lax.dynamic_slice_in_dim, axis=1)

ENOUGH = 8
"""A strip has at least as many times as many numbers as the weights, which every strip reads."""


class Strips(NamedTuple):
    """How an image is cut."""

    number: int
    results: int
    """Rows of the result that a strip gives."""
    step: int
    """Rows of the padded image from one strip to the next."""
    reach: int
    """Rows that a strip reads, of which the last belong to the next strip too."""
    width: int
    """Of the padded image."""
    columns: int
    """Of the result."""


def rows_of_a_strip(height: int, weights: int, of_a_row: int) -> int:
    """How many of all rows are in a strip.

    Args:
      weights: how many numbers the weights of a product are.
      of_a_row: how many it reads and writes for a row.
    """
    strips = max(1, height // max(1, -(-ENOUGH * weights // of_a_row)))
    return -(-height // strips)


def padded(x: jax.Array, strips: Strips, padding: int) -> jax.Array:
    """x [I, H, W, N] with zeros around it, as large as the strips read."""
    return _padded(x, padding, (strips.number - 1) * strips.step + strips.reach, strips.width)


def padded_results(g: jax.Array, strips: Strips) -> jax.Array:
    """g [O, H', W', N] with zeros for results that only fill the last strip or tile."""
    return _padded(g, 0, strips.number * strips.results, strips.columns)


def _padded(x: jax.Array, low: int, height: int, width: int) -> jax.Array:
    if (height, width) == x.shape[1:3]:
        return x
    return lax.optimization_barrier(pad(x, low, (height - low - x.shape[1], width - low - x.shape[2])))


def forward(x: jax.Array, strips: Strips, convolved: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """All rows of the result, for a padded x [I, H, W, N] and a form of one strip."""

    def one(index: Any, y: jax.Array) -> jax.Array:
        strip = convolved(rows(x, index * strips.step, strips.reach))
        return lax.dynamic_update_slice_in_dim(y, strip, index * strips.results, 1)

    shape = jax.eval_shape(lambda: convolved(x[:, : strips.reach])).shape
    start = jnp.zeros((shape[0], strips.number * strips.results, *shape[2:]), x.dtype)
    return lax.fori_loop(0, strips.number, one, start)


def backward(
    x: jax.Array,
    g: jax.Array,
    strips: Strips,
    gradients: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
    """The gradients by the padded x and by the weights, for g [O, H', W', N] and a form's gradients of one strip, by
    its rows and by the weights."""
    shared = strips.reach - strips.step

    def one(index: Any, sums: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        to_x, begun, to_weights = sums
        own = rows(x, index * strips.step, strips.reach), rows(g, index * strips.results, strips.results)
        to_strip, to_own_weights = gradients(*own)
        # What strips share is carried to the next one, so that rows are written once and never read.
        whole = lax.optimization_barrier(jnp.concatenate([to_strip[:, :shared] + begun, to_strip[:, shared:]], 1))
        to_x = lax.dynamic_update_slice_in_dim(to_x, whole[:, : strips.step], index * strips.step, 1)
        return to_x, whole[:, strips.step :], to_weights + to_own_weights

    shape = jax.eval_shape(lambda: gradients(x[:, : strips.reach], g[:, : strips.results])[1]).shape
    start = jnp.zeros_like(x), jnp.zeros_like(x[:, :shared]), jnp.zeros(shape, x.dtype)
    to_x, rest, to_weights = lax.fori_loop(0, strips.number, one, start)
    return lax.dynamic_update_slice_in_dim(to_x, rest, strips.number * strips.step, 1), to_weights


def cut(to_x: jax.Array, x: jax.Array, padding: int) -> jax.Array:
    """Without the padding, and with zeros for rows and columns of x that nothing has read."""
    edges = [(-padding, x.shape[axis] + padding - to_x.shape[axis], 0) for axis in (1, 2)]
    return lax.pad(to_x, jnp.zeros((), to_x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
