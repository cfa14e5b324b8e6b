"""Ordinary training of a network with all of its weights."""

import dataclasses

from dass_jax.phases import Training
from dass_jax.recipes import recipe
from dass_jax.recipes.recipe import Problem
from dass_jax.schema import Count, Rate
from dass_jax.variables import PARAMS


@dataclasses.dataclass(frozen=True)
class Fields(recipe.Fields):
    """One phase of SGD."""

    epochs: Count = 600
    """Epochs of the training."""
    lr: Rate = 0.025
    """Learning rate of SGD, before it falls."""


def train(c: Fields, problem: Problem) -> Training:
    """One phase."""
    weights = recipe.train_weights(c, problem)
    phase = recipe.phase(
        c,
        problem,
        PARAMS,
        recipe.learning_rate(c, c.lr, c.epochs),
        name="train",
        title="Training of the dense network",
        epochs=c.epochs,
        algorithm=weights,
        begin=lambda key, _: weights.init(recipe.fresh(problem, key)),
        program=f"weights of {problem.name}",
        network=recipe.masked,
    )
    return Training((phase,), recipe.outputs(problem), {"train": "dense"})
