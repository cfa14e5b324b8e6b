"""Image classification data as NumPy arrays on the host: `digits`, or an .npz file of the user.

An .npz file holds train_images, train_labels, test_images and test_labels: images uint8 of shape [N, H, W, C] (or
[N, H, W], one channel), labels integers of shape [N] from 0.
"""

import functools
import math
import os.path
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import sklearn.datasets
import sklearn.model_selection

from dass_jax.errors import UserError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MOST_CLASSES = 100_000
"""Labels from here on are taken for a mistake: the classifier would have this many outputs."""

_DIGITS_SPLIT_SEED = 0


T = TypeVar("T")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, zlib and NumPy raise for damaged files: each kind of damage something else."""


class Split(NamedTuple):
    """One set of labelled images."""

    images: np.ndarray
    """uint8 [N, H, W, C]."""
    labels: np.ndarray
    """int32 [N], 0 … classes − 1."""


class Dataset(NamedTuple):
    """Training and test images, with what is needed to normalise them."""

    train: Split
    test: Split
    classes: int
    mean: np.ndarray
    """float32 [C]: mean of each channel of the training images, on the scale 0 … 1."""
    std: np.ndarray
    """float32 [C]: standard deviation on the same scale, at least half a grey level."""


def load(source: str, limit: int, seed: int, most: int | None = None) -> Dataset:
    """The data of `source`, its training set cut to `limit` images drawn at random with `seed` (0 = all).

    Args:
      most: bytes that the arrays of a file may take in memory; None: any number. They are looked at before anything is
        unpacked: a small file can hold gigabytes of zeros.

    Raises:
      UserError: if the source cannot be read or does not hold what is wanted, or `limit` exceeds the training set.
    """
    train, test = _digits() if source == "digits" else _npz(pathlib.Path(os.path.expanduser(source)), most)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    train = _limited(train, limit, seed)
    mean, std = channel_statistics(train.images)
    return Dataset(train, test, classes, mean, std)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (float32 [C], scale 0 … 1) of each channel of uint8 images [N, H, W, C].

    They come from counts of the 256 grey levels, taken some images at a time: no large copy is made, and no sum is
    rounded. A constant channel has half a grey level as its deviation, so that dividing by it is safe.
    """
    counts = np.zeros((images.shape[-1], 256))
    for start in range(0, len(images), 1024):
        for channel, row in enumerate(counts):
            row += np.bincount(images[start : start + 1024, ..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 0.5 / 255).astype(np.float32)


def split_search(train: Split, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training set's indices for the search, (lower, upper), int32: in random order, disjoint, together all.

    The upper level has round(validation_fraction · N) images. The test set takes no part.

    Raises:
      UserError: if one of the two would be empty.
    """
    total = len(train.labels)
    upper = round(validation_fraction * total)
    if not 0 < upper < total:
        raise UserError(
            f"data.validation_fraction = {validation_fraction} gives {upper} of {total} training images to the upper "
            f"level and {total - upper} to the lower; allowed: a fraction that gives both at least one"
        )
    order = np.random.default_rng(seed).permutation(total).astype(np.int32)
    return order[upper:], order[:upper]


def _limited(train: Split, limit: int, seed: int) -> Split:
    total = len(train.labels)
    if not 0 <= limit <= total:
        raise UserError(f"data.limit = {limit}; allowed: 0 (all) to {total}, the training images that there are")
    if limit == 0:
        return train
    chosen = np.random.default_rng(seed).permutation(total)[:limit]
    return Split(train.images[chosen], train.labels[chosen])


def _digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 grey 8×8 digits, 1,437 to train and 360 to test, always the same ones."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=_DIGITS_SPLIT_SEED
    )
    labels = labels.astype(np.int32)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def _npz(path: pathlib.Path, most: int | None) -> tuple[Split, Split]:
    place = f"data.source = {str(path)!r}"
    arrays = _read_npz(path, place, most)
    train, test = (
        _split(arrays[f"{part}_images"], arrays[f"{part}_labels"], f"{place}: {part}") for part in ("train", "test")
    )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{place}: test_images are {_shape(test.images)} and train_images {_shape(train.images)}; "
            "allowed: the same height, width and channels"
        )
    return train, test


def _read_npz(path: pathlib.Path, place: str, most: int | None) -> Mapping[str, np.ndarray]:
    wanted = f"an .npz file with {', '.join(ARRAYS)}"
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{place} {found}; allowed: 'digits' or {wanted}")
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{place} is not an .npz file; allowed: {wanted}")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive.files]
            if missing:
                there = ", ".join(archive.files) or "nothing"
                raise UserError(f"{place} has no {', '.join(missing)} (there is: {there}); allowed: {wanted}")
            declared = {name: _guarded(functools.partial(_declared, archive.zip, name), name, place) for name in ARRAYS}
            if most is not None and sum(declared.values()) > most:
                name = max(declared, key=lambda name: declared[name])
                raise UserError(
                    f"{place}: {name} takes {declared[name] / 1e9:.3g} GB in memory, all arrays "
                    f"{sum(declared.values()) / 1e9:.3g} GB; allowed: {most / 1e9:.3g} GB, which are available"
                )
            return {name: _member(archive, name, place) for name in ARRAYS}
    except _DAMAGE as error:
        raise UserError(f"{place} cannot be read: {error}; allowed: {wanted}") from error


def _member(archive: Any, name: str, place: str) -> np.ndarray:
    """One array of the file. Pickled objects, damage and encryption each have their own exception. Raises UserError."""
    array = _guarded(lambda: archive[name], name, place)
    if not isinstance(array, np.ndarray):
        raise UserError(f"{place}: {name} is not an array; allowed: an array of integers")
    return array


def _declared(archive: zipfile.ZipFile, name: str) -> int:
    """Bytes that an array says it has; 0 for a member that is none, which is refused when it is read."""
    if f"{name}.npy" not in archive.namelist():
        return 0
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its format {version} is unknown")
        shape, _, dtype = _HEADERS[version](file)
    return math.prod(shape) * dtype.itemsize


def _guarded(read: Callable[[], T], name: str, place: str) -> T:
    """What `read` returns; raises UserError, naming the array, for whatever a damaged file makes NumPy raise."""
    try:
        return read()
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(f"{place}: {name} cannot be read: {reason}; allowed: an array of integers") from error


def _split(images: np.ndarray, labels: np.ndarray, place: str) -> Split:
    """Checked images and labels of one set; `place` starts every message. Raises UserError."""
    if images.dtype != np.uint8:
        raise UserError(f"{place}_images has type {images.dtype}; allowed: uint8")
    if images.ndim not in (3, 4):
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: N×H×W×C or N×H×W")
    images = images if images.ndim == 4 else images[..., None]
    if images.size == 0:
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: at least one image and one pixel")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{place}_labels has type {labels.dtype}; allowed: integers")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{place}_labels has shape {_shape(labels)}; allowed: {len(images)}, one label for each image")
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UserError(f"{place}_labels holds {wrong}; allowed: 0 to {MOST_CLASSES - 1}")
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "()"
