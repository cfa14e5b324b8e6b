"""What tells one data set from another: numbers of images, shape, classes, and digests of labels and images.

A digest is of the arrays' bytes, or of the files' as they lie on the disk (which no other version of a decoder
changes). Of streamed files, which nobody wants to read twice, it is of names, sizes and times.
"""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dass_jax.data.arrays import Opened, Source, Split, drawn

CONTENT, STAMPS = "content", "names, sizes and times"
"""What `Part.images` is a digest of."""
THREADS = 16
_BLOCK = 1 << 24
"""Bytes that are hashed at once: arrays may be mapped from a file."""
_SHOWN = 10
"""Names of classes that a line says."""


class Part(NamedTuple):
    """One split."""

    number: int
    """Of images."""
    labels: str
    """Digest; empty where labels are read with the images, which `images` then tells."""
    images: str
    """Digest."""


class Fingerprint(NamedTuple):
    """A data set as a run has read it; plain data."""

    train: Part
    """All training images, but `images` of those that the limit leaves."""
    test: Part
    shape: tuple[int, int, int]
    """(H, W, C) of the images as the network sees them."""
    classes: tuple[str, ...]
    """Names in the order of the outputs."""
    limit: int
    """Training images that are used; 0 = all."""
    seed: int
    """With which they were drawn; 0 where all are used."""
    by: str
    """`CONTENT` or `STAMPS`."""


def fingerprint(found: Opened, shape: tuple[int, int, int], limit: int, seed: int, streaming: bool) -> Fingerprint:
    """Of data that are opened; reads all of it that will lie in memory. Raises UserError as the images' reading."""
    stamped = streaming and found.stamps is not None
    rows = [drawn(found.train.size, limit, seed), np.arange(found.test.size)]
    images = [stamp() for stamp in found.stamps] if stamped and found.stamps else map(_content, found[:2], rows)
    train, test = (
        Part(part.size, "" if part.labels is None else of_array(part.labels), digest)
        for part, digest in zip(found[:2], images, strict=True)
    )
    # A limit of a source that is streamed, or in memory as a whole, leaves the digest what it is.
    partial = limit and not stamped and isinstance(found.train, Source)
    return Fingerprint(train, test, shape, found.classes, limit, seed if partial else 0, STAMPS if stamped else CONTENT)


def _content(part: Split | Source, rows: np.ndarray) -> str:
    if isinstance(part, Split):
        return of_array(part.images)
    assert part.raw is not None
    raw = part.raw
    return digest(_in_threads(lambda row: hashlib.blake2b(raw(int(row))).digest(), rows))


def digest(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits of some bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def of_array(x: np.ndarray) -> str:
    """The digest of an array's type, shape and values."""
    step = max(1, _BLOCK // max(1, x[:1].nbytes))
    blocks = (np.ascontiguousarray(x[start : start + step]).tobytes() for start in range(0, len(x), step))
    return digest(itertools.chain([f"{x.dtype.str} {x.shape}".encode()], blocks))


def of_files(files: Iterable[str | pathlib.Path], root: pathlib.Path) -> str:
    """The digest of files' names below `root`, sizes and times. Raises OSError."""
    return digest(_in_threads(lambda file: _stamp(file, root), files))


def _in_threads(work: Callable[[Any], bytes], items: Iterable[Any]) -> Iterable[bytes]:
    """What `work` makes of the items, in their order: over a network each waits for its file."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)


def _stamp(file: str | pathlib.Path, root: pathlib.Path) -> bytes:
    found = os.stat(file)
    return f"{os.path.relpath(file, root)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape")


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, each from what to what; empty for the same data. Digests are compared where they are of one kind
    and of the same images: another seed's choice of the training images is no other data set."""
    found = []
    if before.classes != now.classes:
        found.append(f"classes: {classes(before.classes)} → {classes(now.classes)}")
    if before.shape != now.shape:
        found.append(f"images: {times(before.shape)} → {times(now.shape)}")
    if before.limit != now.limit:
        found.append(f"data.limit: {before.limit} → {now.limit}")
    for name, one, other in (("train", before.train, now.train), ("test", before.test, now.test)):
        if one.number != other.number:
            found.append(f"{name}: {one.number:,} images → {other.number:,}")
            continue
        if one.labels and other.labels and one.labels != other.labels:
            found.append(f"{name}: labels {one.labels[:8]} → {other.labels[:8]}")
        same_images = name == "test" or before.seed == now.seed
        if before.by == now.by and same_images and one.images != other.images:
            what = "images" if now.by == CONTENT else "names, sizes or times of the files"
            found.append(f"{name}: {what} {one.images[:8]} → {other.images[:8]}")
    return found


def key(found: Fingerprint) -> str:
    """8 hexadecimal digits that name the data."""
    return digest([repr(found).encode()])[:8]


def times(shape: Iterable[int]) -> str:
    """`8×8×3`."""
    return "×".join(map(str, shape))


def classes(names: tuple[str, ...]) -> str:
    """`3 classes (a, b, c)`, of many the first and the last."""
    shown = [*names[: _SHOWN - 1], "…", names[-1]] if len(names) > _SHOWN else names
    plain = ("".join(letter if letter.isprintable() else "?" for letter in name) for name in shown)
    return f"{len(names):,} class{'es' if len(names) != 1 else ''} ({', '.join(plain)})"
