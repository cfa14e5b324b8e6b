"""A run as declared data: searches and trainings are lists of phases, which the runtime carries out without knowing
their names.

A phase says what is optimised (an algorithm over named collections), what its levels see, which numbers change
meanwhile, and what is worth looking at. Functions of a phase are of one seed; the runtime adds the axis of the seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.bilevel import Algorithm, State
from dass_jax.variables import Variables

WHOLE, TRAINING, VALIDATION = "whole", "training", "validation"
"""Splits of the training images: all of them, and the two parts of a search (`data.validation_fraction`)."""

COUNTED = "counted"
"""Among the rates: {level: how many of a batch's examples count}, for `Feed.whole`."""


class Feed(NamedTuple):
    """What a level sees in one update."""

    split: str
    """`WHOLE`, `TRAINING` or `VALIDATION`."""
    batch: int
    """Examples in a batch, on all devices."""
    batches: int = 1
    """For a level of several steps: its batch then has a leading axis of that length."""
    cutout: bool = False
    """With the augmentation that only the found network is trained with."""
    paths: tuple[int, ...] | None = None
    """The shape of the network's droppable paths; the rate "drop_path" says how many are dropped."""
    drops: Any = 1.0
    """What that rate is multiplied by, broadcast over `paths`."""
    augment: bool = True
    """False: the images as they are, but normalised."""
    steps: int | None = None
    """Of the level, in an epoch; its split is gone through as often as that takes, each time in another order. None: as
    many as there are in its split."""
    whole: bool = False
    """The whole split, in its order: what fills up the last batch is marked in `Batch.counted`."""


class Curve(NamedTuple):
    """How a metric is drawn: all curves of a group share a figure."""

    metric: str
    group: str
    line: str = ""
    """What the curve is called within its figure."""
    unit: str = ""
    style: str = "solid"
    gap: bool = False
    """Of a group's first curve: its distance to the second one is drawn too."""


class Matrix(NamedTuple):
    """How a matrix is drawn: a panel for each row, in which each column has a line over the epochs."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    value: str = ""
    """What an entry is."""
    grid: tuple[tuple[int, int], ...] = ()
    """Where the panel of each row lies, (row, column) from the top left; empty: one after another."""


class Observation(NamedTuple):
    """What is seen of the variables at the end of an epoch."""

    metrics: Mapping[str, float]
    matrices: Mapping[str, np.ndarray] = {}


Rates = Callable[[np.ndarray], dict[str, Any]]
"""Progress through a phase, float64 [steps] in [0, 1), for all steps of an epoch at once → numbers by name, each a
scalar or [steps], or a group of such with names of its own. They are data of a step: {"learning_rate": {level: …}} goes
to the levels' transforms, and losses find all of them in `variables["rates"]`."""


class Rebuild(NamedTuple):
    """How a phase continues with a smaller program when part of it has died. Descriptions are JSON."""

    wanted: Callable[[Variables, Any], Any]
    """(variables of all seeds as NumPy arrays, description of the program now or None) → description of the one to go
    on with, or None to stay."""
    phase: Callable[[Any, Any], "Phase"]
    """(description of the program before or None, description of the new one) → the phase with the new program, whose
    `begin` turns the old one's state into its own."""


class Phase(NamedTuple):
    """One phase of a method or a recipe."""

    name: str
    title: str
    """For people."""
    epochs: int
    algorithm: Algorithm
    """`update(state, {level: batch}, key, learning_rate={level: …}) → (state, {level: Info})`."""
    begin: Callable[[jax.Array, Any], State]
    """(key, the last phase's state or None) → the first state."""
    feeds: Mapping[str, Feed | None]
    """Level → what it sees; None: no batch. The shortest feed ends an epoch; without any, an epoch is one update."""
    rates: Rates = lambda progress: {}
    program: str = ""
    """Phases of equal name here share one compiled program, so all that it is made of must be equal: loss, network,
    transforms, feeds. Empty: the phase shares none."""
    draws: str = ""
    """Phases of equal name here draw the same examples and keys from a seed; empty: the phase's own name."""
    curves: tuple[Curve, ...] = ()
    matrices: Mapping[str, Matrix] = {}
    observe: Callable[[Variables], Observation] | None = None
    after_epoch: Callable[[State], State] | None = None
    stop: Callable[[Mapping[str, float]], bool] | None = None
    """Metrics of an epoch → whether the phase ends here. Of several seeds all must say so."""
    network: Callable[[Variables], Variables] | None = None
    """Variables → {"params", "batch_stats", "masks"} of the network that is evaluated on the test images."""
    rebuild: Rebuild | None = None
    unread: tuple[str, ...] = ()
    """Fields of the configuration, by their dotted names, which neither this phase nor one before it reads. Runs that
    differ in nothing else share the phase's end; empty: it is not shared."""
    by_turns: bool = False
    """An epoch is all steps of the first level, then all of the next one, and so on; which level a step is of, is the
    rate "turn" (`bilevel.by_turns`). The batches of the others are zeros."""


class Search(NamedTuple):
    """What a method makes: phases, and how the found architecture is read off a seed's variables."""

    phases: tuple[Phase, ...]
    found: Callable[[Any, int], Any]
    """(variables at the end, None without any phase; seed) → architecture. Also asked during a phase."""
    checked: Callable[[Any, int], Sequence[tuple[Any, float]]] = lambda v, seed: ()
    """(variables at the end, seed) → architectures with their scores, more being better, which are to be trained as the
    found one is: to see whether the search's scores rank what they reach."""


class Training(NamedTuple):
    """What a recipe makes of a network."""

    phases: tuple[Phase, ...]
    outputs: Callable[[Variables, jax.Array], jax.Array]
    """(params, batch_stats and masks, images [C, H, W, N]) → outputs in evaluation."""
    evaluations: Mapping[str, str]
    """Phase → what the result at its end is called: {phase: "dense"}, in the order of the phases."""


def single(algorithm: Algorithm, level: str) -> Algorithm:
    """An algorithm that takes one batch, as one that takes {level: batch}."""

    def update(state: State, batches: Mapping[str, Any], key: jax.Array, **extra: Any) -> Any:
        return algorithm.update(state, batches[level], key, **extra)

    return Algorithm(algorithm.init, update)
