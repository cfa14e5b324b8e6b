"""Numbers as functions of progress: float64 arrays in [0, 1) → arrays. Evaluated on the host, data inside a program."""

from collections.abc import Callable

import numpy as np

Schedule = Callable[[np.ndarray], np.ndarray]


def constant(value: float) -> Schedule:
    """The same value throughout."""
    return lambda progress: np.full_like(progress, value)


def linear(initial: float, final: float) -> Schedule:
    """From `initial` towards `final` at progress 1."""
    return lambda progress: initial + (final - initial) * progress


def cosine(initial: float, final: float) -> Schedule:
    """From `initial` along a half cosine towards `final` at progress 1. Source: SGDR (arXiv 1608.03983) Eq. 5."""
    return lambda progress: final + (initial - final) * 0.5 * (1 + np.cos(np.pi * progress))


def by_epoch(schedule: Schedule, epochs: int) -> Schedule:
    """The schedule's value at the beginning of each epoch, held until its end."""
    # Progress is a quotient: a hair below a whole number of epochs is that number.
    return lambda progress: schedule(np.floor(progress * epochs + 1e-6) / epochs)


def warmed(schedule: Schedule, share: float, initial: float) -> Schedule:
    """From `initial` linearly to the schedule's first value within the first `share` of progress, then the schedule in
    what is left. Source: Goyal et al. (arXiv 1706.02677) Section 2.2."""
    if not share:
        return schedule
    first = schedule(np.zeros(1))[0]

    def at(progress: np.ndarray) -> np.ndarray:
        rising = initial + (first - initial) * progress / share
        return np.where(progress < share, rising, schedule(np.maximum(progress - share, 0) / (1 - share)))

    return at


def restarted(schedule: Schedule, epochs: int, first: int, factor: int) -> Schedule:
    """The schedule from its beginning in each cycle of `first`, `first`·`factor`, `first`·`factor`², … epochs, as it is
    at the beginning of each epoch of `epochs`; the last cycle may be cut short. Source: SGDR (arXiv 1608.03983)
    Section 3, warm restarts."""
    begins, length = [0], first
    while begins[-1] + length < epochs:
        begins.append(begins[-1] + length)
        length *= factor
    starts, lengths = np.array(begins), first * factor ** np.arange(len(begins))

    def at(progress: np.ndarray) -> np.ndarray:
        epoch = np.floor(progress * epochs + 1e-6)
        cycle = np.searchsorted(starts, epoch, side="right") - 1
        return schedule((epoch - starts[cycle]) / lengths[cycle])

    return at
