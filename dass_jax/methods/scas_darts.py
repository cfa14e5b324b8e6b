"""SCAS on DARTS: a search whose weights are pruned by magnitude meanwhile. Source: SCAS (Yeshwanth et al. 2020)
Algorithm 2.

    min_α F(α, θ*(α))      θ*(α) = argmin_θ f(α, θ)  subject to |θ|₀ ≤ kept(1 − s_t) in each layer

In every iteration θ takes a step, is pruned to s_t, and α takes a step on the pruned θ. Beside the pruner it is DARTS
(`darts.step`): with `sparsity.keep` = 1 the same numbers. It is a method of its own and no option of DARTS: so both can
be compared in one run, and dense searches stay shared between runs of different sparsity.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np

from dass_jax import bilevel, sparsity
from dass_jax.methods import darts, relaxed
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Bilevel
from dass_jax.phases import Curve, Observation, Search
from dass_jax.schema import Count
from dass_jax.variables import MASKS, PARAMS, Rules, Variables


@dataclasses.dataclass(frozen=True)
class Fields(sparsity.Gradual, Bilevel):
    """DARTS with gradual pruning by magnitude."""

    prune_every: Count = 1
    """Steps of an epoch between renewals of the masks; its last step always renews them. SCAS Algorithm 2."""
    order: Literal["upper_first", "lower_first"] = "lower_first"
    """Which level steps first in an iteration: `lower_first` (θ, pruning, α; SCAS Algorithm 2) or `upper_first` (α, θ,
    pruning)."""


def step(loss: bilevel.Loss, c: Fields, problem: Problem, rules: Rules) -> bilevel.Algorithm:
    """`darts.step` with θ pruned after its own; `loss` sees `sparsity.masked_weights`."""
    return darts.step(PARAMS, loss, c, problem, project=sparsity.pruner(rules, c.regrow))


def search(c: Fields, problem: Problem) -> Search:
    """One phase."""
    space = problem.space()
    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, sparsity.masked_weights)
    algorithm = step(bilevel.accumulated(loss, c.accumulate), c, problem, space.rules)
    dense = darts.dense_phase(c, problem, space, "search", "Architecture search under gradual pruning", c.epochs)
    seen = relaxed.observing(space, relaxed.softmax_choice, space.decode)

    def begin(key: jax.Array, _: Any) -> bilevel.State:
        return algorithm.init(sparsity.unpruned(relaxed.fresh(problem, space, key), space.rules, c.regrow))

    @functools.cache  # it takes seconds to trace a supernet
    def layers() -> tuple[sparsity.Group, ...]:
        return sparsity.prunable_groups(problem.shapes(space)[PARAMS], space.rules)

    def rates(progress: np.ndarray) -> dict[str, Any]:
        pruning = sparsity.pruning_rates(c, problem.keep, layers(), c.epochs, problem.distribution)
        return {**dense.rates(progress), **pruning(progress)}

    def observe(v: Variables) -> Observation:
        metrics, matrices = seen(v)
        return Observation({**metrics, "sparsity": sparsity.sparsity_of(v[MASKS])}, matrices)

    phase = dense._replace(
        algorithm=algorithm,
        begin=begin,
        rates=rates,
        program="",
        curves=(*dense.curves, Curve("sparsity", "pruned weights", "", "%")),
        observe=observe,
        unread=(),
    )
    return Search((phase,), lambda v, seed: space.decode(relaxed.softmax_choice(v)))
