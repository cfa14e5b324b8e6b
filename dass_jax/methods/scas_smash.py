"""SCAS on SMASH: the weights that the hyper-network writes are pruned by magnitude. Source: SCAS (Yeshwanth et al.
2020) Algorithm 3.

    min over H and θ of E_{a, z} f(prune(H(a, z), s_t), θ; a)      then the best a by F(prune(H(a, z), s_f), θ; a)

Each operation's matrix keeps its largest weights, found anew in each step, as it is another operation's in the next;
then it is divided by its norm, so that activations keep their scale. A pruned weight has no gradient. The paper says
"generated weights" and no more: the shared k×k windows, most of the weights, stay dense in the search unless
`prune_shared` is set. They then have masks that stay, as they are the same weights in every step.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np

from dass_jax import sparsity
from dass_jax.errors import UserError
from dass_jax.methods import smash
from dass_jax.methods.method import Problem
from dass_jax.phases import Search
from dass_jax.schema import Range
from dass_jax.variables import PARAMS


@dataclasses.dataclass(frozen=True)
class Fields(smash.Fields):
    """SMASH with gradual pruning of the written weights."""

    ramp: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps after which the final sparsity is reached, along the cubic curve of Zhu and Gupta."""
    prune_shared: bool = False
    """Prune the shared windows too, by the same schedule: every tenth step, what is pruned stays so."""


def pruning(c: Fields, problem: Problem, space: Any) -> smash.Pruning:
    """What is pruned in the training."""

    def share(progress: np.ndarray) -> dict[str, Any]:
        return {smash.SHARE: sparsity.keep_after(progress + 1 / (len(progress) * c.epochs), problem.keep, c.ramp)}

    if not c.prune_shared:
        return smash.Pruning(share)
    params, windows = problem.shapes(space)[PARAMS], space.written.windows
    found = sparsity.prunable_groups(params, windows)
    masks = sparsity.pruning_rates(sparsity.Gradual(ramp=c.ramp), problem.keep, found, c.epochs, problem.distribution)
    return smash.Pruning(
        rates=lambda progress: {**share(progress), **masks(progress)},
        begin=lambda v: sparsity.unpruned(v, windows),
        weights=sparsity.masked_weights,
        project=sparsity.pruner(windows),
    )


def search(c: Fields, problem: Problem) -> Search:
    """SMASH's phases; candidates are scored at the final sparsity. Raises UserError for another distribution."""
    if problem.distribution != "layer":
        raise UserError(
            f"sparsity.distribution = {problem.distribution!r} with method.name = 'scas_smash', which prunes each "
            "operation as it is written; allowed: 'layer'"
        )
    space = smash.space_of(problem)
    return smash.made(c, space, smash.phases(c, problem, space, pruning(c, problem, space)))
