"""Boxes in pictures: their shares and ratios, what a cut of them shows, and files that are no pictures."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dass_jax.data import pictures
from dass_jax.data.pictures import Box
from dass_jax.errors import UserError


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def test_random_boxes_fill_the_ranges_of_area_and_ratio() -> None:
    draws, (height, width) = np.random.default_rng(0), (500, 400)
    boxes = [pictures.random_box(draws, (height, width), 0.08) for _ in range(3000)]
    sizes = np.array([(b.right - b.left, b.lower - b.upper) for b in boxes])
    areas, ratios = sizes.prod(1) / (height * width), sizes[:, 0] / sizes[:, 1]
    assert 0.078 < areas.min() < 0.1 and 0.85 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.35
    assert all(0 <= b.left < b.right <= width and 0 <= b.upper < b.lower <= height for b in boxes)
    assert min(b.left for b in boxes) == min(b.upper for b in boxes) == 0
    assert max(b.right for b in boxes) == width and max(b.lower for b in boxes) == height
    # Small boxes always fit, so their areas and the logarithms of their ratios are as they were drawn: uniform.
    small = np.log([s for a, s in zip(areas, ratios, strict=True) if a < 0.5])
    assert abs(small.mean()) < 0.01 and small.std() == pytest.approx(np.log(16 / 9) / np.sqrt(12), rel=0.05)
    assert np.mean(areas < 0.29) == pytest.approx(np.mean((areas > 0.29) & (areas < 0.5)), abs=0.04)


@pytest.mark.parametrize(("size", "box"), [((10, 1000), (494, 0, 507, 10)), ((1000, 10), (0, 494, 10, 507))])
def test_a_picture_that_no_box_fits_is_cut_in_its_middle(size: tuple[int, int], box: tuple[int, ...]) -> None:
    left, upper, right, lower = pictures.random_box(np.random.default_rng(1), size, 1.0)
    assert (left, upper, right, lower) == pytest.approx(box, abs=1)
    assert max(right - left, lower - upper) <= 13.4


def test_the_centre_is_that_of_a_resized_picture() -> None:
    assert pictures.centre_box((6, 10)) == Box(2, 0, 8, 6)
    assert pictures.centre_box((256, 512), pictures.MARGIN) == Box(144, 16, 368, 240)


def test_a_cut_at_its_own_size_shows_the_very_pixels() -> None:
    image = np.random.default_rng(2).integers(0, 256, (9, 12, 3), np.uint8)
    np.testing.assert_array_equal(pictures.cut(image, Box(2, 1, 10, 9), 8), image[1:9, 2:10])
    square = image[:, :9]
    assert pictures.cut(square, pictures.centre_box((9, 9)), 9) is square


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_cut_at_half_of_its_size_averages(channels: int) -> None:
    """A ramp stays a ramp under every symmetric filter, away from the borders."""
    ramp = np.broadcast_to(np.arange(0, 160, 4, dtype=np.uint8)[None, :, None], (40, 40, channels))
    found = pictures.cut(ramp, Box(0, 0, 40, 40), 20)
    assert found.shape == (20, 20, channels) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, 2:-2, 0], np.broadcast_to(np.arange(2, 160, 8)[2:-2], (20, 16)))


def test_pictures_are_decoded_in_the_channels_that_are_asked_for() -> None:
    grey = np.random.default_rng(3).integers(0, 256, (4, 5), np.uint8)
    np.testing.assert_array_equal(pictures.decoded(encoded(grey), "x"), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(pictures.decoded(encoded(grey), "x", 1), grey[..., None])
    assert pictures.decoded(encoded(grey, "JPEG"), "x").shape == (4, 5, 3)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [10_000, 20_000, 40_000], ids=["ours", "Pillow warns", "Pillow refuses"])
def test_a_picture_too_large_is_refused_by_its_header(width: int) -> None:
    with pytest.raises(UserError, match=r"bomb.* allowed: at most 50,000,000"):
        pictures.decoded(png_of_size(width, 5_001), "bomb")


def test_damaged_files_are_named(tmp_path: pathlib.Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 40, 3), np.uint8)
    whole = encoded(pixels)
    flipped = whole[:200] + bytes(b ^ 0xFF for b in whole[200:260]) + whole[260:]
    for damaged in (b"", b"no picture", whole[:300], flipped, encoded(pixels, "JPEG")[:500], encoded(pixels, "GIF")):
        with pytest.raises(UserError, match=r"^cat\.png cannot be read: .*; allowed: a JPEG or PNG picture$"):
            pictures.decoded(damaged, "cat.png")
    with pytest.raises(UserError, match="No such file"):
        pictures.decoded(tmp_path / "none.png", "none.png")
