"""A folder of pictures in class folders: `train/<class>/*.jpg`, and `test/` or `val/` beside `train/`.

The labels are the places of the classes' names in sorted order; grey pictures become RGB. Links are followed. What lies
there and is not read is counted.
"""

import collections
import functools
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from dass_jax.data import arrays, identity, pictures
from dass_jax.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png")
TESTS = ("test", "val")
"""The first that is there, and has labels, is evaluated on."""


def opened(path: pathlib.Path) -> arrays.Opened:
    """What the folder holds; no picture is decoded yet. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    try:
        return _opened(path, place)
    except OSError as error:  # of a folder without permission, or a link in a circle
        raise UserError(
            f"{place}: {str(error.filename)!r} cannot be read: {error.strerror}; allowed: class folders of pictures"
        ) from error


def test_of(path: pathlib.Path, place: str, labelled: Callable[[pathlib.Path], bool]) -> tuple[str, tuple[str, ...]]:
    """(which of `TESTS` is evaluated on, what is to be said of it). Raises UserError if the folder has none."""
    there = [name for name in TESTS if (path / name).is_dir()]
    if not there:
        raise UserError(f"{place} has a folder 'train' and none of {', '.join(TESTS)}; allowed: one of them too")
    found = next((name for name in there if labelled(path / name)), there[0])
    if found == there[0]:
        return found, ()
    return found, (f"{place}: {there[0]} has no labels as train has them; evaluated on {found}",)


def pictures_in(path: pathlib.Path) -> list[str]:
    """The paths of the pictures in a folder, in the order of their names. Raises OSError."""
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if is_picture(entry.name) and not entry.is_dir())


def is_picture(name: str) -> bool:
    """Whether a file of that name is read."""
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def passed_over(roots: Iterable[pathlib.Path], used: Iterable[str], place: str) -> tuple[str, ...]:
    """One line for the files below `roots` that are neither `used` nor hidden; nothing without any. Raises OSError."""
    known = set(used)
    found: collections.Counter[str] = collections.Counter()
    for root in roots:
        for folder, names, files in os.walk(root):
            names[:] = sorted(name for name in names if not name.startswith("."))
            found.update(
                "in other folders" if is_picture(name) else pathlib.PurePath(name).suffix or "without ending"
                for name in files
                if not name.startswith(".") and os.path.join(folder, name) not in known
            )
    if not found:
        return ()
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
    number = sum(found.values())
    return (f"{place} {number} file{'s' if number > 1 else ''} passed over ({kinds})",)


def stamps(*parts: tuple[list[str], pathlib.Path]) -> tuple[Callable[[], str], Callable[[], str]]:
    """For the files of train and of test, with the folder that their names begin in, `arrays.Opened.stamps`."""

    def stamp(files: list[str], root: pathlib.Path) -> str:
        try:
            return identity.of_files(files, root)
        except OSError as error:
            raise UserError(
                f"picture {error.filename!r} cannot be read: {error.strerror}; allowed: a JPEG or PNG picture"
            ) from error

    train, test = (functools.partial(stamp, *part) for part in parts)
    return train, test


def _opened(path: pathlib.Path, place: str) -> arrays.Opened:
    classes = _folders(path / "train")
    if not 0 < len(classes) <= arrays.MOST_CLASSES:
        raise UserError(f"{place}: train has {len(classes)} class folders; allowed: 2 to {arrays.MOST_CLASSES}")
    test, notes = test_of(path, place, lambda found: bool(_listed(found, classes)))
    if len(classes) == 1:
        raise UserError(f"{place}: train has one class folder, {classes[0]!r}; allowed: two classes or more")
    strange = sorted(set(_folders(path / test)) - set(classes))
    if strange:
        raise UserError(f"{place}: {test} has a class {strange[0]!r}; allowed: those of train")
    train, others = (_listed(path / part, classes) for part in ("train", test))
    files = [[file for file, _ in part] for part in (train, others)]
    lacking = sorted(set(range(len(classes))) - {label for _, label in train})
    if lacking:
        raise UserError(_empty(path, f"train/{classes[lacking[0]]}", place))
    if not others:
        raise UserError(_empty(path, test, place))
    over = passed_over([path / "train", path / test], [*files[0], *files[1]], f"{place}:")
    marks = stamps((files[0], path / "train"), (files[1], path / test))
    return arrays.Opened(_source(train), _source(others), tuple(classes), (*notes, *over), marks)


def _empty(path: pathlib.Path, part: str, place: str) -> str:
    """What is said of a folder without pictures that are read."""
    there = passed_over([path / part], (), "there:")
    over = f" ({there[0]})" if there else ""
    where = "it" if "/" in part else "class folders"
    return f"{place}: {part} has no pictures{over}; allowed: {', '.join(ENDINGS)} files in {where}"


def _folders(path: pathlib.Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _listed(path: pathlib.Path, classes: list[str]) -> list[tuple[str, int]]:
    """(file, label) of every picture, in the order of class and file name: the same on every file system."""
    found = []
    for label, name in enumerate(classes):
        if (path / name).is_dir():
            found += [(file, label) for file in pictures_in(path / name)]
    return found


def _source(files: list[tuple[str, int]]) -> arrays.Source:
    def name(row: int) -> str:
        return f"picture {files[row][0]!r}"

    def example(row: int) -> tuple[np.ndarray, int]:
        file, label = files[row]
        return pictures.decoded(pathlib.Path(file), name(row)), label

    labels = np.array([label for _, label in files], np.int32)
    return arrays.Source(
        len(files), example, name, labels=labels, raw=lambda row: pictures.stored(files[row][0], name(row))
    )
