"""Sums over the pixels of a batch: what normalisation, mixing and the gradients of weights are made of.

XLA on a CPU adds the terms of a reduction one by one, each waiting for the last. Reductions of several arrays at once
keep it busy, so that a sum is cut into a few slabs where there is only one array to add up.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn.kernels import blocks
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.precision import widened

PIXELS = (-3, -2, -1)
"""The axes H, W and N."""
_AT_ONCE = 8
"""Running sums in one pass: enough to hide the time that an addition takes."""


def sums_of_products(views: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    """Σ over H, W and N of view · g, for each view and g [..., C, H, W, N]: one [..., C] for each view, in one pass and
    in float32 at least.

    The views may lack axes of g or have them with size 1, and g those of the views.
    """
    return _in_slabs(views, g) if jax.default_backend() == "cpu" else _plain(views, g)


def _plain(views: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    """What an accelerator's compiler makes one loop of: a reduction of several arrays reads them from memory."""
    views, g = jax.tree.map(widened, (views, g))
    return tuple((view * g).sum(PIXELS) for view in views)


@jax.custom_jvp
@functools.partial(jax.jit, inline=True)
def _in_slabs(views: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    """What a CPU's compiler makes one loop of."""
    shape = np.broadcast_shapes(g.shape, *(view.shape for view in views))
    views, g = jax.tree.map(widened, (views, g))
    height, axes = shape[-3], tuple(range(len(shape) - 3, len(shape)))
    parts = next(n for n in range(max(1, _AT_ONCE // len(views)), 0, -1) if height % n == 0)
    slabs = [slice(part * height // parts, (part + 1) * height // parts) for part in range(parts)]
    whole = [jnp.broadcast_to(view * g, shape) for view in views]
    products = [product[..., slab, :, :] for product in whole for slab in slabs]
    zeros = [jnp.zeros((), g.dtype)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], axes)
    return tuple(functools.reduce(jnp.add, sums[i : i + parts]) for i in range(0, len(sums), parts))


@_in_slabs.defjvp
def _in_slabs_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    # Only second derivatives come here. JAX cannot transpose a reduction of several arrays, so the sums are plain.
    (views, g), (moved_views, moved_g) = jax.tree.map(widened, (primals, tangents))
    moved = ((moved_view * g + view * moved_g).sum(PIXELS) for view, moved_view in zip(views, moved_views, strict=True))
    return _in_slabs(*primals), tuple(moved)


@compiled_once
def product_and_sum(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ x · g and Σ g over H, W and N: two arrays [..., C] in float32 at least."""
    with_x, alone = sums_of_products((x, jnp.ones_like(x)), g)
    return with_x, alone


def spread(per_channel: jax.Array) -> jax.Array:
    """[..., C] → [..., C, 1, 1, 1]."""
    return per_channel[..., None, None, None]


@jax.custom_vjp
def weighted_sum(x: jax.Array, w: jax.Array) -> jax.Array:
    """Σ over sources and operations of x · w: x [S, O, T or 1, C, H, W, N] or, side by side (`blocks`), [S, O·T·C, H,
    W, N]; w [S, O, T, C] → [T, C, H, W, N]. The sum has the dtype of w, if that is the wider one.
    """
    return weighted_terms(x, w)


def _weighted_sum_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple]:
    return weighted_terms(x, w), (x, w)


@compiled_once
def weighted_terms(x: jax.Array, w: jax.Array) -> jax.Array:
    """`weighted_sum`, for functions that have a gradient of their own."""
    if x.ndim == 5:
        return blocks.weighted_terms(x, w)
    # Term by term: for a reduction XLA on a CPU would write w to memory at the size of x.
    return functools.reduce(jnp.add, [x[index] * spread(w[index]) for index in np.ndindex(x.shape[:2])])


@compiled_once
def product(x: jax.Array, g: jax.Array) -> jax.Array:
    """Σ x · g over H, W and N, for x as in `weighted_sum` and g as its result: x.shape[:-3], or [S, O, T, C]."""
    if x.ndim == 5:
        g = blocks.repeated(x, g)
    return sums_of_products((x,), g)[0]


def through_terms(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `weighted_terms` by x, before it is rounded to the dtype of x."""
    if x.ndim == 5:
        return blocks.through_terms(w, g)
    if x.shape[2] == w.shape[2]:
        return spread(w) * g
    # One map for all targets.
    return functools.reduce(jnp.add, [spread(w[:, :, t]) * g[t] for t in range(w.shape[2])])[:, :, None]


@functools.partial(jax.jit, inline=True)
def _weighted_sum_backward(residuals: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    return through_terms(x, w, g).astype(x.dtype), product(x, g).reshape(w.shape).astype(w.dtype)


weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


@jax.custom_vjp
def multiples(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
    """x [C, H, W, N] times each entry of w [T]: T maps, to be made where they are added up. They have the dtype of w,
    if that is the wider one."""
    return _multiplied(x, w)


def _multiplied(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(factor * x for factor in w)


# It calls nothing with a reverse derivative of its own, of which JAX takes no forward one (implicit hypergradients do).
def _multiples_forward(x: jax.Array, w: jax.Array) -> tuple[tuple[jax.Array, ...], tuple]:
    return _multiplied(x, w), (x, w)


def _multiples_backward(residuals: tuple, g: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    to_x = functools.reduce(jnp.add, [factor * each for factor, each in zip(w, g, strict=True)])
    return to_x.astype(x.dtype), jnp.stack(_products(x, g)).sum(-1).astype(w.dtype)


@compiled_once
def _products(x: jax.Array, views: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return sums_of_products(views, x)


multiples.defvjp(_multiples_forward, _multiples_backward)


@jax.custom_vjp
def combination(maps: tuple[jax.Array, ...], w: jax.Array) -> jax.Array:
    """Σ of maps [C, H, W, N] times their entries of w [S]. The sum has the dtype of w, if that is the wider one."""
    return _combined(maps, w)


@compiled_once
def _combined(maps: tuple[jax.Array, ...], w: jax.Array) -> jax.Array:
    return functools.reduce(jnp.add, [factor * x for factor, x in zip(w, maps, strict=True)])


def _combination_forward(maps: tuple[jax.Array, ...], w: jax.Array) -> tuple[jax.Array, tuple]:
    return _combined(maps, w), (maps, w)


def _combination_backward(residuals: tuple, g: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
    maps, w = residuals
    to_maps = tuple((factor * g).astype(x.dtype) for factor, x in zip(w, maps, strict=True))
    return to_maps, jnp.stack(_products(g, maps)).sum(-1).astype(w.dtype)


combination.defvjp(_combination_forward, _combination_backward)
