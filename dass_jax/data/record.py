"""What a run keeps of its data, as plain data: which they were, how a picture is prepared, where they lay.

It is written with the run, every checkpoint, every network and every file that is deployed: nothing that a network
needs is looked up, or measured again, in what lies at a path later.
"""

from typing import Any, NamedTuple

import numpy as np

from dass_jax.data import identity, pictures
from dass_jax.data.identity import Fingerprint, Part
from dass_jax.errors import UserError


class Preparation(NamedTuple):
    """How a picture becomes what the network sees: turned upright (EXIF), laid on the background where it is
    transparent, in these colours, as bytes; cropped and resized in one step; then (byte / 255 − mean) / std of each
    channel."""

    shape: tuple[int, int, int]
    """(H, W, C)."""
    colour: str
    """`RGB` or `grey`; of other numbers of channels `channels`: they come as they are."""
    background: int
    """Grey level under what is transparent."""
    crop: str
    """`centre`: the largest centred square, its side divided by `margin`; `none`: pictures have the size already."""
    margin: float
    interpolation: str
    """Pillow's `bilinear`, which averages where it shrinks."""
    mean: tuple[float, ...]
    """Of each channel, on the scale 0 … 1."""
    std: tuple[float, ...]


class Record(NamedTuple):
    """What a run keeps of its data."""

    said: str
    """What was read, in one line."""
    source: str
    """As the configuration has it."""
    place: str
    """The absolute path of a file or folder, or of TFDS' folder; empty for what is built in."""
    fingerprint: Fingerprint
    preparation: Preparation
    accepted: tuple[str, ...] = ()
    """Changes of the data that the run went on with."""


def preparation(
    shape: tuple[int, int, int], image_size: int, margin: float, mean: np.ndarray, std: np.ndarray
) -> Preparation:
    """Of the images that are evaluated."""
    return Preparation(
        shape=shape,
        colour={3: "RGB", 1: "grey"}.get(shape[2], "channels"),
        background=pictures.BACKGROUND,
        crop="centre" if image_size else "none",
        margin=margin,
        interpolation="bilinear",
        mean=tuple(float(x) for x in mean),
        std=tuple(float(x) for x in std),
    )


def said(found: Fingerprint, counts: np.ndarray | None, unit: str) -> str:
    """`48 + 20 images, 8×8×3, 3 classes (a, b, c), rarest: b with 9 images`.

    Args:
      counts: of each class in the training images that are used, [classes]; None: not known without reading all.
      unit: what is counted, one of them.
    """
    train = f"{found.limit:,} of {found.train.number:,}" if found.limit else f"{found.train.number:,}"
    parts = [
        f"{train} + {found.test.number:,} images",
        identity.times(found.shape),
        identity.classes(found.classes),
    ]
    if counts is not None and len(counts):
        rarest = int(np.argmin(counts))
        number = int(counts[rarest])
        parts.append(f"rarest: {found.classes[rarest]} with {number:,} {unit}{'s' if number != 1 else ''}")
    return ", ".join(parts)


def to_json(record: Record) -> dict[str, Any]:
    """Plain data."""
    fingerprint = record.fingerprint
    parts = {name: getattr(fingerprint, name)._asdict() for name in ("train", "test")}
    return {
        **record._asdict(),
        "fingerprint": {**_lists(fingerprint._asdict()), **parts},
        "preparation": _lists(record.preparation._asdict()),
        "accepted": list(record.accepted),
    }


def _lists(found: dict[str, Any]) -> dict[str, Any]:
    """As JSON would give it back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def from_json(data: Any, origin: str) -> Record:
    """What `to_json` gave. Raises UserError, naming `origin`, for anything else."""
    try:
        own = dict(data["fingerprint"])
        parts = {name: Part(**own[name]) for name in ("train", "test")}
        shape, names = tuple(map(int, own["shape"])), tuple(map(str, own["classes"]))
        fingerprint = Fingerprint(**{**own, **parts, "shape": shape, "classes": names})
        prepared: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in data["preparation"].items()
        }
        found = Preparation(**prepared)
        if len(found.shape) != 3 or len(shape) != 3 or not len(found.mean) == len(found.std) == found.shape[2]:
            raise ValueError("its preparation does not fit its shape")
        np.asarray([found.mean, found.std], np.float32)
        texts = {name: str(data[name]) for name in ("said", "source", "place")}
        return Record(**texts, fingerprint=fingerprint, preparation=found, accepted=tuple(data.get("accepted", ())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{origin} is damaged ({type(error).__name__}: {reason}); allowed: what a run wrote") from error
