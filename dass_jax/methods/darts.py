"""DARTS, differentiable architecture search with dense operations. Source: arXiv 1806.09055; Step 1 of DASS
(arXiv 2207.06968), whose baseline DARTS_sparse prunes what this finds.

    min_α F(α, θ*(α))          θ*(α) = argmin_θ f(α, θ)

f is the loss on the training split, F on the validation split. In the paper's first order α follows ∂F/∂α with θ held
fixed; every other hypergradient fits in.
"""

import dataclasses
from typing import Any

from dass_jax import bilevel
from dass_jax.methods import relaxed
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Bilevel
from dass_jax.phases import Phase, Search
from dass_jax.variables import ALPHA, PARAMS

STEP = "step1"
"""DASS' name of the step, under which all searches draw the same images."""


def step(
    collection: str, loss: bilevel.Loss, c: Bilevel, problem: Problem, lower: Any = None, project: Any = None
) -> bilevel.Algorithm:
    """α above, `collection` below, both by `loss`.

    Args:
      lower: the transform of the lower level; None: SGD of the fields.
      project: what follows each of its steps, see `bilevel.Level`.
    """
    upper = bilevel.Level(ALPHA, loss, bilevel.with_rate(relaxed.alpha_transform(c), "upper"))
    under = bilevel.Level(collection, loss, bilevel.with_rate(lower or relaxed.sgd(c), "lower"), project=project)
    return bilevel.alternate(upper, under, problem.hypergradient, c.order, problem.average, c.cosine)


def dense_phase(c: Bilevel, problem: Problem, space: Any, name: str, title: str, epochs: int) -> Phase:
    """The search with dense operations, from fresh variables."""
    loss = relaxed.supernet_loss(space.apply, problem.task, relaxed.softmax_choice, relaxed.dense_weights)
    algorithm = step(PARAMS, bilevel.accumulated(loss, c.accumulate), c, problem)
    fields = [field.name for field in dataclasses.fields(Bilevel) if field.name != "epochs"]
    return Phase(
        name=name,
        title=title,
        epochs=epochs,
        algorithm=algorithm,
        begin=lambda key, _: algorithm.init(relaxed.fresh(problem, space, key)),
        feeds=relaxed.feeds(c, "lower"),
        rates=relaxed.rates(c, epochs, lower=c.theta_lr),
        # The same program for all methods of a run that take this step with the same options.
        program=f"dense search {[getattr(c, field) for field in fields]}",
        draws=STEP,
        curves=relaxed.bilevel_curves(space, problem.task, "batches of α" if c.one_level else "validation"),
        matrices=relaxed.matrices(space),
        observe=relaxed.observing(space, relaxed.softmax_choice, space.decode),
        stop=relaxed.stopping(c, space),
        unread=("sparsity",),
    )


def search(c: Bilevel, problem: Problem) -> Search:
    """One phase."""
    space = problem.space()
    phase = dense_phase(c, problem, space, "search", "Architecture search with dense operations", c.epochs)
    return Search((phase,), lambda v, seed: space.decode(relaxed.softmax_choice(v)))
