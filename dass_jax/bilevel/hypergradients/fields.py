"""The fields of `[hypergradient]` in a configuration, one table for each estimator; each field is an argument of it."""

import dataclasses
from typing import Annotated

from dass_jax.schema import Empty, NotNegative, Range, Rate


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Exact, through steps of the lower level."""

    steps: Annotated[int, Range(1, 1000)] = 1
    """Steps of the lower level to differentiate through, all on the batch of the iteration."""
    remat: bool = False
    """Recompute each step in the backward pass, for memory that hardly grows with `steps`."""


@dataclasses.dataclass(frozen=True)
class FiniteDifference:
    """DARTS' second order."""

    radius: Rate = 0.01
    """Distance from the weights at which the two gradients are taken. DARTS."""


@dataclasses.dataclass(frozen=True)
class Neumann:
    """Implicit, by a series."""

    terms: Annotated[int, Range(1, 1000)] = 3
    """Terms of the series."""
    lr: Rate = 0.01
    """Step of the series; it converges below 2 / (largest eigenvalue of the lower Hessian)."""
    damping: NotNegative = 0.0
    """Added to the diagonal of the lower Hessian: the lower level's weight decay belongs here."""


@dataclasses.dataclass(frozen=True)
class ConjugateGradient:
    """Implicit, by conjugate gradients."""

    iterations: Annotated[int, Range(1, 1000)] = 3
    """Iterations at most."""
    damping: NotNegative = 0.0
    """Added to the diagonal of the lower Hessian: the lower level's weight decay belongs here. An indefinite Hessian
    needs more to converge."""


@dataclasses.dataclass(frozen=True)
class Amended:
    """Bi et al. 2019."""

    eta: Rate = 0.1
    """Factor of the Hessian that stands for its inverse."""
    damping: NotNegative = 0.0
    """Added to the diagonal of the lower Hessian: the lower level's weight decay belongs here."""


FIELDS: dict[str, type] = {
    "first_order": Empty,
    "unrolled": Unrolled,
    "finite_difference": FiniteDifference,
    "neumann": Neumann,
    "conjugate_gradient": ConjugateGradient,
    "amended": Amended,
}
"""By the name of the estimator in `ESTIMATORS`."""
