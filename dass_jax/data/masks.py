"""A folder of pictures with masks: `train/images/NAME.jpg` with `train/masks/NAME.png`, and `test/` or `val/` beside
`train/`.

A mask is a PNG file of one channel: what it holds for a pixel, or the number of its colour in a palette, is the label;
255 is none (PASCAL VOC's masks are such). Grey pictures become RGB. Links are followed.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from dass_jax.data import arrays, folders, pictures
from dass_jax.errors import UserError

PARTS = ("images", "masks")


class Pair(NamedTuple):
    """Two files."""

    image: pathlib.Path
    mask: pathlib.Path


def is_one(path: pathlib.Path) -> bool:
    """Whether the folder `path` is such a folder."""
    return is_part(path / "train")


def is_part(path: pathlib.Path) -> bool:
    """Whether the folder `path` has pictures with masks."""
    return all((path / part).is_dir() for part in PARTS)


def opened(path: pathlib.Path) -> arrays.Opened:
    """What the folder holds. No picture is decoded yet, but all masks are, once. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    test, notes = folders.test_of(path, place, is_part)
    train, others = (_pairs(path / name, f"{place}: {name}") for name in ("train", test))
    pixels, tested = (_counted(part) for part in (train, others))
    labels = int(max(np.flatnonzero(pixels + tested), default=-1)) + 1
    if not labels:
        raise UserError(f"{place}: no mask has a label; allowed: masks with other values than {arrays.VOID}")
    files = [[str(file) for pair in part for file in pair] for part in (train, others)]
    over = folders.passed_over([path / "train", path / test], [*files[0], *files[1]], f"{place}:")
    notes = (*notes, *over, *arrays.notes_on_masks(pixels[:labels], tested[:labels]))
    marks = folders.stamps((files[0], path / "train"), (files[1], path / test))
    names = tuple(map(str, range(labels)))
    return arrays.Opened(_source(train), _source(others), names, notes, marks, pixels[:labels])


def _counted(pairs: list[Pair]) -> np.ndarray:
    """Pixels of each label in all masks, [255]."""
    return sum((arrays.counted(_mask(pair), arrays.VOID) for pair in pairs), np.zeros(arrays.VOID, np.int64))


def _pairs(path: pathlib.Path, place: str) -> list[Pair]:
    """The pictures and their masks in the order of their names. Raises UserError if one has no partner."""
    images, masks = (_by_name(path / part, place) for part in PARTS)
    for own, others, part in ((images, masks, "mask"), (masks, images, "image")):
        lonely = sorted(own.keys() - others.keys())
        if lonely:
            file = str(own[lonely[0]])
            raise UserError(f"{place}: {file!r} has no {part}; allowed: files of one name in both folders")
    if not images:
        raise UserError(f"{place} has no pictures; allowed: {', '.join(folders.ENDINGS)} files in images and masks")
    return [Pair(images[name], masks[name]) for name in sorted(images)]


def _by_name(path: pathlib.Path, place: str) -> dict[str, pathlib.Path]:
    try:
        files = folders.pictures_in(path)
    except OSError as error:
        raise UserError(f"{place}: {str(path)!r} cannot be read: {error.strerror}; allowed: a folder") from error
    return {pathlib.Path(file).stem: pathlib.Path(file) for file in files}


def _mask(pair: Pair) -> np.ndarray:
    return pictures.decoded_labels(pair.mask, f"mask {str(pair.mask)!r}")


def _source(pairs: list[Pair]) -> arrays.Source:
    def name(row: int) -> str:
        return f"picture {str(pairs[row].image)!r}"

    def example(row: int) -> tuple[np.ndarray, np.ndarray]:
        return pictures.decoded(pairs[row].image, name(row)), _mask(pairs[row])

    def raw(row: int) -> bytes:
        image, mask = pairs[row]
        return pictures.stored(image, name(row)) + pictures.stored(mask, f"mask {str(mask)!r}")

    return arrays.Source(len(pairs), example, name, masks=True, raw=raw)
