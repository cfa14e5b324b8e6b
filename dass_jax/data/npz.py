"""NumPy's own files: one .npz file, or a folder of .npy files, which are mapped instead of read.

Either holds train_images, train_labels, test_images and test_labels: images uint8 of shape [N, H, W, C] (or
[N, H, W], one channel), labels integers of shape [N] from 0.
"""

import functools
import math
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from dass_jax.data import arrays, identity
from dass_jax.errors import UserError

NAMES = ("train_images", "train_labels", "test_images", "test_labels")
T = TypeVar("T")
_WANTED = f"an .npz file with {', '.join(NAMES)}"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def opened(path: pathlib.Path, most: int | None = None) -> arrays.Opened:
    """What an .npz file holds, in memory.

    Args:
      most: bytes that its arrays may take in memory; None: any number. They are looked at before anything is unpacked:
        a small file can hold gigabytes of zeros.

    Raises:
      UserError: if it cannot be read, takes more, or does not hold what is wanted.
    """
    place = f"data.source = {str(path)!r}"
    read = {name: np.ascontiguousarray(array) for name, array in _read(path, place, most).items()}
    return arrays.checked_pair(read, place)


def opened_folder(path: pathlib.Path) -> arrays.Opened:
    """What a folder of .npy files holds; its images stay on the disk. Raises UserError."""
    place = f"data.source = {str(path)!r}"
    found = arrays.checked_pair({name: _mapped(path / f"{name}.npy", place) for name in NAMES}, place)

    def stamp(part: str) -> Callable[[], str]:
        return lambda: identity.of_files([path / f"{part}_images.npy"], path)

    return found._replace(stamps=(stamp("train"), stamp("test")))


def _mapped(file: pathlib.Path, place: str) -> np.ndarray:
    if not file.is_file():
        raise UserError(f"{place} has no {file.name}; allowed: a folder with {', '.join(f'{n}.npy' for n in NAMES)}")
    return _guarded(lambda: np.load(file, mmap_mode="r", allow_pickle=False), file.name, place)


def _read(path: pathlib.Path, place: str, most: int | None) -> Mapping[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{place} is not an .npz file; allowed: {_WANTED}")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive.files]
            if missing:
                there = ", ".join(archive.files) or "nothing"
                raise UserError(f"{place} has no {', '.join(missing)} (there is: {there}); allowed: {_WANTED}")
            declared = {name: _guarded(functools.partial(_declared, archive.zip, name), name, place) for name in NAMES}
            if most is not None:
                _check_bytes(declared, most, place)
            return {name: _member(archive, name, place) for name in NAMES}
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place} cannot be read: {error}; allowed: {_WANTED}") from error


def _member(archive: Any, name: str, place: str) -> np.ndarray:
    """One array of the file. Pickled objects, damage and encryption each have their own exception. Raises UserError."""
    array = _guarded(lambda: archive[name], name, place)
    if not isinstance(array, np.ndarray):
        raise UserError(f"{place}: {name} is not an array; allowed: an array of integers")
    return array


def _check_bytes(declared: Mapping[str, int], most: int, place: str) -> None:
    total, largest = sum(declared.values()), max(declared, key=lambda name: declared[name])
    if total > most:
        raise UserError(
            f"{place}: {largest} takes {declared[largest] / 1e9:.3g} GB in memory, all arrays {total / 1e9:.3g} GB; "
            f"allowed: {most / 1e9:.3g} GB, which are available, or a folder of .npy files"
        )


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
    """What `read` returns; raises UserError, naming the array, for whatever a damaged file brings about."""
    try:
        return read()
    except (
        Exception
    ) as error:  # zipfile, zlib, NumPy and what it reads headers with raise something else for each damage
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(f"{place}: {name} cannot be read: {reason}; allowed: an array of integers") from error
