"""Many steps as calls of a bounded time: between two calls the host can look up.

A compiled loop hears nothing of the world around it. So a call takes as many steps as go into a given time, and what it
has seen is put together on the host in a way that does not depend on where one call ended and the next began.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

GROWTH = 4
"""A call takes at most so many times the steps of the one before: a step that was fast by chance misleads less."""


class Done(NamedTuple):
    """How far a series of steps has come."""

    steps: int = 0
    infos: tuple[np.ndarray, ...] = ()
    """The leaves of what the steps have seen, with zeros for those to come; empty before the first call."""
    seconds: float = 0.0
    size: int = 1
    """Steps that the next call takes."""


def in_calls(
    call: Callable[[int, int], Any], total: int, seconds: float, between: Callable[[Done, Any], None], done: Done
) -> tuple[Any, Done]:
    """The steps 0 … total − 1, or those that `done` leaves, by calls of about `seconds`; at least one call.

    Args:
      call: (first, last) → infos as NumPy arrays, with zeros for all other steps than first … last − 1.
      between: is told after each call how far it has come, with the infos; by raising it ends the series.

    Returns:
      The infos of all steps, and that they are done.
    """
    while True:
        last, start = min(done.steps + done.size, total), time.monotonic()
        leaves, structure = jax.tree.flatten(call(done.steps, last))
        took = time.monotonic() - start
        if done.infos:  # each figure is zero in all calls but one, so that the sum is that one to the bit
            leaves = [np.add(kept, new) for kept, new in zip(done.infos, leaves, strict=True)]
        size = int(seconds * max(last - done.steps, 1) / max(took, 1e-9))
        done = Done(last, tuple(leaves), done.seconds + took, max(1, min(size, GROWTH * done.size)))
        infos = jax.tree.unflatten(structure, leaves)
        between(done, infos)
        if done.steps == total:
            return infos, done
