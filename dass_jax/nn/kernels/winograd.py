"""Dense 3×3 convolution at stride 1 by Winograd's minimal filtering F(4×4, 3×3). Source: Lavin and Gray (arXiv
1509.09308) Sections 3 and 4.

A tile of 6×6 pixels gives 4×4 results with 36 products for each pair of channels instead of 144. XLA's own convolution
on a CPU is ten and more times slower in a loop, which is where training steps run. Rounding errors are some ten times
those of the definition.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn.kernels import strips
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.strips import Strips

TILE, WINDOW = 4, 6
"""Pixels in a line of a tile's results, and of what it reads."""

# Lavin and Gray, equations 12 to 14 of the arXiv text: Bᵀ, G and Aᵀ.
_READ = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_TAPS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_RESULT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


@functools.partial(jax.jit, inline=True)
def convolution(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [I, H, W, N] with w [O, I, 3, 3], padded by one pixel of zeros: [O, H, W, N]."""
    return _convolution(x, w)


@jax.custom_vjp
def _convolution(x: jax.Array, w: jax.Array) -> jax.Array:
    return _forward(x, w)[0]


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple]:
    return _convolved(x, w), (x, w)


def _backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gradients(*residuals, g)


_convolution.defvjp(_forward, _backward)


def _strips(x: jax.Array, outputs: int) -> Strips:
    inputs, height, width, batch = x.shape
    tiles = -(-width // TILE)
    rows = -(-height // TILE)
    # Of the 36 products of a tile each has all weights.
    in_strip = strips.rows_of_a_strip(rows, outputs * inputs, (outputs + inputs) * tiles * batch)
    results, columns = TILE * in_strip, TILE * tiles
    return Strips(-(-rows // in_strip), results, results, results + 2, columns + 2, columns)


@compiled_once
def _convolved(x: jax.Array, w: jax.Array) -> jax.Array:
    cut, taps = _strips(x, w.shape[0]), _taps(w)

    def convolved(strip: jax.Array) -> jax.Array:
        products = lax.optimization_barrier(jnp.matmul(taps, _read(strip)))
        return _results(_by_tile(products, cut, x.shape[-1]))

    return strips.forward(strips.padded(x, cut, 1), cut, convolved)[:, : x.shape[1], : x.shape[2]]


@compiled_once
def _gradients(x: jax.Array, w: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    cut, taps = _strips(x, w.shape[0]), _taps(w)

    def gradients(strip: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        to_products = _to_products(g)
        to_taps = jnp.matmul(to_products, _read(strip).swapaxes(1, 2))
        to_read = lax.optimization_barrier(jnp.matmul(taps.swapaxes(1, 2), to_products))
        return _to_strip(_by_tile(to_read, cut, x.shape[-1]))[:, : cut.reach, : cut.width], to_taps

    to_x, to_taps = strips.backward(strips.padded(x, cut, 1), strips.padded_results(g, cut), cut, gradients)
    return strips.cut(to_x, x, 1), _to_weights(to_taps)


def _combined(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """For each row of the matrix the sum of the parts times its entries."""
    terms = ([float(c) * part for c, part in zip(row, parts, strict=True) if c] for row in matrix)
    return [functools.reduce(jnp.add, own) for own in terms]


def _along(x: jax.Array, axis: int, matrix: np.ndarray) -> jax.Array:
    """What each tile reads along an axis of pixels, transformed: a new axis in front, and one entry for each tile."""
    reach = matrix.shape[1]
    last = (x.shape[axis] - reach) // TILE * TILE + 1
    parts = [lax.slice_in_dim(x, first, first + last, TILE, axis) for first in range(reach)]
    return lax.optimization_barrier(jnp.stack(_combined(matrix, parts)))


def _read(strip: jax.Array) -> jax.Array:
    """Bᵀ d B of all tiles: [36, I, tiles · N]."""
    both = _along(_along(strip, 1, _READ), 3, _READ)
    return both.reshape(WINDOW**2, strip.shape[0], -1)


def _to_products(g: jax.Array) -> jax.Array:
    """A g Aᵀ of all tiles, the gradient through `_results`: [36, O, tiles · N]."""
    both = _along(_along(g, 1, _RESULT.T), 3, _RESULT.T)
    return both.reshape(WINDOW**2, g.shape[0], -1)


def _by_tile(x: jax.Array, cut: Strips, batch: int) -> jax.Array:
    """[36, C, tiles · N] → [6 (columns), 6 (rows), C, tiles, tiles, N]."""
    return x.reshape(WINDOW, WINDOW, x.shape[1], cut.results // TILE, cut.columns // TILE, batch)


def _image_of_tiles(parts: list[jax.Array], axis: int) -> jax.Array:
    """Four arrays, each with one pixel of every tile along the axis: all pixels of that axis."""
    y = jnp.stack(parts, axis + 1)
    return y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])


def _results(products: jax.Array) -> jax.Array:
    """Aᵀ m A of all tiles: [O, rows, columns, N]."""
    rows = lax.optimization_barrier(_image_of_tiles(_combined(_RESULT, list(products)), 3))
    return lax.optimization_barrier(_image_of_tiles(_combined(_RESULT, list(rows)), 1))


def _to_strip(to_read: jax.Array) -> jax.Array:
    """B v Bᵀ of all tiles, added where they overlap, the gradient through `_read`: [I, rows, columns, N]."""
    rows = lax.optimization_barrier(_overlapped(_combined(_READ.T, list(to_read)), 3))
    return _overlapped(_combined(_READ.T, list(rows)), 1)


def _overlapped(parts: list[jax.Array], axis: int) -> jax.Array:
    """Six arrays, each with one pixel of every window along the axis: all pixels; the last two are the next tile's."""

    def moved(x: jax.Array, tiles: int) -> jax.Array:
        pads = [(0, 0, 0)] * x.ndim
        pads[axis] = (tiles, 1 - tiles, 0)
        return lax.pad(x, jnp.zeros((), x.dtype), pads)

    own, further = [moved(x, 0) for x in parts[:TILE]], [moved(x, 1) for x in parts[TILE:]]
    sums = [a + b for a, b in zip(own, further, strict=False)]
    return _image_of_tiles(sums + own[len(further) :], axis)


def _pairs() -> np.ndarray:
    """G ⊗ G: [36, 9]."""
    return np.einsum("ri,cj->crij", _TAPS, _TAPS).reshape(WINDOW**2, -1)


def _taps(w: jax.Array) -> jax.Array:
    """G w Gᵀ: [36, O, I]."""
    lines = w.transpose(2, 3, 0, 1).reshape(9, -1)
    return (jnp.asarray(_pairs(), w.dtype) @ lines).reshape(WINDOW**2, *w.shape[:2])


def _to_weights(to_taps: jax.Array) -> jax.Array:
    """The gradient through `_taps`: [O, I, 3, 3]."""
    lines = jnp.asarray(_pairs().T, to_taps.dtype) @ to_taps.reshape(WINDOW**2, -1)
    return lines.reshape(3, 3, *to_taps.shape[1:]).transpose(2, 3, 0, 1)
