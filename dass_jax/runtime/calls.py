"""Many steps as calls of a bounded time: between two calls the host can look up.

A compiled loop hears nothing of the world around it. So a call takes as many steps as go into a given time, and what it
has seen is put together on the host in a way that does not depend on where one call ended and the next began. Several
hosts take the same calls.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.runtime import hosts

GROWTH = 4
"""A call takes at most so many times the steps of the one before: a step that was fast by chance misleads less."""


class Series(NamedTuple):
    """Steps that are taken by calls of some of them."""

    total: int
    part: int
    """No call goes beyond a multiple of it."""
    call: Callable[[Any, int, int], tuple[Any, Any]]
    """(state, first, last) → (state, infos as NumPy arrays, with zeros for all other steps than first … last − 1)."""


class Done(NamedTuple):
    """How far a series of steps has come."""

    steps: int = 0
    infos: tuple[np.ndarray, ...] = ()
    """The leaves of what the steps have seen, with zeros for those to come; empty before the first call."""
    seconds: float = 0.0
    size: int = 1
    """Steps that the next call takes."""


Between = Callable[[Any, Done, Any], None]
"""(state, how far it has come, infos): is told so after each call; by raising it ends the series."""


def in_calls(series: Series, state: Any, seconds: float, between: Between, done: Done) -> tuple[Any, Any, Done]:
    """The steps of a series that `done` leaves, by calls of about `seconds`; at least one call.

    Returns:
      (state, infos of all steps, done).
    """
    while True:
        start = time.monotonic()
        last = min(done.steps + done.size, (done.steps // series.part + 1) * series.part, series.total)
        state, infos = series.call(state, done.steps, last)
        leaves, structure = jax.tree.flatten(infos)
        took = time.monotonic() - start
        if done.infos:  # each figure is zero in all calls but one, so that the sum is that one to the bit
            leaves = [np.add(kept, new) for kept, new in zip(done.infos, leaves, strict=True)]
        [size] = hosts.agreed([seconds * max(last - done.steps, 1) / max(took, 1e-9)])
        done = Done(last, tuple(leaves), done.seconds + took, max(1, min(int(size), GROWTH * done.size)))
        infos = jax.tree.unflatten(structure, leaves)
        between(state, done, infos)
        if done.steps == series.total:
            return state, infos, done
