"""Many steps as calls of a bounded time: between two calls the host can look up.

A compiled loop hears nothing of the world around it. So a call takes as many steps as go into a given time, and what it
has seen is put together on the host in a way that does not depend on where one call ended and the next began. Several
hosts take the same calls. Between two of them a run looks for a signal to stop, for numbers that are not finite, and
whether it is time for a pause.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.errors import Stopped, UserError
from dass_jax.runtime import hosts, soundness
from dass_jax.runtime.signals import Signals

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


class Watch(NamedTuple):
    """What is looked for between two calls."""

    signals: Signals
    seconds: float
    """That a call may take, about; at least one step."""
    minutes: float
    """Between two pauses; 0 = none."""
    skip: bool
    """Go on after a step that is not finite."""
    pause: Callable[[Any, Done], None]
    """Keeps a state (NumPy arrays) and how far the epoch has come."""
    fetch: Callable[[Any], Any]
    """State on the devices → NumPy arrays."""


class Place(NamedTuple):
    """Where an epoch stands, for messages."""

    label: str
    epoch: int
    """From 1."""
    seeds: Sequence[int] | None
    """None for a run that has only one."""


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


def run(series: Series, state: Any, done: Done, watch: Watch, at: Place) -> tuple[Any, Any, Done]:
    """The steps of an epoch, as a feed hands them out, beyond those that are `done`.

    Args:
      state: on the devices; it is given away.

    Returns:
      (state on the devices, infos of all steps as NumPy arrays [seeds, steps], done).

    Raises:
      Stopped: after a signal, with a pause kept.
      UserError: after a step that is not finite, unless these are skipped; the state before it is kept as a pause if
        there is one seed, of several some have gone on.
    """
    kept_at = time.monotonic()

    def between(state: Any, done: Done, infos: Any) -> None:
        nonlocal kept_at
        found = None if watch.skip else soundness.first(infos)
        if found is not None:
            now = watch.fetch(state)
            if at.seeds is None:
                watch.pause(now, done._replace(steps=found.step, infos=soundness.before(infos, found)))
            raise UserError(soundness.message(found, at.label, at.seeds, at.epoch, now.variables))
        due = watch.minutes > 0 and time.monotonic() - kept_at > 60 * watch.minutes
        asked, due = watch.signals.agreed(due)
        if asked or (due and done.steps < series.total):
            watch.pause(watch.fetch(state), done)
            kept_at = time.monotonic()
        if asked:
            raise Stopped(asked)

    return in_calls(series, state, watch.seconds, between, done)


def evaluate(series: Series, network: Any, signals: Signals, seconds: float) -> dict[str, Any]:
    """The sums over a split [seeds, …], by calls of about so many seconds; float64. Raises Stopped."""

    def between(*_: Any) -> None:
        if asked := signals.agreed()[0]:
            raise Stopped(asked)

    _, infos, _ = in_calls(series, network, seconds, between, Done())
    return jax.tree.map(lambda x: x.sum(1, dtype="float64"), infos)


def keeping(watch: Watch, state: Any, done: Done, work: Callable[[], Any]) -> Any:
    """`work()`, for which the epoch is done but nothing of it is kept yet: a signal in it leaves a pause."""
    try:
        return work()
    except Stopped:
        watch.pause(state, done)
        raise
