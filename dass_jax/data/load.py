"""The data of a run: the one place that chooses by `data.source` where images come from and how they are held."""

import os.path
import pathlib
from typing import NamedTuple

import numpy as np

from dass_jax.data import arrays, digits, folders, identity, masks, npz, pictures, record, stream, tfds
from dass_jax.errors import UserError

IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation of ImageNet's training images (RGB, 0 … 1), as everyone uses them."""
FORMS = (
    f"'digits', '{tfds.PREFIX}NAME', an .npz file or a folder of .npy files with {', '.join(npz.NAMES)}, "
    "or a folder with train/<class>/, or train/images/ and train/masks/, and test/ or val/"
)
BUILT_IN = "digits"
_BLOCK = 256
"""Images in a batch when all of a split are read."""


class Wanted(NamedTuple):
    """What is asked for; `dass_jax.config.Data` says what each means."""

    source: str
    limit: int = 0
    seed: int = 0
    folder: str = ""
    image_size: int = 0
    streaming: bool = False
    margin: float = 1.0
    """Of `pictures.centre_box`, for all images in memory and for the evaluation of streamed ones."""
    imagenet_statistics: bool = False
    most_bytes: int | None = None
    """Of images in memory; None = no bound."""


def load(wanted: Wanted) -> arrays.Dataset:
    """The data, its training set cut to `limit` images drawn at random with `seed` (0 = all).

    Raises:
      UserError: if the source cannot be read or does not hold what is wanted.
    """
    found, shape, told = _seen(wanted)
    parts = arrays.limited(found.train, wanted.limit, wanted.seed), found.test
    if wanted.streaming:
        splits: list[arrays.Split | arrays.Source] = [_source(part, wanted) for part in parts]
    else:
        decoded = [part.size for part in parts if not _is_ready(part, wanted)]
        _check_bytes(wanted, sum(decoded), shape)
        splits = [_in_memory(part, shape, wanted) for part in parts]
    counts, unit = _counts(found, splits[0])
    mean, std = _statistics(splits[0], shape, wanted)
    kept = record.Record(
        said=record.said(told, counts, unit),
        source=wanted.source,
        place=place_of(wanted),
        fingerprint=told,
        preparation=record.preparation(shape, wanted.image_size, wanted.margin, mean, std),
    )
    return arrays.Dataset(splits[0], splits[1], len(found.classes), mean, std, shape, kept, found.notes)


def fingerprint(wanted: Wanted) -> identity.Fingerprint:
    """Which data these are, without decoding them. Raises UserError as `load`."""
    return _seen(wanted)[2]


def _seen(wanted: Wanted) -> tuple[arrays.Opened, tuple[int, int, int], identity.Fingerprint]:
    """(the source, the images' shape as the network sees them, which data they are)."""
    found = opened(wanted.source, wanted.folder, wanted.most_bytes)
    if len(found.classes) < 2:
        raise UserError(
            f"data.source = {wanted.source!r} has {identity.classes(found.classes)}; allowed: two classes or more"
        )
    train = arrays.limited(found.train, wanted.limit, wanted.seed)  # raises for a limit that is too large
    shape = _shape(train, wanted.image_size)
    return found, shape, identity.fingerprint(found, shape, wanted.limit, wanted.seed, wanted.streaming)


def place_of(wanted: Wanted) -> str:
    """The absolute path of a file, a folder or TFDS' folder; empty for what is built in, or where TFDS looks itself."""
    if wanted.source == BUILT_IN:
        return ""
    path = wanted.folder if is_tfds(wanted.source) else wanted.source
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def is_tfds(source: str) -> bool:
    """Whether tensorflow-datasets has prepared it."""
    return source.startswith(tfds.PREFIX)


def exists(source: str, folder: str) -> bool:
    """Whether there is something where the data should be."""
    path = folder if is_tfds(source) else "" if source == BUILT_IN else source
    return not path or os.path.exists(os.path.expanduser(path))


def _counts(found: arrays.Opened, train: arrays.Split | arrays.Source) -> tuple[np.ndarray | None, str]:
    """(how often each class occurs in the training images that are used, what is counted); None: not known yet."""
    if found.pixels is not None:
        return found.pixels, "pixel"
    return None if train.labels is None else arrays.counted(train.labels, len(found.classes)), "image"


def opened(source: str, folder: str, most_bytes: int | None) -> arrays.Opened:
    """What the source has. Raises UserError."""
    path = pathlib.Path(os.path.expanduser(source))
    if source == BUILT_IN:
        if path.is_file() or holds_data(path):
            raise UserError(
                f"data.source = {source!r} is built in, and here is data of that name; allowed: './{source}' for that "
                "one; for what is built in, another working folder"
            )
        return digits.opened()
    if is_tfds(source):
        return tfds.opened(source.removeprefix(tfds.PREFIX), folder)
    if path.is_file():
        return npz.opened(path, most_bytes)
    if (path / "train").is_dir():
        return masks.opened(path) if masks.is_one(path) else folders.opened(path)
    if holds_data(path):
        return npz.opened_folder(path)
    found = "is a folder with neither" if path.is_dir() else "does not exist"
    raise UserError(f"data.source = {str(path)!r} {found}; allowed: {FORMS}")


def holds_data(path: pathlib.Path) -> bool:
    """Whether a folder has one of the forms, right or wrong."""
    return (path / "train").is_dir() or any((path / f"{name}.npy").exists() for name in npz.NAMES)


def _shape(train: arrays.Split | arrays.Source, image_size: int) -> tuple[int, int, int]:
    """(H, W, C) of the images as the network sees them: of a source the first one tells."""
    first = train.images[0] if isinstance(train, arrays.Split) else train.example(0)[0]
    height, width, channels = first.shape
    return (image_size, image_size, channels) if image_size else (height, width, channels)


def view(image_size: int, margin: float) -> stream.View:
    """Every image as it is evaluated: the centre at `image_size`, or for 0 the image as it is."""

    def centre(image: np.ndarray, place: int, exact: bool = False) -> np.ndarray:
        if not image_size:
            return image
        return pictures.cut(image, pictures.centre_box(image.shape[:2], margin), image_size, exact)

    return centre


def _source(part: arrays.Split | arrays.Source, wanted: Wanted) -> arrays.Source:
    return part if isinstance(part, arrays.Source) else arrays.one_by_one(part, f"data.source = {wanted.source!r}")


def _is_ready(part: arrays.Split | arrays.Source, wanted: Wanted) -> bool:
    """Whether it is in memory, or mapped into it, as it is wanted."""
    return isinstance(part, arrays.Split) and not wanted.image_size


def _in_memory(part: arrays.Split | arrays.Source, shape: tuple[int, int, int], wanted: Wanted) -> arrays.Split:
    if isinstance(part, arrays.Split) and _is_ready(part, wanted):
        return part
    images, start, source = np.empty((part.size, *shape), np.uint8), 0, _source(part, wanted)
    labels = arrays.blank_labels((part.size,), shape, part.masks)
    rows = np.arange(part.size)
    for found in stream.batches(source, rows, view(wanted.image_size, wanted.margin), shape, _BLOCK):
        images[start : start + found.size], labels[start : start + found.size] = found
        start += found.size
    return arrays.Split(images, labels)


def _check_bytes(wanted: Wanted, number: int, shape: tuple[int, int, int]) -> None:
    needed = number * int(np.prod(shape))
    if wanted.most_bytes is not None and needed > wanted.most_bytes:
        raise UserError(
            f"data.streaming = false with {number} images of {'×'.join(map(str, shape))} needs {needed / 1e9:.3g} GB "
            f"and {wanted.most_bytes / 1e9:.3g} GB are available; allowed: data.streaming = true, data.limit or a "
            "smaller data.image_size"
        )


def _statistics(
    train: arrays.Split | arrays.Source, shape: tuple[int, int, int], wanted: Wanted
) -> tuple[np.ndarray, np.ndarray]:
    if wanted.imagenet_statistics:
        if shape[2] != 3:
            raise UserError(f"data.statistics = 'imagenet' on images of {shape[2]} channels; allowed: 'own', or RGB")
        return IMAGENET
    if isinstance(train, arrays.Split):
        return arrays.channel_statistics(train.images)
    centred = view(wanted.image_size, wanted.margin)
    blocks = stream.batches(train, np.arange(train.size), centred, shape, _BLOCK)
    return arrays.statistics_of(block.images for block in blocks)
