"""Batches that are read ahead: the order asked for, a bounded number of images, and errors as they were raised."""

import gc
import time
import weakref

import numpy as np
import pytest

from dass_jax.data import stream
from dass_jax.data.arrays import Source
from dass_jax.errors import UserError


def plain(image: np.ndarray, place: int) -> np.ndarray:
    return image


def counting(size: int, delay: float = 0.0) -> Source:
    """Image n holds n in every pixel, and its label is n."""

    def example(row: int) -> tuple[np.ndarray, int]:
        time.sleep(delay * (row % 3))
        return np.full((2, 3, 1), row, np.uint8), row

    return Source(size, example, lambda row: f"image {row}")


def test_rows_come_in_their_order_whatever_thread_is_faster() -> None:
    rows = np.random.default_rng(0).permutation(50)[:23]

    def view(image: np.ndarray, place: int) -> np.ndarray:
        return image + np.uint8(place)

    found = list(stream.batches(counting(50, 0.002), rows, view, (2, 3, 1), 5))
    assert [split.size for split in found] == [5, 5, 5, 5, 3]
    images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    np.testing.assert_array_equal(labels, rows)
    np.testing.assert_array_equal(images[:, 0, 0, 0], rows + np.arange(23))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_a_source_of_any_size_is_held_in_two_batches() -> None:
    """100 MB go by; the images that are alive at once are counted as they come and go."""
    alive: set[int] = set()
    most = [0]

    def example(row: int) -> tuple[np.ndarray, int]:
        image = np.zeros((100, 100, 10), np.uint8)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most[0] = max(most[0], len(alive))
        return image, row

    alive_keys = Source(1000, example, str)
    size, seen = 10, 0
    for split in stream.batches(alive_keys, np.arange(1000), plain, (100, 100, 10), size):
        time.sleep(0.002)
        seen += split.size
    del split
    gc.collect()
    assert seen == 1000 and size <= most[0] <= 2 * size + 16  # each thread may have one in its hands


def test_a_large_batch_is_not_read_ahead_as_a_whole() -> None:
    """Grain's bookkeeping grows with what is read ahead: at 4,000 small images it took ten times as long as reading."""
    read: list[int] = []

    def example(row: int) -> tuple[np.ndarray, int]:
        read.append(row)
        return np.zeros((2, 2, 1), np.uint8), row

    batches = stream.batches(Source(2000, example, str), np.arange(2000), plain, (2, 2, 1), 500)
    assert next(batches).size == 500
    time.sleep(0.2)  # what a thread would read by now
    assert 500 <= len(read) <= 500 + stream.AHEAD * 16
    assert sum(batch.size for batch in batches) == 1500 and sorted(read) == list(range(2000))


def test_an_error_of_a_thread_is_raised_where_the_batch_is_asked_for() -> None:
    def example(row: int) -> tuple[np.ndarray, int]:
        if row == 7:
            raise UserError("image 7 is damaged; allowed: others")
        return np.zeros((2, 2, 1), np.uint8), row

    batches = stream.batches(Source(9, example, str), np.arange(9), plain, (2, 2, 1), 3)
    assert [next(batches).labels.tolist(), next(batches).labels.tolist()] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match="image 7 is damaged"):
        next(batches)


def test_an_image_of_another_shape_is_named() -> None:
    with pytest.raises(UserError, match=r"image 4 is 2×3×1; allowed: 2×2×1 as the first one, or data\.image_size"):
        next(stream.batches(counting(9), np.array([4]), plain, (2, 2, 1), 3))
