"""No training: fresh weights, of which the largest are kept, as they are. For a search whose architecture a table of
its space scores (`[space] table`): what the network itself would reach is not asked."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax import bilevel, variables
from dass_jax.phases import Phase, Training
from dass_jax.recipes import recipe
from dass_jax.recipes.recipe import Problem
from dass_jax.variables import MASKS, PARAMS, Variables


@dataclasses.dataclass(frozen=True)
class Fields(recipe.Batches):
    """One evaluation."""


def pruned(problem: Problem, key: jax.Array) -> Variables:
    """A network's first variables, pruned by magnitude."""
    v = recipe.fresh(problem, key)
    weights = variables.select(v[PARAMS], problem.stacks(v[PARAMS]))
    return {**v, MASKS: problem.masks(weights, v[PARAMS])}


def stay(state: bilevel.State, batches: Any, key: Any) -> tuple[bilevel.State, dict[str, bilevel.Info]]:
    """The update of an algorithm that changes nothing."""
    return state, {PARAMS: bilevel.Info(None, {}, gradient_norm=jnp.zeros(()))}


def train(c: Fields, problem: Problem) -> Training:
    """One phase of one step that takes no batch."""
    algorithm = bilevel.Algorithm(lambda v: bilevel.State(v, {}), stay)
    phase = Phase(
        name="none",
        title="No training: fresh weights, pruned",
        epochs=1,
        algorithm=algorithm,
        begin=lambda key, _: algorithm.init(pruned(problem, key)),
        feeds={},
        program=f"nothing of {problem.name}",
        network=recipe.masked,
    )
    return Training((phase,), recipe.outputs(problem), {"none": "untrained"})
