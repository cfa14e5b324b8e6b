"""Whether a deployed network says what the trained one says, on the whole test set."""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import compose
from dass_jax.data import arrays, stream
from dass_jax.data.augment import normalise
from dass_jax.deploy import source
from dass_jax.deploy.files import Run
from dass_jax.deploy.source import Trained
from dass_jax.errors import UserError
from dass_jax.tasks import Task
from dass_jax.variables import BATCH_STATS

BATCH = 64
NOISE = 256
"""Images, where there are none."""
TOLERANCE = 1e-5
"""Of outputs in float32, relative to the largest where that is above 1."""


class Outcome(NamedTuple):
    """Of one network on `images` images."""

    images: int
    predictions: int
    """One for each image, or for each of its pixels."""
    figures: dict[str, Any]
    """The task's, by the names of its metrics; None: the images are noise, which has no targets."""
    difference: float
    """Largest difference of an output from the masked network's."""
    largest: float
    """The masked network's largest output, in magnitude."""
    changed: int | None
    """Predictions that are not the masked network's; None: the task predicts nothing."""

    @property
    def is_exact(self) -> bool:
        """Equal to the masked network up to float32's rounding, which may decide between two outputs as large as each
        other: of many pixels some have such."""
        close = self.difference <= TOLERANCE * max(1.0, self.largest)
        return close and (self.changed or 0) <= TOLERANCE * self.predictions


def masked(found: Trained) -> Run:
    """The trained network itself, as its definition evaluates it, masks multiplied in."""
    program = jax.jit(functools.partial(source.outputs, found))
    statistics = found.network.variables[BATCH_STATS]

    def run(images: np.ndarray) -> np.ndarray:
        outputs = np.asarray(program(found.params, statistics, images.transpose(1, 2, 3, 0)))
        return outputs if outputs.ndim == 2 else np.moveaxis(outputs, -1, 0)

    return run


def batches(found: Trained, limit: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The test set, or its first `limit` images, as (normalised images [N, C, H, W] float32, targets [N, …]). Where it
    has no images, as many of noise, at most `NOISE`, with targets of no meaning."""
    data = found.setting.dataset
    if not data.test.size:
        number = min(limit or NOISE, NOISE)
        pixels = np.random.default_rng(0).integers(0, 256, (number, *data.shape), np.uint8)
        data = data._replace(test=arrays.Split(pixels, data.no_labels(number)))
    rows = np.arange(min(limit, data.test.size) if limit else data.test.size)
    if isinstance(data.test, arrays.Split):
        parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        splits: Iterator[arrays.Split] = (arrays.Split(data.test.images[p], data.test.labels[p]) for p in parts)
    else:
        splits = stream.batches(data.test, rows, compose.centred(found.setting), data.shape, BATCH)
    mean, std = jnp.asarray(data.mean), jnp.asarray(data.std)
    for images, targets in splits:
        yield np.asarray(normalise(jnp.asarray(images), mean, std)).transpose(3, 0, 1, 2), targets


def compare(found: Trained, runs: Mapping[str, Run], limit: int = 0) -> dict[str, Outcome]:
    """The outcome of the masked network ("masked") and of each other one, in one pass over the test set."""
    task, every = found.setting.task, {"masked": masked(found), **runs}
    look = jax.jit(functools.partial(seen, task))
    sums = dict.fromkeys(every, Outcome(0, 0, {}, 0.0, 0.0, None))
    for images, targets in batches(found, limit):
        whole, answers, count = filled(images), filled(targets), len(images)
        counted = (np.arange(BATCH) < count).astype(np.float32)
        first = every["masked"](whole)
        wanted, predicted = first[:count], look(first, answers, counted)[1]
        for name, before in sums.items():
            outputs = first if name == "masked" else every[name](whole)
            figures, own = look(outputs, answers, counted)
            difference = np.abs(outputs[:count] - wanted).max()
            sums[name] = Outcome(
                before.images + count,
                before.predictions + (0 if own is None else own.size // BATCH * count),
                {key: before.figures.get(key, 0) + np.asarray(value, np.float64) for key, value in figures.items()},
                float(np.maximum(before.difference, difference)),  # not Python's, which drops NaN
                float(np.maximum(before.largest, np.abs(wanted).max())),
                None if own is None else (before.changed or 0) + int(np.asarray(own != predicted)[..., :count].sum()),
            )
    blind = not found.setting.dataset.test.size
    return {name: one._replace(figures=figures_of(task, one.figures, blind)) for name, one in sums.items()}


def filled(x: np.ndarray) -> np.ndarray:
    """x [N, …] as [BATCH, …], the last entry repeated: batches of one size are compiled once."""
    return np.concatenate([x, np.repeat(x[-1:], BATCH - len(x), axis=0)])


def seen(task: Task, outputs: jax.Array, targets: jax.Array, counted: jax.Array) -> tuple[dict[str, jax.Array], Any]:
    """The task's sums over a batch of outputs [N, …], and what is predicted [N] or [H, W, N], if anything."""
    if outputs.ndim > 2:  # as networks put out pixels
        outputs, targets = jnp.moveaxis(outputs, 0, -1), jnp.moveaxis(targets, 0, -1)
    predicted = None if task.predictions is None else task.predictions(outputs)
    return task.sums(outputs, targets, counted), predicted


def figures_of(task: Task, sums: Mapping[str, Any], blind: bool = False) -> dict[str, float | None]:
    """The task's figures, rounded as a run rounds them; None if the images are noise."""
    if blind:
        return dict.fromkeys(metric.name for metric in task.metrics)
    return {name: round(float(value), 6) for name, value in task.figures(sums).items()}


def demand_exact(outcome: Outcome, name: str, place: pathlib.Path) -> None:
    """Raises UserError if a compacted network is not the masked one."""
    if not outcome.is_exact:
        changed = "" if outcome.changed is None else f", and {outcome.changed} of {outcome.predictions} predictions"
        raise UserError(
            f"{str(place)!r}: outputs of {name} differ from the masked network's by {outcome.difference:.3g} where the "
            f"largest is {outcome.largest:.3g}{changed}; allowed: {TOLERANCE:g} of the largest and no other prediction "
            "(a network whose outputs are not finite cannot be deployed)"
        )
