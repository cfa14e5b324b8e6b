"""Estimators of dF/du (u, v*(u)), one in each file; all have the type `Hypergradient`."""

from collections.abc import Callable

from dass_jax.bilevel.hypergradients.amended import amended
from dass_jax.bilevel.hypergradients.conjugate_gradient import conjugate_gradient
from dass_jax.bilevel.hypergradients.finite_difference import finite_difference
from dass_jax.bilevel.hypergradients.first_order import first_order
from dass_jax.bilevel.hypergradients.implicit import implicit
from dass_jax.bilevel.hypergradients.neumann import neumann
from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.hypergradients.unrolled import unrolled

ESTIMATORS: dict[str, Callable[..., Hypergradient]] = {
    "first_order": first_order,
    "unrolled": unrolled,
    "finite_difference": finite_difference,
    "neumann": neumann,
    "conjugate_gradient": conjugate_gradient,
    "amended": amended,
}
"""Every estimator by its name."""

__all__ = [
    "ESTIMATORS",
    "Hypergradient",
    "Point",
    "amended",
    "conjugate_gradient",
    "finite_difference",
    "first_order",
    "implicit",
    "neumann",
    "unrolled",
]
