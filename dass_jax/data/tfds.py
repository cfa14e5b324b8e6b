"""A data set of labelled images that tensorflow-datasets has prepared, read without TensorFlow.

What is prepared is looked up in its folder, and TFDS is asked only to read it: its own answer to absent data is an
attempt to download them, or an error about something else.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from dass_jax.data import arrays, identity, pictures
from dass_jax.errors import UserError

PREFIX = "tfds:"
FORMAT = "array_record"
"""The one file format of TFDS that can be read at random and without TensorFlow."""
TESTS = ("test", "validation")
"""The first that is there and has labels is evaluated on: ImageNet's test labels are not public."""


def opened(name: str, folder: str) -> arrays.Opened:
    """What the prepared data set `name`, which may be "NAME/CONFIG", holds.

    Args:
      name: with "#FEATURE" behind it the labels are the masks of that name.
      folder: TFDS' data_dir; empty = its default, the variable TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: if it is not prepared (with the command that does it), or has no images with labels.
    """
    place = f"data.source = {PREFIX + name!r}"
    name, _, mask = name.partition("#")
    prepared = _prepared(name, folder, place)
    builder = _builder(prepared, place)
    features = builder.info.features
    if not {"image", mask or "label"} <= set(features or ()):
        wanted = f"image and label, or image and a mask as {PREFIX}{name}#MASK"
        raise UserError(f"{place} has the features {', '.join(sorted(features or ())) or 'none'}; allowed: {wanted}")
    classes, channels = 0 if mask else features["label"].num_classes, features["image"].shape[-1]
    if classes is None or channels not in (1, 3):
        raise UserError(
            f"{place} has {classes} classes and {channels} channels; allowed: known classes, 1 or 3 channels"
        )
    splits = [split for split in TESTS if split in builder.info.splits]
    if "train" not in builder.info.splits or not splits:
        raise UserError(
            f"{place} has the splits {', '.join(builder.info.splits)}; allowed: train and {' or '.join(TESTS)}"
        )
    train, *tests = (_source(builder, split, channels, place, mask) for split in ("train", *splits))

    def stamp() -> str:
        return identity.of_files(sorted(file for file in prepared.iterdir() if file.is_file()), prepared)

    if mask:
        pixels, tested = (_counted(part) for part in (train, tests[0]))
        labels = int(max(np.flatnonzero(pixels + tested), default=-1)) + 1
        notes = arrays.notes_on_masks(pixels[:labels], tested[:labels])
        names = tuple(map(str, range(labels)))
        return arrays.Opened(train, tests[0], names, notes, (stamp, stamp), pixels[:labels])
    with_labels = [test for test in tests if test.example(0)[1] >= 0]
    if not with_labels:
        raise UserError(f"{place}: {', '.join(splits)} has no labels; allowed: a split with labels")
    names = tuple(getattr(features["label"], "names", None) or map(str, range(classes)))
    return arrays.Opened(train, with_labels[0], names, (), (stamp, stamp))


def _counted(part: arrays.Source) -> np.ndarray:
    """Pixels of each label in all masks, [255]."""
    each = (arrays.counted(part.example(row)[1], arrays.VOID) for row in range(part.size))
    return sum(each, np.zeros(arrays.VOID, np.int64))


def _prepared(name: str, folder: str, place: str) -> pathlib.Path:
    """The folder of the newest prepared version. Raises UserError."""
    root = pathlib.Path(os.path.expanduser(folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    if not name or not all(part.isidentifier() for part in name.replace(".", "").replace("-", "").split("/")):
        raise UserError(f"{place}; allowed: {PREFIX}NAME or {PREFIX}NAME/CONFIG, as TFDS calls them")
    found = [file.parent for file in (root / name).glob("*/dataset_info.json")]
    if not found:
        raise UserError(
            f"{place} is not prepared in {str(root)!r}; allowed: what this prepares: {command(name, folder)}"
        )
    newest = max(found, key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split(".")])
    written = _format(newest / "dataset_info.json", place)
    if written != FORMAT:
        raise UserError(
            f"{place} is there as {written}; allowed: {FORMAT}, as this prepares it: {command(name, folder)}"
        )
    return newest


def _format(file: pathlib.Path, place: str) -> str:
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("fileFormat", "tfrecord")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{place}: {str(file)!r} cannot be read: {error}; allowed: what TFDS wrote") from error


def command(name: str, folder: str) -> str:
    """The shell command that downloads and prepares a data set. Most of TFDS' builders write with TensorFlow; what they
    wrote is read without it."""
    where = f", data_dir={folder!r}" if folder else ""
    call = f"tfds.builder({name!r}, file_format={FORMAT!r}{where}).download_and_prepare()"
    packages = "tensorflow tensorflow-datasets importlib_resources"
    return f'pip install {packages} && python -c "import tensorflow_datasets as tfds; {call}"'


def _builder(path: pathlib.Path, place: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"{place} needs a package that is not installed ({error.name}); allowed: after pip install 'dass_jax[data]'"
        ) from error
    try:
        return tensorflow_datasets.builder_from_directory(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{place}: {str(path)!r} cannot be read: {error}; allowed: a folder that TFDS wrote") from error


def _source(builder: Any, split: str, channels: int, place: str, mask: str) -> arrays.Source:
    import tensorflow_datasets

    skip = {feature: tensorflow_datasets.decode.SkipDecoding() for feature in ("image", mask) if feature}
    try:
        rows = builder.as_data_source(split=split, decoders=skip)
        number = len(rows)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{place}: {split} cannot be read: {error}; allowed: the files that TFDS wrote") from error

    def name(row: int) -> str:
        return f"{place}: image {row} of {split}"

    def record(row: int) -> Any:
        try:
            return rows[int(row)]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{name(row)} cannot be read: {error}; allowed: the files that TFDS wrote") from error

    def raw(row: int) -> bytes:
        found = record(row)
        return b"".join(
            found[feature] if isinstance(found[feature], bytes) else np.asarray(found[feature]).tobytes()
            for feature in ("image", mask or "label")
        )

    def example(row: int) -> tuple[np.ndarray, Any]:
        found = record(row)
        image = found["image"]
        pixels = pictures.decoded(image, name(row), channels) if isinstance(image, bytes) else np.asarray(image)
        if mask:
            return pixels, pictures.decoded_labels(found[mask], f"the mask of {name(row)}")
        return pixels, int(found["label"])

    return arrays.Source(number, example, name, bool(mask), raw=raw)
