"""Bi-level optimisation over named collections, as pure `(init, update)` pairs around optax transforms."""

from dass_jax.bilevel.levels import Alternation, Descent, Info, Level, alternate, descend
from dass_jax.bilevel.transforms import freeze_pruned, scale_by_given_learning_rate

__all__ = [
    "Alternation",
    "Descent",
    "Info",
    "Level",
    "alternate",
    "descend",
    "freeze_pruned",
    "scale_by_given_learning_rate",
]
