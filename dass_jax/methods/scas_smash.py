"""SCAS on SMASH: the weights that the hyper-network writes are pruned by magnitude. Source: SCAS (Yeshwanth et al.
2020) Algorithm 3.

    min over H and θ of E_{a, z} f(prune(H(a, z), s_t), θ; a)      then the best a by F(prune(H(a, z), s_f), θ; a)

Each operation's matrix keeps its largest weights, found anew in each step, as it is another operation's in the next;
then it is divided by its norm, so that activations keep their scale. A pruned weight has no gradient. The paper says
"generated weights" and no more: the shared k×k windows stay dense in the search.
"""

import dataclasses
from typing import Annotated

import numpy as np

from dass_jax import sparsity
from dass_jax.errors import UserError
from dass_jax.methods import smash
from dass_jax.methods.method import Problem
from dass_jax.phases import Search
from dass_jax.schema import Range


@dataclasses.dataclass(frozen=True)
class Fields(smash.Fields):
    """SMASH with gradual pruning of the written weights."""

    ramp: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps after which the final sparsity is reached, along the cubic curve of Zhu and Gupta."""


def search(c: Fields, problem: Problem) -> Search:
    """SMASH's phases; candidates are scored at the final sparsity. Raises UserError for another distribution."""
    if problem.distribution != "layer":
        raise UserError(
            f"sparsity.distribution = {problem.distribution!r} with method.name = 'scas_smash', which prunes each "
            "operation as it is written; allowed: 'layer'"
        )
    space = smash.space_of(problem)

    def pruning(progress: np.ndarray) -> np.ndarray:
        return sparsity.keep_after(progress + 1 / (len(progress) * c.epochs), problem.keep, c.ramp)

    return Search(smash.phases(c, problem, space, pruning), smash.found(space))
