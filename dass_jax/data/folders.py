"""A folder of pictures in class folders: `train/<class>/*.jpg`, and `test/` or `val/` beside `train/`.

The labels are the places of the classes' names in sorted order; grey pictures become RGB. Links are followed.
"""

import os
import pathlib

import numpy as np

from dass_jax.data import arrays, pictures
from dass_jax.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png")
TESTS = ("test", "val")
"""The first that is there is evaluated on."""


def opened(path: pathlib.Path) -> tuple[arrays.Source, arrays.Source, int]:
    """(train, test, number of classes); no picture is decoded yet. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    try:
        return _opened(path, place)
    except OSError as error:  # of a folder without permission, or a link in a circle
        raise UserError(
            f"{place}: {str(error.filename)!r} cannot be read: {error.strerror}; allowed: class folders of pictures"
        ) from error


def test_of(path: pathlib.Path, place: str) -> str:
    """Which of `TESTS` the folder has. Raises UserError if it has none."""
    found = next((name for name in TESTS if (path / name).is_dir()), None)
    if found is None:
        raise UserError(f"{place} has a folder 'train' and none of {', '.join(TESTS)}; allowed: one of them beside it")
    return found


def pictures_in(path: pathlib.Path) -> list[str]:
    """The paths of the pictures in a folder, in the order of their names. Raises OSError."""
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if _is_picture(entry.name) and not entry.is_dir())


def _opened(path: pathlib.Path, place: str) -> tuple[arrays.Source, arrays.Source, int]:
    test = test_of(path, place)
    classes = _folders(path / "train")
    if not 0 < len(classes) <= arrays.MOST_CLASSES:
        raise UserError(f"{place}: train has {len(classes)} class folders; allowed: 1 to {arrays.MOST_CLASSES}")
    strange = sorted(set(_folders(path / test)) - set(classes))
    if strange:
        raise UserError(f"{place}: {test} has a class {strange[0]!r}; allowed: those of train")
    train = _listed(path / "train", classes, place)
    lacking = [name for label, name in enumerate(classes) if label not in {label for _, label in train}]
    if lacking:
        raise UserError(f"{place}: train/{lacking[0]} has no pictures; allowed: {', '.join(ENDINGS)} files in it")
    return _source(train), _source(_listed(path / test, classes, place)), len(classes)


def _folders(path: pathlib.Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _listed(path: pathlib.Path, classes: list[str], place: str) -> list[tuple[str, int]]:
    """(file, label) of every picture, in the order of class and file name: the same on every file system."""
    found = []
    for label, name in enumerate(classes):
        if (path / name).is_dir():
            found += [(file, label) for file in pictures_in(path / name)]
    if not found:
        raise UserError(f"{place}: {path.name} has no pictures; allowed: {', '.join(ENDINGS)} files in class folders")
    return found


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _source(files: list[tuple[str, int]]) -> arrays.Source:
    def example(row: int) -> tuple[np.ndarray, int]:
        file, label = files[row]
        return pictures.decoded(pathlib.Path(file), f"picture {file!r}"), label

    return arrays.Source(len(files), example, lambda row: f"picture {files[row][0]!r}")
