"""Times of several functions, taken in turns, so that what disturbs the machine disturbs all of them."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dass_jax.schema import Range

TIMES = {"warm_up": Range(0, 10**6), "repetitions": Range(1, 10**6)}
"""What the arguments of `in_turns` may be."""
REST = 0.002
"""Seconds before each call, in which the threads of the call before stop waiting for more work."""


class Times(NamedTuple):
    """Milliseconds of one call."""

    median: float
    p90: float


def in_turns(calls: Mapping[str, Callable[[], Any]], warm_up: int, repetitions: int) -> dict[str, Times]:
    """Each call `warm_up` times untimed, then each `repetitions` times, one after the other; a call must block until
    its result is there."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(warm_up + repetitions):
            for name, call in calls.items():
                time.sleep(REST)
                start = time.perf_counter()
                call()
                if turn >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return {
        name: Times(round(1e3 * float(np.median(found)), 4), round(1e3 * float(np.quantile(found, 0.9)), 4))
        for name, found in seconds.items()
    }
