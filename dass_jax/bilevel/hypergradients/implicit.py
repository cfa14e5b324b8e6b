"""The implicit function theorem, with a stand-in for the inverse Hessian.

    dF/du = ∂F/∂u − (∂²f/∂u∂v)ᵀ q,   q ≈ (∂²f/∂v² + damping·1)⁻¹ ∂F/∂v      at (u, v), v near v*(u)

What follows from ∇_v f(u, v*(u)) = 0. Estimators differ in how they solve for q: `neumann`, `conjugate_gradient`,
`amended`. They are matrix-free: a product with the Hessian is a forward derivative of the gradient (forward over
reverse), linearised once, so that a product costs one pass more and nothing of size |v|² exists.

The lower level's weight decay, where its transform and not its loss adds it, is part of what it minimises: give it as
`damping`. With the lower variable s under a straight-through mask, ∇_s f is the straight-through gradient and its
derivative follows the same rule, dm/ds = sign(s), so the Hessian is diag(θ)·∂²f/∂w²·diag(θ) up to signs, w = θ⊙m: exact
for the surrogate, in which masks move smoothly, and not for f itself, whose true derivative by s is zero or undefined.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.levels import Level, Reduce, Result, gradients, sample_of_step

Product = Callable[[Any], Any]
"""A vector in the structure of v → its product with the (damped) Hessian of f by v."""


def implicit(solve: Callable[[Product, Any], Any], damping: float = 0.0) -> Hypergradient:
    """The implicit hypergradient whose q is `solve(product, ∂F/∂v)`.

    Raises:
      ValueError: if the damping is negative.
    """
    if not damping >= 0:
        raise ValueError(f"damping = {damping}; allowed: at least 0")

    def hypergradient(upper: Level, lower: Level, point: Point, reduce: Reduce) -> tuple[Any, Result]:
        variables, sample = point.variables, sample_of_step(lower, point.lower, 0)
        both = (upper.collection, lower.collection)
        found, result = gradients(upper.loss, variables, both, point.upper)

        def slopes(v: Any) -> Any:
            return gradients(lower.loss, {**variables, lower.collection: v}, both, sample)[0]

        _, along = jax.linearize(slopes, variables[lower.collection])

        def product(vector: Any) -> Any:
            curved = reduce(along(vector)[lower.collection])
            return jax.tree.map(lambda h, x: h + damping * x, curved, vector)

        q = solve(product, reduce(found[lower.collection]))
        mixed = along(q)[upper.collection]
        return jax.tree.map(jnp.subtract, found[upper.collection], mixed), result

    return hypergradient
