"""From a found network to a sparse one in a single training, under gradual pruning by magnitude. Source: SCAS
(Yeshwanth et al. 2020), which trains the network that it finds from scratch under the schedule of its search.

    after each step of θ on f(θ⊙m):   m = the kept(1 − s_t) largest |θ| of each layer,   θ ← θ⊙m

SGD is that of the search method's own recipe: with momentum or Nesterov's, along one cosine or several, with warm
restarts (SGDR). The defaults are those of DARTS (arXiv 1806.09055).
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from dass_jax import bilevel, sparsity
from dass_jax.phases import Curve, Observation, Training
from dass_jax.recipes import recipe
from dass_jax.recipes.recipe import Problem
from dass_jax.schedules import Schedule, restarted
from dass_jax.schema import Count, CountOrZero, Rate
from dass_jax.variables import MASKS, PARAMS, Variables


@dataclasses.dataclass(frozen=True)
class Fields(sparsity.Gradual, recipe.Fields):
    """One phase of SGD, while the weights are pruned by magnitude."""

    epochs: Count = 600
    """Epochs of the training."""
    lr: Rate = 0.025
    """Learning rate of SGD, before it falls, of each cycle."""
    restart_epochs: CountOrZero = 0
    """Epochs of the learning rate's first cycle; each ends at `final_lr`, and the next begins with `lr`. 0 = one cycle.
    ENAS has 10."""
    restart_factor: Count = 2
    """How many times longer each cycle is than the one before it. ENAS."""


def train_weights(c: Fields, problem: Problem) -> bilevel.Algorithm:
    """θ, pruned after each step."""
    transform = bilevel.sgd(c.momentum, c.weight_decay, c.clip, c.nesterov)
    loss = recipe.network_loss(problem, sparsity.masked_weights, c.accumulate)
    return recipe.descending(PARAMS, loss, transform, problem, sparsity.pruner(problem.net.rules, c.regrow))


def fresh(c: Fields, problem: Problem, key: jax.Array) -> Variables:
    """A network's first variables, all of its weights kept."""
    v = problem.net.init(key, problem.image_shape)
    return sparsity.unpruned(v, problem.net.rules, c.regrow)


def learning_rate(c: Fields) -> Schedule:
    """It falls once, or in each cycle."""
    if not c.restart_epochs:
        return recipe.learning_rate(c, c.lr, c.epochs)
    cycles = functools.partial(restarted, first=c.restart_epochs, factor=c.restart_factor)
    return recipe.learning_rate(c, c.lr, c.epochs, cycles)


def train(c: Fields, problem: Problem) -> Training:
    """One phase."""
    weights = train_weights(c, problem)

    def observe(v: Variables) -> Observation:
        return Observation({"sparsity": sparsity.sparsity_of(v[MASKS])})

    phase = recipe.phase(
        c,
        problem,
        PARAMS,
        learning_rate(c),
        name="gradual",
        title="Training under gradual pruning",
        epochs=c.epochs,
        algorithm=weights,
        begin=lambda key, _: weights.init(fresh(c, problem, key)),
        program=f"weights of {problem.name}",
        observe=observe,
        network=recipe.masked,
    )
    learning = phase.rates

    @functools.cache  # it takes seconds to trace a network
    def layers() -> tuple[sparsity.Group, ...]:
        shapes = jax.eval_shape(lambda: fresh(c, problem, jax.random.key(0)))
        return sparsity.prunable_groups(shapes[PARAMS], problem.net.rules)

    def rates(progress: np.ndarray) -> dict[str, Any]:
        pruning = sparsity.pruning_rates(c, problem.keep, layers(), c.epochs, problem.distribution)
        return {**learning(progress), **pruning(progress)}

    phase = phase._replace(rates=rates, curves=(*phase.curves, Curve("sparsity", "pruned weights", "", "%")))
    return Training((phase,), recipe.outputs(problem), {"gradual": "sparse"})
