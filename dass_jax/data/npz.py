"""NumPy's own files: one .npz file, or a folder of .npy files, which are mapped instead of read.

Either holds train_images, train_labels, test_images and test_labels: images uint8 of shape [N, H, W, C] (or
[N, H, W], one channel), labels integers of shape [N] from 0.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from dass_jax.data import arrays
from dass_jax.errors import UserError

NAMES = ("train_images", "train_labels", "test_images", "test_labels")
_WANTED = f"an .npz file with {', '.join(NAMES)}"


def opened(path: pathlib.Path) -> tuple[arrays.Split, arrays.Split, int]:
    """(train, test, number of classes) of an .npz file. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    read = {name: np.ascontiguousarray(array) for name, array in _read(path, place).items()}
    return arrays.checked_pair(read, place)


def opened_folder(path: pathlib.Path) -> tuple[arrays.Split, arrays.Split, int]:
    """(train, test, number of classes) of a folder of .npy files, whose images stay on the disk. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    return arrays.checked_pair({name: _mapped(path / f"{name}.npy", place) for name in NAMES}, place)


def _mapped(file: pathlib.Path, place: str) -> np.ndarray:
    if not file.is_file():
        raise UserError(f"{place} has no {file.name}; allowed: a folder with {', '.join(f'{n}.npy' for n in NAMES)}")
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(f"{place}: {file.name} cannot be read: {reason}; allowed: an array of integers") from error


def _read(path: pathlib.Path, place: str) -> Mapping[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{place} is not an .npz file; allowed: {_WANTED}")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive.files]
            if missing:
                there = ", ".join(archive.files) or "nothing"
                raise UserError(f"{place} has no {', '.join(missing)} (there is: {there}); allowed: {_WANTED}")
            return {name: _member(archive, name, place) for name in NAMES}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{place} cannot be read: {error}; allowed: {_WANTED}") from error


def _member(archive: Mapping[str, np.ndarray], name: str, place: str) -> np.ndarray:
    """One array of the file. Pickled objects, damage and encryption each have their own exception. Raises UserError."""
    try:
        array = archive[name]
    except (ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(f"{place}: {name} cannot be read: {reason}; allowed: an array of integers") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{place}: {name} is not an array; allowed: an array of integers")
    return array
