"""Architectures that nothing searches: a random one, the control that any search has to beat, and a given one."""

import numpy as np

from dass_jax.methods.method import Problem
from dass_jax.phases import Search
from dass_jax.schema import Empty


def random(_: Empty, problem: Problem) -> Search:
    """Drawn by the space with the run's seed, without any phase."""
    space = problem.space()
    return Search((), lambda v, seed: space.sample(np.random.default_rng(seed)))


def given(_: Empty, problem: Problem) -> Search:
    """That of the configuration, or None for a network that is not made of one."""
    return Search((), lambda v, seed: problem.given)
