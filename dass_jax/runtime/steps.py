"""The epochs of one call of a stage, step by step as far as the host is concerned: it looks up between bounded calls.

What it looks for: a signal to stop, numbers that are not finite, and whether it is time for a pause.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.errors import Stopped, UserError
from dass_jax.runtime import calls, loop, parallel, soundness
from dass_jax.runtime.calls import Done
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


class Place(NamedTuple):
    """Where the epochs stand, for messages."""

    label: str
    epoch: int
    """Number of the first one, from 1."""
    seeds: Sequence[int] | None
    """None for a run that has only one."""


def run(
    program: Callable[..., Any], state: Any, examples: Any, inputs: tuple[Any, ...], done: Done, watch: Watch, at: Place
) -> tuple[Any, Any, Done]:
    """The epochs of `inputs` (with leading axes over epochs; the first is indices) beyond what is `done`.

    Args:
      program: `loop.several` of an epoch, on the devices.
      state: on the devices; it is given away.

    Returns:
      (state on the devices, infos of all steps as NumPy arrays, done).

    Raises:
      Stopped: after a signal, with a pause kept.
      UserError: after a step that is not finite, unless these are skipped; the state before it is kept as a pause if
        there is one seed, of several some have gone on.
    """
    indices = inputs[0]
    epochs, steps = len(indices), indices.shape[1 if at.seeds is None else 2]
    held, kept_at = [state], time.monotonic()

    def call(first: int, last: int) -> Any:
        held[0], infos = program(held[0], examples, *inputs, *loop.bounds(first, last, epochs, steps))
        return parallel.unreplicate(infos)

    def between(done: Done, infos: Any) -> None:
        nonlocal kept_at
        found = None if watch.skip else soundness.first(infos)
        if found is not None:
            now = parallel.unreplicate(held[0])
            if at.seeds is None:
                there = done._replace(steps=found.epoch * steps + found.step, infos=soundness.before(infos, found))
                watch.pause(now, there)
            raise UserError(soundness.message(found, at.label, at.seeds, at.epoch, now.variables))
        due = watch.minutes > 0 and time.monotonic() - kept_at > 60 * watch.minutes
        if watch.signals.asked is not None or (due and done.steps < epochs * steps):
            watch.pause(parallel.unreplicate(held[0]), done)
            kept_at = time.monotonic()
        watch.signals.check()

    infos, done = calls.in_calls(call, epochs * steps, watch.seconds, between, done)
    return held[0], infos, done


def evaluate(
    program: Callable[..., Any], network: Any, examples: Any, rows: tuple[Any, Any], signals: Signals, seconds: float
) -> dict[str, Any]:
    """The sums over a split, by calls of about so many seconds; float64. Raises Stopped."""

    def call(first: int, last: int) -> Any:
        return parallel.unreplicate(program(network, examples, *rows, np.int32(first), np.int32(last)))

    infos, _ = calls.in_calls(call, len(rows[0]), seconds, lambda *_: signals.check(), Done())
    return jax.tree.map(lambda x: x.sum(-1, dtype="float64"), infos)


def keeping(watch: Watch, state: Any, done: Done, work: Callable[[], Any]) -> Any:
    """`work()`, for which the epochs are done but nothing of them is kept yet: a signal in it leaves a pause."""
    try:
        return work()
    except Stopped:
        watch.pause(state, done)
        raise
