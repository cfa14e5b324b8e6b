"""DASS' problem before it is split into two steps. Source: DASS (arXiv 2207.06968) Eq. 5.

In every iteration α, then θ, then s, all on the sparse loss: θ and s move on the same training images, one after the
other, each seeing what the one before it has just done. α follows the hypergradient through θ, with s held fixed.
"""

import dataclasses
from typing import Any

import jax

from dass_jax import bilevel, variables
from dass_jax.methods import darts, relaxed
from dass_jax.methods.dass import in_three_turns, sparse_weights, with_scores
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Bilevel
from dass_jax.phases import Search
from dass_jax.schema import Rate
from dass_jax.variables import PARAMS, Variables


@dataclasses.dataclass(frozen=True)
class Fields(Bilevel):
    """The un-split problem."""

    scores_lr: Rate = 0.1
    """First learning rate of the pruning scores s (SGD, cosine)."""


def search(c: Fields, problem: Problem) -> Search:
    """One phase."""
    space = problem.space()

    def stacks(v: Variables) -> Any:
        return variables.prunable(v[PARAMS], space.rules)

    def weights(v: Variables) -> Any:
        return sparse_weights(stacks(v), problem.keep, problem.distribution)(v)

    def begin(key: jax.Array, _: Any) -> bilevel.State:
        v = relaxed.fresh(problem, space, key)
        return algorithm.init(with_scores(v, stacks(v)))

    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, weights)
    algorithm = in_three_turns(bilevel.accumulated(loss, c.accumulate), c, problem)
    dense = darts.dense_phase(
        c, problem, space, "search", "Architecture search: α, θ and s in every iteration", c.epochs
    )
    phase = dense._replace(
        algorithm=algorithm,
        begin=begin,
        rates=relaxed.rates(c, c.epochs, lower=c.theta_lr, scores=c.scores_lr),
        program="",
        unread=(),
    )
    return Search((phase,), lambda v, seed: space.decode(relaxed.softmax_choice(v)))
