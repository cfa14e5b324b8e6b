"""Images with labels or masks on the host: a split in memory or read image by image, its statistics, its halves."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError

MOST_CLASSES = 100_000
"""Labels from here on are taken for a mistake: the classifier would have this many outputs."""
VOID = 255
"""The label in a mask of what belongs to no class. PASCAL VOC's."""


class Split(NamedTuple):
    """One set of labelled images."""

    images: np.ndarray
    """uint8 [N, H, W, C]; may be mapped from a file."""
    labels: np.ndarray
    """int32 [N], 0 … classes − 1; or masks, uint8 [N, H, W], with `VOID` where there is no label."""

    @property
    def size(self) -> int:
        return len(self.labels)

    @property
    def masks(self) -> bool:
        """Whether each pixel has a label."""
        return self.labels.ndim > 1


class Source(NamedTuple):
    """One set of labelled images that are read when they are asked for. The functions may be called by any thread."""

    size: int
    example: Callable[[int], tuple[np.ndarray, Any]]
    """Row → (uint8 [H, W, C], label, or mask uint8 [H, W]); H and W may differ from row to row. Raises UserError,
    naming the image."""
    name: Callable[[int], str]
    """Row → what a user calls the image."""
    masks: bool = False
    """Whether each pixel has a label."""


class Dataset(NamedTuple):
    """Training and test images, with what is needed to normalise them."""

    train: Split | Source
    test: Split | Source
    classes: int
    mean: np.ndarray
    """float32 [C]: mean of each channel of the training images, on the scale 0 … 1."""
    std: np.ndarray
    """float32 [C]: standard deviation on the same scale, at least half a grey level."""
    shape: tuple[int, int, int]
    """(H, W, C) of the images as the network sees them."""

    @property
    def masks(self) -> bool:
        """Whether each pixel has a label."""
        return self.train.masks

    def no_labels(self, *number: int) -> np.ndarray:
        """Zeros of the labels' type for so many images, [*number] or [*number, H, W]."""
        return blank_labels(number, self.shape, self.masks)


def blank_labels(number: tuple[int, ...], shape: tuple[int, ...], masks: bool) -> np.ndarray:
    """Zeros for so many images of `shape` (H, W, C): int32 [*number], or as `masks` uint8 [*number, H, W]."""
    return np.zeros((*number, *shape[:2]), np.uint8) if masks else np.zeros(number, np.int32)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (float32 [C], scale 0 … 1) of each channel of uint8 images [N, H, W, C]."""
    return statistics_of(images[start : start + 1024] for start in range(0, len(images), 1024))


def statistics_of(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`channel_statistics` of all `blocks`, each uint8 [n, H, W, C], together.

    They come from counts of the 256 grey levels: no large copy is made, and no sum is rounded. A constant channel has
    half a grey level as its deviation, so that dividing by it is safe.
    """
    counts: np.ndarray = np.zeros(())
    for block in blocks:
        counts = counts + np.stack([np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(block, -1, 0)])
    levels = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 0.5 / 255).astype(np.float32)


def split_search(train: Split | Source, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training set's indices for the search, (lower, upper), int32: in random order, disjoint, together all.

    The upper level has round(validation_fraction · N) images. The test set takes no part.

    Raises:
      UserError: if one of the two would be empty.
    """
    total = train.size
    upper = round(validation_fraction * total)
    if not 0 < upper < total:
        raise UserError(
            f"data.validation_fraction = {validation_fraction} gives {upper} of {total} training images to the upper "
            f"level and {total - upper} to the lower; allowed: a fraction that gives both at least one"
        )
    order = np.random.default_rng(seed).permutation(total).astype(np.int32)
    return order[upper:], order[:upper]


def limited(train: Split | Source, limit: int, seed: int) -> Split | Source:
    """`limit` images drawn at random with `seed`, all of them for 0. Raises UserError if there are fewer."""
    if not 0 <= limit <= train.size:
        raise UserError(f"data.limit = {limit}; allowed: 0 (all) to {train.size}, the training images that there are")
    if limit == 0:
        return train
    chosen = np.random.default_rng(seed).permutation(train.size)[:limit]
    if isinstance(train, Split):
        return Split(train.images[chosen], train.labels[chosen])
    return Source(limit, lambda row: train.example(chosen[row]), lambda row: train.name(chosen[row]), train.masks)


def one_by_one(split: Split, name: str) -> Source:
    """A split as a source; `name` says whose images they are."""

    def example(row: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(split.images[row]), np.asarray(split.labels[row])

    return Source(split.size, example, lambda row: f"{name}: image {row}", split.masks)


def checked(images: np.ndarray, labels: np.ndarray, place: str) -> Split:
    """Images and labels of one set as a split; `place` starts every message. Raises UserError."""
    if images.dtype != np.uint8:
        raise UserError(f"{place}_images has type {images.dtype}; allowed: uint8")
    if images.ndim not in (3, 4):
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: N×H×W×C or N×H×W")
    images = images if images.ndim == 4 else images[..., None]
    if images.size == 0:
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: at least one image and one pixel")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{place}_labels has type {labels.dtype}; allowed: integers")
    masks = labels.ndim > 1
    if labels.shape not in (images.shape[:1], images.shape[:3]):
        raise UserError(
            f"{place}_labels has shape {_shape(labels)}; allowed: {len(images)}, one label for each image, or "
            f"{_shape(images[..., 0])}, one for each pixel"
        )
    most = VOID if masks else MOST_CLASSES - 1
    if labels.min() < 0 or labels.max() > most:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UserError(f"{place}_labels holds {wrong}; allowed: 0 to {most}")
    return Split(images, labels.astype(np.uint8 if masks else np.int32))


def checked_pair(arrays: dict[str, np.ndarray], place: str) -> tuple[Split, Split, int]:
    """(train, test, number of classes) from {"train_images", "train_labels", "test_images", "test_labels"}.

    Raises:
      UserError: if types or shapes are wrong or do not go together.
    """
    train, test = (
        checked(arrays[f"{part}_images"], arrays[f"{part}_labels"], f"{place}: {part}") for part in ("train", "test")
    )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{place}: test_images are {_shape(test.images)} and train_images {_shape(train.images)}; "
            "allowed: the same height, width and channels"
        )
    if train.masks != test.masks:
        raise UserError(f"{place}: one of train_labels, test_labels has a label for each pixel; allowed: both or none")
    return train, test, max(number_of_labels(part.labels) for part in (train, test))


def number_of_labels(labels: np.ndarray) -> int:
    """One more than the largest label, of masks than the largest but `VOID`; 0 without any."""
    found = labels[labels != VOID] if labels.ndim > 1 else labels
    return int(found.max()) + 1 if found.size else 0


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "()"
