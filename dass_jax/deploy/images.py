"""The images that a deployed network is checked on: its run's test images, where they still are what they were."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from dass_jax import compose
from dass_jax.data import load
from dass_jax.deploy.check import Outcome
from dass_jax.deploy.source import Trained
from dass_jax.errors import UserError
from dass_jax.runtime import origin

FLAG = "--data.accept-changed"
SHARE = 0.01
"""Of a figure by which it may differ from the run's own, beside one image: rounding changes predictions that are close,
more so where the run kept its activations in 16 bits."""


class Tested(NamedTuple):
    """A network with test images."""

    found: Trained
    """Whose setting has them; without any image where there are none."""
    said: tuple[str, ...]
    """What a user should know of them, each in one line."""
    own: bool
    """Whether they are those that the run measured its network on."""


def tested(found: Trained, data: str | None, accept: bool) -> Tested:
    """The network with the data that lie at `data`, or for None where its run knows them.

    Args:
      data: as `data.source`; of a run on TFDS' data also the folder in which TFDS has them.

    Raises:
      UserError: if there is nothing at `data`, or they are not the run's data and that is not accepted.
    """
    known, config = found.record, found.setting.config
    if data is not None:
        folder = load.is_tfds(config.data.source) and not load.is_tfds(data)
        there: dict[str, Any] = {"folder" if folder else "source": data}
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **there))
    if known is None:
        dataset = compose.load_data(config) if data is not None else found.setting.dataset
        said = "which data it was trained on is not known: preparation and classes are those of what lies there now"
        return Tested(found._replace(setting=found.setting._replace(dataset=dataset)), (said,), False)
    if data is None:
        kept = origin.read(found.run)
        config = compose.located(config, found.run, kept.beside if kept else "", known.place)
        if not load.exists(config.data.source, config.data.folder):
            said = f"data.source = {known.source!r} is not there: files are compared on noise; --data says where it is"
            return Tested(found, (said,), False)
    dataset = compose.load_data(config)
    assert dataset.record is not None
    changed = origin.changes(known, dataset.record)
    if changed:
        text = f"{config.data.source!r} is not the data that the network was trained on: {'; '.join(changed)}"
        before, now = known.preparation.shape, dataset.shape
        if before != now or len(known.fingerprint.classes) != dataset.classes:
            raise UserError(f"{text}; allowed: images and classes of its own kind, as --data")
        if not accept:
            raise UserError(f"{text}; allowed: those, as --data, or {FLAG}")
        changed = [text]
    own = compose.as_recorded(dataset, known)
    measured_on = not changed and not origin.has_mixed(known)
    return Tested(found._replace(setting=found.setting._replace(dataset=own)), tuple(changed), measured_on)


def told(test: Tested) -> dict[str, Any]:
    """What report.json says of the images: whether they are the run's own test images, and what is to be known."""
    return {"own": test.own, "said": list(test.said)}


def demand_measured(test: Tested, outcome: Outcome, place: pathlib.Path) -> None:
    """Raises UserError if the network is not as good on all of its run's test images as the run measured it."""
    metric, measured = test.found.setting.task.metrics[0], test.found.measured
    now = outcome.figures.get(metric.name)
    if not test.own or measured is None or now is None or outcome.images < test.found.setting.dataset.test.size:
        return
    wanted = measured[metric.name]
    one = 100 / outcome.images if metric.unit == "%" else 0.0
    if not abs(now - wanted) <= one * 1.001 + SHARE * max(abs(now), abs(wanted)):
        raise UserError(
            f"{str(place)!r}: {metric.name} {now:g} on its own {outcome.images} test images, where the run measured "
            f"{wanted:g}; allowed: the same up to rounding"
        )
