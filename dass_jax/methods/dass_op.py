"""DASS_Op, the ablation with sparse operations and no learned masks. Source: DASS (arXiv 2207.06968) Section 5.

    min_α F(α, θ*(α)⊙m)      θ* = argmin_θ f(α, θ⊙m)      m = per-layer top-k of |s|, s from the initial θ (Eq. 3)

It is Step 1 with θ⊙m in the place of θ. The paper does not say when the masks are drawn: here m is found once, from the
freshly initialised θ, and never moves, so that a pruned weight keeps its initial value, which nothing sees. What
remains of DASS' search without it is the objective: the learning of s.
"""

from typing import Any

import jax
import optax

from dass_jax import bilevel, sparsity, variables
from dass_jax.methods import darts, relaxed
from dass_jax.methods.dass import with_scores
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Bilevel
from dass_jax.phases import Search
from dass_jax.variables import MASKS, PARAMS, SCORES, Variables


def step(loss: bilevel.Loss, c: Bilevel, problem: Problem) -> bilevel.Algorithm:
    """`darts.step` on θ's kept entries; `loss` sees `sparsity.masked_weights`."""
    kept = optax.chain(relaxed.sgd(c), bilevel.freeze_pruned())
    return bilevel.under_masks(darts.step(PARAMS, loss, c, problem, kept))


def with_masks(v: Variables, stacks: Any, problem: Problem) -> Variables:
    """The variables with the masks of θ's initial scores."""
    scores = with_scores(v, stacks)[SCORES]
    return {**v, MASKS: sparsity.topk_masks(scores, stacks, problem.keep, problem.distribution)}


def search(c: Bilevel, problem: Problem) -> Search:
    """One phase."""
    space = problem.space()

    def begin(key: jax.Array, _: Any) -> bilevel.State:
        v = relaxed.fresh(problem, space, key)
        return algorithm.init(with_masks(v, variables.prunable(v[PARAMS], space.rules), problem))

    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, sparsity.masked_weights)
    algorithm = step(bilevel.accumulated(loss, c.accumulate), c, problem)
    dense = darts.dense_phase(c, problem, space, "search", "Architecture search under fixed masks", c.epochs)
    phase = dense._replace(
        algorithm=algorithm,
        begin=begin,
        program="",
        unread=(),
    )
    return Search((phase,), lambda v, seed: space.decode(relaxed.softmax_choice(v)))
