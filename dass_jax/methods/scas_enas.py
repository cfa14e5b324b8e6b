"""SCAS on ENAS: shared weights that are pruned by magnitude as they are trained. Source: SCAS (Yeshwanth et al. 2020)
Algorithm 1.

    max_π E_{a~π} R(θ*; a)      θ* = argmin_θ E_{a~π} f(θ; a)  subject to |θ|₀ ≤ kept(1 − s_t) in each layer

In each epoch the shared weights are trained and pruned to s_t; then they rest, and the controller learns on them as
they are. Each operation of each layer and source is pruned by itself, so that every architecture has the sparsity of
the whole. Beside the pruner it is ENAS: with `sparsity.keep` = 1 the same numbers.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from dass_jax import sparsity, variables
from dass_jax.bilevel import State
from dass_jax.methods import enas, sampled
from dass_jax.methods.method import Problem
from dass_jax.phases import Curve, Observation, Search
from dass_jax.schema import CountOrZero
from dass_jax.sparsity.gradual import PRUNING
from dass_jax.variables import MASKS, PARAMS, Variables


@dataclasses.dataclass(frozen=True)
class Fields(sparsity.Gradual, enas.Fields):
    """ENAS with gradual pruning by magnitude."""

    retrain_steps: CountOrZero = 0
    """The last steps of θ in each epoch, in which its masks rest: a short retraining before the controller's turn."""


def pruning_rates(c: Fields, problem: Problem, params: Any, rules: variables.Rules) -> Any:
    """The entry `PRUNING` of the rates: of θ's steps the schedule's, by θ's steps alone; then nothing is renewed."""
    found = sparsity.prunable_groups(params, rules)
    schedule = sparsity.pruning_rates(c, problem.keep, found, c.epochs, problem.distribution)

    def at(progress: np.ndarray) -> dict[str, Any]:
        steps = max(1, len(progress) - c.controller_steps)
        epoch = np.floor(progress[0] * c.epochs + 1e-6)
        number, last = np.arange(1, steps + 1), max(1, steps - c.retrain_steps)
        found = schedule((epoch + np.arange(steps) / steps) / c.epochs)[PRUNING]
        renew = (found["renew"] & (number < last)) | (number == last)
        rest = len(progress) - steps
        kept = jax.tree.map(lambda counts: np.append(counts, np.repeat(counts[-1:], rest)), found["kept"])
        return {PRUNING: {"renew": np.append(renew, np.zeros(rest, bool)), "kept": kept}}

    return at


def search(c: Fields, problem: Problem) -> Search:
    """Search and scoring."""
    space = sampled.space_of(problem)
    params = problem.shapes(space)[PARAMS]
    project = sparsity.pruner(space.rules, c.regrow)
    algorithm = enas.step(c, problem, space, sparsity.masked_weights, project)
    dense, pruning = enas.phase(c, problem, space, algorithm), pruning_rates(c, problem, params, space.rules)
    seen = sampled.observing(space)

    def begin(key: jax.Array, state: Any) -> State:
        return algorithm.init(sparsity.unpruned(enas.fresh(c, problem, space, key), space.rules, c.regrow))

    def observe(v: Variables) -> Observation:
        metrics, matrices = seen(v)
        return Observation({**metrics, "sparsity": sparsity.sparsity_of(v[MASKS])}, matrices)

    searching = dense._replace(
        title="Shared weights under gradual pruning, and controller, alternating",
        begin=begin,
        rates=lambda progress: {**dense.rates(progress), **pruning(progress)},
        curves=(*dense.curves, Curve("sparsity", "pruned weights", "", "%")),
        observe=observe,
    )
    return Search((searching, sampled.deriving(c, problem, space, enas.draw(space))), sampled.found(space))
