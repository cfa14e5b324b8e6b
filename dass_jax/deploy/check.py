"""Whether a deployed network says what the trained one says, on the whole test set."""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

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
from dass_jax.variables import BATCH_STATS

BATCH = 64
TOLERANCE = 1e-5
"""Of logits in float32, relative to the largest where that is above 1."""


class Outcome(NamedTuple):
    """Of one network on `images` images."""

    images: int
    accuracy: float
    """Per cent."""
    difference: float
    """Largest difference of a logit from the masked network's."""
    largest: float
    """The masked network's largest logit, in magnitude."""
    changed: int
    """Images whose predicted class differs from the masked network's."""

    @property
    def is_exact(self) -> bool:
        """Equal to the masked network up to float32's rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.largest) and self.changed == 0


def masked(found: Trained) -> Run:
    """The trained network itself, as its definition evaluates it, masks multiplied in."""
    program = jax.jit(functools.partial(source.logits, found))
    statistics = found.network.variables[BATCH_STATS]
    return lambda images: np.asarray(program(found.params, statistics, images.transpose(1, 2, 3, 0)))


def batches(found: Trained, limit: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The test set as (normalised images [N, C, H, W] float32, labels [N]); of its first `limit` images, 0 = all."""
    data = found.setting.dataset
    rows = np.arange(min(limit, data.test.size) if limit else data.test.size)
    if isinstance(data.test, arrays.Split):
        parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
        splits: Iterator[arrays.Split] = (arrays.Split(data.test.images[p], data.test.labels[p]) for p in parts)
    else:
        splits = stream.batches(data.test, rows, compose.centred(found.setting), data.shape, BATCH)
    mean, std = jnp.asarray(data.mean), jnp.asarray(data.std)
    for images, labels in splits:
        yield np.asarray(normalise(jnp.asarray(images), mean, std)).transpose(3, 0, 1, 2), labels


def compare(found: Trained, runs: Mapping[str, Run], limit: int = 0) -> dict[str, Outcome]:
    """The outcome of the masked network ("masked") and of each other one, in one pass over the test set."""
    reference = masked(found)
    every = {"masked": reference, **runs}
    sums = {name: Outcome(0, 0.0, 0.0, 0.0, 0) for name in every}
    for images, labels in batches(found, limit):
        # All batches have one size, so that everything is compiled once.
        whole = np.concatenate([images, np.zeros((BATCH - len(images), *images.shape[1:]), np.float32)])
        wanted = reference(whole)[: len(images)]
        for name, run in every.items():
            got = wanted if name == "masked" else run(whole)[: len(images)]
            before = sums[name]
            sums[name] = Outcome(
                before.images + len(images),
                before.accuracy + float((got.argmax(1) == labels).sum()),
                float(np.maximum(before.difference, np.abs(got - wanted).max())),  # not Python's, which drops NaN
                float(np.maximum(before.largest, np.abs(wanted).max())),
                before.changed + int((got.argmax(1) != wanted.argmax(1)).sum()),
            )
    return {name: one._replace(accuracy=round(100 * one.accuracy / one.images, 4)) for name, one in sums.items()}


def demand_exact(outcome: Outcome, name: str, place: pathlib.Path) -> None:
    """Raises UserError if a compacted network is not the masked one."""
    if not outcome.is_exact:
        raise UserError(
            f"{str(place)!r}: logits of {name} differ from the masked network's by {outcome.difference:.3g} where the "
            f"largest is {outcome.largest:.3g}, and {outcome.changed} of {outcome.images} predictions; "
            f"allowed: {TOLERANCE:g} of the largest and none (a network whose logits are not finite cannot be deployed)"
        )
