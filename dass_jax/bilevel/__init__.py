"""Bi-level optimisation over named collections, as pure `(init, update)` pairs around optax transforms."""

from dass_jax.bilevel.accumulation import accumulated
from dass_jax.bilevel.by_turns import by_turns
from dass_jax.bilevel.hypergradients import (
    ESTIMATORS,
    Hypergradient,
    Point,
    amended,
    conjugate_gradient,
    finite_difference,
    first_order,
    implicit,
    neumann,
    unrolled,
)
from dass_jax.bilevel.levels import Algorithm, Info, Level, Loss, Reduce, Sample, State
from dass_jax.bilevel.proximal import apg_nag, nesterov_sgd
from dass_jax.bilevel.transforms import (
    adam,
    adam_of_tensorflow,
    freeze_pruned,
    scale_by_given_learning_rate,
    sgd,
    sgd_of_parts,
    under_masks,
    with_rate,
)
from dass_jax.bilevel.turns import Through, alternate, descend, in_turn, joint

__all__ = [
    "ESTIMATORS",
    "Algorithm",
    "Hypergradient",
    "Info",
    "Level",
    "Loss",
    "Point",
    "Reduce",
    "Sample",
    "State",
    "Through",
    "accumulated",
    "adam",
    "adam_of_tensorflow",
    "alternate",
    "amended",
    "apg_nag",
    "by_turns",
    "conjugate_gradient",
    "descend",
    "finite_difference",
    "first_order",
    "freeze_pruned",
    "implicit",
    "in_turn",
    "joint",
    "nesterov_sgd",
    "neumann",
    "scale_by_given_learning_rate",
    "sgd",
    "sgd_of_parts",
    "under_masks",
    "unrolled",
    "with_rate",
]
