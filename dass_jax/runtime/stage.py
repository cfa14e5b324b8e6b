"""What the runtime knows of a stage of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dass_jax.bilevel import State
from dass_jax.variables import Variables


class Stage(NamedTuple):
    """One stage of a method, as functions and plain numbers. With several seeds, what depends on the seed (states,
    indices, keys, infos, masks) has a leading axis over them, see `seeds`."""

    name: str
    clock: str
    """Under which name its seconds are reported."""
    program: str
    """Stages of equal name here share one compiled program."""
    epochs: int
    epoch: Callable[..., Any]
    """`loop.epoch` of its update."""
    start: Callable[[Any], State]
    """The last stage's state → this stage's first; a chain's first stage ignores its argument."""
    indices: Callable[[int], np.ndarray]
    learning_rate: Callable[[int], float | tuple[float, ...]]
    """Several, where the levels of one update have schedules of their own."""
    drop_path: Callable[[int], float]
    masks: Callable[[Variables], Any]
    """variables → the masks under which the network is evaluated; a search has none."""
