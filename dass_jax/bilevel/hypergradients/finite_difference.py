"""Finite difference: one unrolled step, its mixed derivative from two gradients.

    v' = v + step(∇_v f(u, v)),   q = (∂v'/∂∇_v f)ᵀ ∇_v F(u, v')
    dF/du ≈ ∂F/∂u (u, v') + [∇_u f(u, v + ε q) − ∇_u f(u, v − ε q)] / 2ε,   ε = radius / |q|

Source: DARTS (arXiv 1806.09055) Eq. 7 and 8, radius = 0.01. There `step` is SGD, so that q = −ξ ∇_v F(u, v') and the
two gradients are taken at v ± (0.01 / |∇F|) ∇F, the points used here; other transforms enter through the derivative of
their step, which costs no pass through the network.

Four gradients, and no more memory than one. The error is O(radius²) until rounding takes over.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.levels import Level, Reduce, Result, direct_gradient, gradients, move, sample_of_step
from dass_jax.bilevel.norms import norm


def finite_difference(radius: float = 0.01) -> Hypergradient:
    """`unrolled(1)` without second derivatives.

    With the lower variable s under a straight-through mask, the masks at s ± εq may differ: what is approximated is the
    change of the true ∇_u f along q, jumps of the mask included, where `unrolled` follows the straight-through rule.

    Args:
      radius: how far from v, in the norm of all its entries, the two gradients are taken.

    Raises:
      ValueError: if the radius is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius = {radius}; allowed: greater than 0")

    def hypergradient(upper: Level, lower: Level, point: Point, reduce: Reduce) -> tuple[Any, Result]:
        variables, sample = point.variables, sample_of_step(lower, point.lower, 0)
        v = variables[lower.collection]
        slope = reduce(direct_gradient(lower, variables, sample)[0])
        ahead, pull = jax.vjp(lambda g: move(lower, v, point.optimizer, g, point.extra)[0], slope)
        both = (upper.collection, lower.collection)
        found, result = gradients(upper.loss, {**variables, lower.collection: ahead}, both, point.upper)
        (q,) = pull(reduce(found[lower.collection]))
        length = norm(q)
        epsilon = radius / jnp.where(length > 0, length, 1)

        def beside(distance: jax.Array) -> Any:
            shifted = jax.tree.map(lambda x, y: x + distance.astype(x.dtype) * y, v, q)
            at = {**variables, lower.collection: shifted}
            return gradients(lower.loss, at, (upper.collection,), sample)[0][upper.collection]

        def add(direct: jax.Array, plus: jax.Array, minus: jax.Array) -> jax.Array:
            return direct + (plus - minus) / (2 * epsilon).astype(direct.dtype)

        return jax.tree.map(add, found[upper.collection], beside(epsilon), beside(-epsilon)), result

    return hypergradient
