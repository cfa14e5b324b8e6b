"""DASS, the search. Source: arXiv 2207.06968 Algorithm 1, Eq. 5 to 7.

    Step 1:  min_α F(α, θ*(α))          θ* = argmin_θ f(α, θ)            dense weights
    Step 2:  min_α F(α, θ⊙m(s*(α)))     s* = argmin_s f(α, θ⊙m(s))       θ fixed, m = top-k of |s|

f is the loss on the training split, F on the validation split. Both steps are `bilevel.alternate` with α above; they
differ in the lower level's collection and in the weights the supernet sees.
"""

import dataclasses
from typing import Any, Literal

from dass_jax import bilevel, sparsity, variables
from dass_jax.methods import darts, relaxed
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Bilevel, Weights
from dass_jax.phases import Phase, Search
from dass_jax.schema import Count, Rate
from dass_jax.variables import ALPHA, PARAMS, SCORES, Variables

TURNS = {"upper_first": ("upper", "lower", "scores"), "lower_first": ("lower", "scores", "upper")}
"""By `order`: α, θ, s, or θ, s, α."""


@dataclasses.dataclass(frozen=True)
class Fields(Bilevel):
    """DASS, Algorithm 1: Step 1 with dense weights, Step 2 with pruning scores."""

    prune_epochs: Count = 20
    """Epochs of Step 2, DASS Algorithm 1."""
    scores_lr: Rate = 0.1
    """First learning rate of the pruning scores s in Step 2 (SGD, cosine)."""
    step2: Literal["scores", "both"] = "scores"
    """What Step 2 trains below α: the scores s under fixed weights (the paper), or first θ, again from `theta_lr`, and
    then s in every iteration, as `dass_joint` does."""


def epochs(c: Fields) -> int:
    """Of both steps."""
    return c.epochs + c.prune_epochs


def sparse_weights(stacks: Any, keep: float, distribution: sparsity.Distribution = "layer") -> Weights:
    """Step 2's weights: θ⊙m(s), straight through to s."""
    return lambda v: sparsity.sparsify(v[PARAMS], v[SCORES], stacks, keep, distribution)


def with_scores(v: Variables, stacks: Any) -> Variables:
    """The variables with pruning scores from θ (Eq. 3)."""
    return {**v, SCORES: sparsity.init_scores(variables.select(v[PARAMS], stacks), stacks)}


def in_three_turns(loss: bilevel.Loss, c: Bilevel, problem: Problem) -> bilevel.Algorithm:
    """One turn of α ("upper"), θ ("lower") and s ("scores"). The last two see one batch, that of "lower"."""
    transforms = {"upper": relaxed.alpha_transform(c), "lower": relaxed.sgd(c), "scores": relaxed.sgd(c)}
    collections = {"upper": ALPHA, "lower": PARAMS, "scores": SCORES}
    levels = {
        name: bilevel.Level(collections[name], loss, bilevel.with_rate(transform, name))
        for name, transform in transforms.items()
    }
    through = {"upper": bilevel.Through("lower", problem.hypergradient)}
    turns = bilevel.in_turn(levels, through, TURNS[c.order], problem.average, c.cosine)
    return bilevel.Algorithm(
        turns.init,
        lambda state, batches, key, **extra: turns.update(state, {**batches, "scores": batches["lower"]}, key, **extra),
    )


def begin_step2(state: bilevel.State, step2: bilevel.Algorithm, stacks: Any) -> bilevel.State:
    """From the end of Step 1 to the start of Step 2: scores from θ, α and its Adam state carried over."""
    begun = step2.init(with_scores(state.variables, stacks))
    return begun._replace(optimizers={**begun.optimizers, ALPHA: state.optimizers[ALPHA]})


def search(c: Fields, problem: Problem) -> Search:
    """Step 1 and Step 2."""
    space = problem.space()

    def stacks(v: Variables) -> Any:
        return variables.prunable(v[PARAMS], space.rules)

    def weights(v: Variables) -> Any:
        return sparse_weights(stacks(v), problem.keep, problem.distribution)(v)

    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, weights)
    loss = bilevel.accumulated(loss, c.accumulate)
    both = c.step2 == "both"
    step2 = in_three_turns(loss, c, problem) if both else darts.step(SCORES, loss, c, problem)
    rates = {"lower": c.theta_lr, "scores": c.scores_lr} if both else {"lower": c.scores_lr}
    first = darts.dense_phase(c, problem, space, darts.STEP, "Step 1: search with dense operations", c.epochs)
    second = Phase(
        name="step2",
        title="Step 2: search with sparse operations",
        epochs=c.prune_epochs,
        algorithm=step2,
        begin=lambda key, state: begin_step2(state, step2, stacks(state.variables)),
        feeds=relaxed.feeds(c, "lower"),
        rates=relaxed.rates(c, c.prune_epochs, **rates),
        curves=first.curves,
        matrices=first.matrices,
        observe=first.observe,
    )
    first = first._replace(unread=("sparsity", "method.prune_epochs", "method.scores_lr", "method.step2"))
    return Search((first, second), lambda v, seed: space.decode(relaxed.softmax_choice(v)))
