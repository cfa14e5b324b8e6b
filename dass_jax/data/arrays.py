"""Images with labels or masks on the host: a split in memory or read image by image, its statistics, its halves."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError

if TYPE_CHECKING:
    from dass_jax.data.record import Record

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
    labels: np.ndarray | None = None
    """int32 [N]; None: they are read with the images."""
    raw: Callable[[int], bytes] | None = None
    """Row → the bytes of the image, and of its mask, as they are stored. Raises UserError, naming the image."""


class Opened(NamedTuple):
    """What a source holds, before it is limited, decoded or resized."""

    train: Split | Source
    test: Split | Source
    classes: tuple[str, ...]
    """Names in the order of the outputs."""
    notes: tuple[str, ...] = ()
    """What a user should know of it, each in one line."""
    stamps: tuple[Callable[[], str], Callable[[], str]] | None = None
    """For train and test what gives a digest of the files' names, sizes and times; None: all of it is in memory."""
    pixels: np.ndarray | None = None
    """Of masks that are read already the training pixels of each label, [labels]."""


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
    record: "Record | None" = None
    """What a run keeps of them; None: nothing is known."""
    notes: tuple[str, ...] = ()
    """What a user should know, each in one line."""

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


def drawn(size: int, limit: int, seed: int) -> np.ndarray:
    """`limit` of `size` rows drawn at random with `seed`, all of them in order for 0."""
    return np.random.default_rng(seed).permutation(size)[:limit] if limit else np.arange(size)


def limited(train: Split | Source, limit: int, seed: int) -> Split | Source:
    """The images that are `drawn`. Raises UserError if there are fewer."""
    if not 0 <= limit <= train.size:
        raise UserError(f"data.limit = {limit}; allowed: 0 (all) to {train.size}, the training images that there are")
    if limit == 0:
        return train
    chosen = drawn(train.size, limit, seed)
    if isinstance(train, Split):
        return Split(train.images[chosen], train.labels[chosen])
    labels = None if train.labels is None else train.labels[chosen]
    return Source(
        limit, lambda row: train.example(chosen[row]), lambda row: train.name(chosen[row]), train.masks, labels
    )


def one_by_one(split: Split, name: str) -> Source:
    """A split as a source; `name` says whose images they are."""

    def example(row: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(split.images[row]), np.asarray(split.labels[row])

    labels = None if split.masks else split.labels
    return Source(split.size, example, lambda row: f"{name}: image {row}", split.masks, labels)


def checked(images: np.ndarray, labels: np.ndarray, place: str) -> Split:
    """Images and labels of one set as a split; `place` starts every message. Raises UserError."""
    if images.dtype != np.uint8:
        raise UserError(f"{place}_images has type {images.dtype}; allowed: uint8")
    if images.ndim not in (3, 4):
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: N×H×W×C or N×H×W")
    images = images if images.ndim == 4 else images[..., None]
    if images.size == 0:
        raise UserError(f"{place}_images has shape {_shape(images)}; allowed: at least one image and one pixel")
    if is_channels_first(images.shape[1:]):
        raise UserError(
            f"{place}_images has shape {_shape(images)}, with the channels before height and width; allowed: N×H×W×C "
            "(images.transpose(0, 2, 3, 1))"
        )
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


def checked_pair(arrays: dict[str, np.ndarray], place: str) -> Opened:
    """What {"train_images", "train_labels", "test_images", "test_labels"} hold.

    Raises:
      UserError: if types or shapes are wrong or do not go together, or the labels cannot be meant.
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
    number = max(number_of_labels(part.labels) for part in (train, test))
    names = tuple(map(str, range(number)))
    numbers, others = (counted(part.labels, number) for part in (train, test))
    if not train.masks:
        check_labels(numbers, others, place)
        return Opened(train, test, names)
    return Opened(train, test, names, notes_on_masks(numbers, others), pixels=numbers)


def check_labels(train: np.ndarray, test: np.ndarray, place: str) -> None:
    """Raises UserError for labels of which training has no example: as outputs they would be idle, or never right.

    Args:
      train, test: how often each label occurs, [labels].
    """
    renumber = "labels from 0 without gaps (numpy.unique(labels, return_inverse=True) gives them), each in train_labels"
    if np.count_nonzero(train + test) < 2:
        raise UserError(f"{place}: all labels are {len(train) - 1}, a single class; allowed: two classes or more")
    unseen = np.flatnonzero((train == 0) & (test > 0))
    if len(unseen):
        raise UserError(
            f"{place}: test_labels holds {_numbers(unseen)}, of which train_labels has no example; allowed: {renumber}"
        )
    idle = np.flatnonzero(train == 0)
    if len(idle):
        raise UserError(
            f"{place}: train_labels goes up to {len(train) - 1} and no image has the label {_numbers(idle)}: "
            f"{len(idle)} of {len(train)} outputs would be idle; allowed: {renumber}"
        )


def notes_on_masks(train: np.ndarray, test: np.ndarray) -> tuple[str, ...]:
    """What is said of labels that no training mask has; the arguments are those of `check_labels`."""
    idle = np.flatnonzero(train == 0)
    if not len(idle):
        return ()
    tested = np.flatnonzero((train == 0) & (test > 0))
    said = f", and test masks have {_numbers(tested)}" if len(tested) else ""
    return (f"no training mask has a pixel of the label {_numbers(idle)}{said}",)


def _numbers(found: np.ndarray) -> str:
    return ", ".join(map(str, found[:5])) + (f", … ({len(found)} labels)" if len(found) > 5 else "")


def counted(labels: np.ndarray, number: int) -> np.ndarray:
    """How often each of `number` labels occurs, int [number]; `VOID` in masks is none."""
    found = np.zeros(max(number, VOID + 1), np.int64)
    for block in np.array_split(labels, max(1, labels.size // 2**22)) if labels.size else ():
        found += np.bincount(block.ravel(), minlength=len(found))
    return found[:number]


def number_of_labels(labels: np.ndarray) -> int:
    """One more than the largest label, of masks than the largest but `VOID`; 0 without any."""
    found = labels[labels != VOID] if labels.ndim > 1 else labels
    return int(found.max()) + 1 if found.size else 0


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a shape that should be (H, W, C) can only be meant as (C, H, W): many channels of a strip, which is as
    wide as they are many or has at most four rows. A patch of many bands, or a signal in one row, is none."""
    height, width, channels = shape
    if channels < 8 or not height < min(width, channels):
        return False
    return width == channels or (height <= 4 and max(width, channels) <= 4 * min(width, channels))


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "()"
