"""A configuration's data: read where they lie, found again from a run's folder, or left where they are."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from dass_jax.config import Config
from dass_jax.data import arrays, load, pictures
from dass_jax.data.identity import Fingerprint
from dass_jax.data.record import Record
from dass_jax.runtime import memory


def load_data(config: Config) -> arrays.Dataset:
    """The data that a configuration names. Raises UserError."""
    return load.load(_wanted(config))


def fingerprint(config: Config) -> Fingerprint:
    """Which data a configuration names, without decoding them. Raises UserError."""
    return load.fingerprint(_wanted(config))


def _wanted(config: Config) -> load.Wanted:
    c = config.data
    return load.Wanted(
        source=c.source,
        limit=c.limit,
        seed=config.seed,
        folder=c.folder,
        image_size=c.image_size,
        streaming=c.streaming,
        margin=margin(config),
        imagenet_statistics=c.statistics == "imagenet",
        most_bytes=memory.host_bytes() if config.runtime.memory_check else None,
    )


def margin(config: Config) -> float:
    """Whole images are evaluated as they are trained on; after random boxes, without their borders."""
    return pictures.MARGIN if config.data.crop_scale else 1.0


def located(config: Config, run: pathlib.Path, beside: str, place: str) -> Config:
    """The configuration of a run with its data where they lie now, which a relative path does not say by itself: where
    they lay from the run's folder, or where they lay at all; as it is if they are neither here nor there.

    Args:
      beside, place: their paths from the run's folder, and absolute, when the run began; empty for what is built in.
    """
    name = "folder" if load.is_tfds(config.data.source) else "source"
    own = os.path.expanduser(getattr(config.data, name))
    paths = [*([run / beside] if beside else []), *([pathlib.Path(place)] if place else [])]
    found = next((path for path in paths if path.exists()), None)
    if found is None or (os.path.isabs(own) and os.path.exists(own)):
        return config
    there: dict[str, Any] = {name: os.path.abspath(found)}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **there))


def as_recorded(dataset: arrays.Dataset, record: Record | None) -> arrays.Dataset:
    """The data with the statistics that a run began with, and its record."""
    if record is None:
        return dataset
    mean, std = (np.array(x, np.float32) for x in (record.preparation.mean, record.preparation.std))
    return dataset._replace(mean=mean, std=std, record=record)


def without_data(record: Record, masks: bool = False) -> arrays.Dataset:
    """What a record says of data, with splits of no image."""
    shape = record.preparation.shape
    nothing = arrays.Split(np.zeros((0, *shape), np.uint8), arrays.blank_labels((0,), shape, masks))
    none = np.zeros(shape[2], np.float32)
    found = arrays.Dataset(nothing, nothing, len(record.fingerprint.classes), none, none, shape)
    return as_recorded(found, record)
