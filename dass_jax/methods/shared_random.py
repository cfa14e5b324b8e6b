"""Random search with shared weights: the control of every search that learns what to draw (arXiv 1902.07638).

    θ*  = argmin_θ E_a f(θ; a)      a uniform        then the best of some a, uniform again, by F(θ*; a)

f is the loss on the training split, F the figures on the whole validation split.
"""

from typing import Any

import jax

from dass_jax.methods import sampled
from dass_jax.methods.method import Problem
from dass_jax.methods.sampled import Fields
from dass_jax.phases import Phase, Search, single
from dass_jax.variables import Variables


def search(c: Fields, problem: Problem) -> Search:
    """Training of the shared weights, and scoring."""
    space = sampled.space_of(problem)

    def draw(v: Variables, key: jax.Array) -> Any:
        return space.sampled.uniform(key)

    algorithm, rate = single(sampled.child(c, problem, space, draw), sampled.CHILD), sampled.child_rates(c)
    training = Phase(
        name="search",
        title="Shared weights, under architectures drawn at random",
        epochs=c.epochs,
        algorithm=algorithm,
        begin=lambda key, _: algorithm.init(sampled.fresh(problem, space, key)),
        feeds={sampled.CHILD: sampled.child_feed(c)},
        rates=lambda progress: {"learning_rate": {sampled.CHILD: rate(progress)}},
        curves=problem.task.curves(""),
        unread=("sparsity",),
    )
    return Search((training, sampled.deriving(c, problem, space, draw)), sampled.found(space))
