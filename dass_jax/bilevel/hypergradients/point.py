"""What a hypergradient is, and where one is taken."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.bilevel.levels import Level, Reduce, Result, Sample
from dass_jax.variables import Variables


class Point(NamedTuple):
    """Where a hypergradient is taken: everything that the estimators may look at.

    With a sampled lower loss all derivatives of f are those of the lower level's own sample (for a level of several
    steps in a turn: of the turn's first, and of all of them where the estimator takes steps).
    """

    variables: Variables
    optimizer: Any
    """The state of the lower level's transform."""
    upper: Sample
    lower: Sample
    extra: dict[str, Any]
    """The optax extra arguments of this update."""


Hypergradient = Callable[[Level, Level, Point, Reduce], tuple[Any, Result]]
"""(upper, lower, point, reduce) → (estimate of dF/du, what the upper loss returned).

The estimate has the structure and dtypes of `point.variables[upper.collection]`. On several devices it is this device's
part, whose mean over the devices is the estimate; `reduce` takes that mean for what is needed on the way.
"""
