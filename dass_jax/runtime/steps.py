"""The epochs of one call of a stage, step by step as far as the host is concerned: it looks up between bounded calls.

What it looks for: a signal to stop, numbers that are not finite, and whether it is time for a pause.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dass_jax.errors import Stopped, UserError
from dass_jax.runtime import calls, soundness
from dass_jax.runtime.calls import Done, Series
from dass_jax.runtime.signals import Signals


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
    """Keeps a state (NumPy arrays) and how far the epochs have come."""
    fetch: Callable[[Any], Any]
    """State on the devices → NumPy arrays."""


class Place(NamedTuple):
    """Where the epochs stand, for messages."""

    label: str
    epoch: int
    """Number of the first one, from 1."""
    epochs: int
    """How many there are."""
    seeds: Sequence[int] | None
    """None for a run that has only one."""


def run(series: Series, state: Any, done: Done, watch: Watch, at: Place) -> tuple[Any, Any, Done]:
    """The steps of some epochs, as a feed hands them out, beyond those that are `done`.

    Args:
      state: on the devices; it is given away.

    Returns:
      (state on the devices, infos of all steps as NumPy arrays with leading axes over epochs and steps, done).

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
                number = found.epoch * (series.total // at.epochs) + found.step
                watch.pause(now, done._replace(steps=number, infos=soundness.before(infos, found)))
            raise UserError(soundness.message(found, at.label, at.seeds, at.epoch, now.variables))
        due = watch.minutes > 0 and time.monotonic() - kept_at > 60 * watch.minutes
        asked, due = watch.signals.agreed(due)
        if asked or (due and done.steps < series.total):
            watch.pause(watch.fetch(state), done)
            kept_at = time.monotonic()
        if asked:
            raise Stopped(asked)

    return calls.in_calls(series, state, watch.seconds, between, done)


def evaluate(series: Series, network: Any, signals: Signals, seconds: float) -> dict[str, Any]:
    """The sums over a split, by calls of about so many seconds; float64. Raises Stopped."""

    def between(*_: Any) -> None:
        if asked := signals.agreed()[0]:
            raise Stopped(asked)

    _, infos, _ = calls.in_calls(series, network, seconds, between, Done())
    return jax.tree.map(lambda x: x.sum(-1, dtype="float64"), infos)


def keeping(watch: Watch, state: Any, done: Done, work: Callable[[], Any]) -> Any:
    """`work()`, for which the epochs are done but nothing of them is kept yet: a signal in it leaves a pause."""
    try:
        return work()
    except Stopped:
        watch.pause(state, done)
        raise
