"""Exact top-k masks and the straight-through gradient. Source: DASS (arXiv 2207.06968) Eq. 4 and 7.

    m = 1 for the kept(n) largest |s| of a layer's n weights, 0 elsewhere;   kept(n) by `distribution`
    forward: θ⊙m      backward, with g = ∂L/∂(θ⊙m):   ∂L/∂θ = m⊙g,   ∂L/∂s = sign(s)⊙θ⊙g

Among tied scores the earlier weights (row-major) survive, so the count is exact whatever the scores are.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.sparsity.distribution import Distribution, Pooled, counts, deployed, groups, shares

Kept = Any
"""How many weights survive: a tree with the structure of the prunable leaves, of integers [layers], or `Pooled`."""


def kept_counts(params: Any, stacks: Any, keep: float, distribution: Distribution = "layer") -> Kept:
    """The counts at the fraction `keep` in (0, 1]."""
    return counts(params, stacks, shares(groups(params, stacks), keep, distribution))


def topk_masks(scores: Any, stacks: Any, keep: float, distribution: Distribution = "layer") -> Any:
    """Masks (0 and 1, dtype of the scores) with the structure of `scores`; no gradient flows through them."""
    magnitudes = jax.tree.map(jnp.abs, jax.lax.stop_gradient(scores))
    return largest_of_layers(magnitudes, stacks, kept_counts(scores, stacks, keep, distribution))


def magnitude_masks(weights: Any, masks: Any, stacks: Any, kept: Kept) -> Any:
    """Masks of the largest |weights| of each layer, or of all, among those that `masks` keep: nothing that is pruned
    returns.

    Args:
      weights: prunable leaves, see `variables.select`.
      masks: of 0 and 1, with the structure and shapes of `weights`.
      kept: how many weights survive; where `masks` keep fewer, all of these do.
    """

    def candidates(weight: jax.Array, mask: jax.Array) -> jax.Array:
        return jax.lax.select(mask != 0, jnp.abs(weight), jax.lax.full_like(weight, -1))

    return largest_of_layers(jax.tree.map(candidates, jax.lax.stop_gradient(weights), masks), stacks, kept)


def largest_of_layers(magnitudes: Any, stacks: Any, kept: Kept) -> Any:
    """Masks (0 and 1, structure, shapes and dtypes of `magnitudes`) of the `largest` of each layer, or of all of them.

    Layers of about one size are ranked together, as rows of one array: a network has hundreds of layers, and each array
    is a program of its own to compile.
    """
    leaves, structure = jax.tree.flatten(magnitudes)
    layers = [
        variables.layer_shape(leaf.shape, stack) for leaf, stack in zip(leaves, jax.tree.leaves(stacks), strict=True)
    ]
    sizes = [math.prod(shape) for _, shape in layers]
    rows = [leaf.reshape(-1, size) for leaf, size in zip(leaves, sizes, strict=True)]
    pooled = isinstance(kept, Pooled)
    chosen = _pooled(rows, deployed(stacks), kept) if pooled else _ranked(rows, jax.tree.leaves(kept))
    masks = [part.reshape(leaf.shape).astype(leaf.dtype) for leaf, part in zip(leaves, chosen, strict=True)]
    return jax.tree.unflatten(structure, masks)


def _ranked(rows: list[jax.Array], kept: list[Any]) -> list[jax.Array]:
    """Of each [layers, n] the largest of each layer, as many as `kept` [layers]."""
    sizes = [row.shape[1] for row in rows]
    chosen: dict[int, jax.Array] = {}
    for width in sorted(set(map(_width, sizes))):
        members = [index for index, size in enumerate(sizes) if _width(size) == width]
        # Below every magnitude, so that it is never chosen.
        padded = [jnp.pad(rows[index], ((0, 0), (0, width - sizes[index])), constant_values=-1.0) for index in members]
        own = jnp.concatenate([jnp.asarray(kept[index], "int32") for index in members])
        found = largest(jnp.concatenate(padded), own[:, None])
        parts = jnp.split(found, np.cumsum([len(rows[index]) for index in members])[:-1])
        chosen |= {index: part[:, : sizes[index]] for index, part in zip(members, parts, strict=True)}
    return [chosen[index] for index in range(len(rows))]


def _pooled(rows: list[jax.Array], deployed: list[bool], kept: Pooled) -> list[jax.Array]:
    """Of each [layers, n] those that are among the largest of all by the scale of their layer, and the largest of each
    layer. The scale is the root mean square of all its magnitudes; what is no candidate (−1) counts as 0."""

    def scaled(row: jax.Array) -> jax.Array:
        square = jnp.square(jax.nn.relu(row)).mean(1, keepdims=True)
        return row * jax.lax.rsqrt(jnp.where(square > 0, square, 1))

    chosen: dict[int, jax.Array] = {}
    for part, total in kept.totals.items():
        members = [index for index, own in enumerate(deployed) if own == part]
        # Each layer's largest comes before all others.
        first = [jnp.arange(row.shape[1]) == row.argmax(1)[:, None] for row in (rows[index] for index in members)]
        flat = [
            jnp.where(own & (rows[index] >= 0), jnp.inf, scaled(rows[index])).reshape(-1)
            for index, own in zip(members, first, strict=True)
        ]
        found = largest(jnp.concatenate(flat)[None], jnp.asarray(total, "int32"))[0]
        parts = jnp.split(found, np.cumsum([len(each) for each in flat])[:-1])
        chosen |= {index: each.reshape(rows[index].shape) for index, each in zip(members, parts, strict=True)}
    return [chosen[index] for index in range(len(rows))]


def _width(size: int) -> int:
    """The least power of four that is no smaller."""
    return 4 ** (((size - 1).bit_length() + 1) // 2)


def largest(magnitudes: jax.Array, kept: Any) -> jax.Array:
    """Boolean [rows, n], true at the `kept` largest of each row's n floats, earlier ones first if tied. Negative floats
    are never chosen: of a row with fewer others it is all of these.

    Args:
      kept: integer, or [rows, 1] of them.

    The kept-th largest value is found by bisection on its bit pattern (for non-negative floats the order of the bits is
    the order of the values), the cut among its ties by bisection on the position: exact, and without sorting.
    """
    width = 8 * magnitudes.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(magnitudes, jnp.dtype(f"int{width}"))
    rows, n = bits.shape
    threshold = _bisect(rows, bits.dtype, width - 1, lambda t: (bits >= t).sum(1, keepdims=True) >= kept)
    above, tied = bits > threshold, bits == threshold
    room = kept - above.sum(1, keepdims=True)
    place = jnp.arange(n, dtype=bits.dtype)
    cut = _bisect(rows, bits.dtype, n.bit_length(), lambda c: (tied & (place < c)).sum(1, keepdims=True) <= room)
    return above | (tied & (place < cut))


def _bisect(rows: int, dtype: jnp.dtype, bits: int, holds: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Per row the largest integer below 2**bits for which `holds` ([rows, 1] → bool): true up to it, false beyond."""

    def set_bit(step: jax.Array, value: jax.Array) -> jax.Array:
        trial = value | (jnp.ones((), dtype) << (bits - 1 - step).astype(dtype))
        return jnp.where(holds(trial), trial, value)

    return jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((rows, 1), dtype))


def dense_masks(params: Any, stacks: Any) -> Any:
    """Masks that keep every prunable weight."""
    return jax.tree.map(jnp.ones_like, variables.select(params, stacks))


@jax.custom_jvp
def _straight_through(score: jax.Array, mask: jax.Array) -> jax.Array:
    """The mask, whose derivative by the score is sign(score): of every order, also where it is differentiated again."""
    return mask


@_straight_through.defjvp
def _straight_through_derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    score, mask = primals
    return _straight_through(score, mask), jnp.sign(score) * tangents[0]


def sparsify(params: Any, scores: Any, stacks: Any, keep: float, distribution: Distribution = "layer") -> Any:
    """`params` with every prunable leaf θ replaced by θ⊙m(s), differentiable in θ and, straight through, in s.

    Higher derivatives follow the same rule, ∂m/∂s = sign(s), as if m were linear in |s|.
    """
    return masked_through(params, scores, topk_masks(scores, stacks, keep, distribution))


def masked_through(params: Any, scores: Any, masks: Any) -> Any:
    """`sparsify` with the masks that the scores have."""
    weights = variables.select(params, masks)
    return variables.merge(params, jax.tree.map(lambda w, s, m: w * _straight_through(s, m), weights, scores, masks))


def apply_masks(params: Any, masks: Any) -> Any:
    """`params` with every leaf that has a mask multiplied by it."""
    weights = variables.select(params, masks)
    return variables.merge(params, jax.tree.map(jnp.multiply, weights, masks))


def masked_weights(v: variables.Variables) -> Any:
    """θ⊙m of the collections "params" and "masks"."""
    return apply_masks(v[variables.PARAMS], v[variables.MASKS])
