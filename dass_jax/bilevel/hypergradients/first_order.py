"""First order: the direct term, as if v did not depend on u.

    dF/du ≈ ∂F/∂u (u, v)

Source: DARTS (arXiv 1806.09055) Eq. 7 with ξ = 0; the search of DASS (arXiv 2207.06968). One gradient.
"""

from typing import Any

from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.levels import Level, Reduce, Result, direct_gradient


def first_order() -> Hypergradient:
    """The direct term alone. It is zero where F sees u only through v (a penalty of the lower level, say).

    Whether v is θ or scores under a mask makes no difference: v is held fixed, and its mask with it.
    """

    def hypergradient(upper: Level, lower: Level, point: Point, reduce: Reduce) -> tuple[Any, Result]:
        return direct_gradient(upper, point.variables, point.upper)

    return hypergradient
