"""Architectures that nothing searches: a random one, the control that any search has to beat; all that a space has; a
given one."""

from typing import Any

import numpy as np

from dass_jax.errors import UserError
from dass_jax.methods.method import Problem
from dass_jax.phases import Search
from dass_jax.schema import Empty


def random(_: Empty, problem: Problem) -> Search:
    """Drawn by the space with the run's seed, without any phase."""
    space = problem.space()
    return Search((), lambda v, seed: space.sample(np.random.default_rng(seed)))


def all_of_it(problem: Problem, method: str) -> Any:
    """The space of a method that begins with all operations at once. Raises UserError if these exclude each other."""
    space = problem.space()
    if space.whole is None:
        reason = "in a space whose operations exclude each other"
        raise UserError(f"method.name = {method!r} {reason}; allowed: another space")
    return space


def whole(_: Empty, problem: Problem) -> Search:
    """Everything that the space has, without any phase."""
    space = all_of_it(problem, "whole")
    return Search((), lambda v, seed: space.whole)


def given(_: Empty, problem: Problem) -> Search:
    """That of the configuration, or None for a network that is not made of one. Raises UserError for one of another
    size than the space's."""
    if problem.given is not None:
        problem.space().encode(problem.given)
    return Search((), lambda v, seed: problem.given)
