"""Every kind of PNG, written here sample by sample: its pixels are those of PNG's own definition, turned by EXIF, on
white; masks keep their values; what would lose is refused."""

import io
import pathlib
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dass_jax.data import pictures
from dass_jax.errors import UserError

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG (ISO/IEC 15948, 11.2.2)."""
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
COLOURS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
OPACITY = np.random.default_rng(1).integers(0, 256, 256, np.uint8)


class Png(NamedTuple):
    kind: int
    depth: int
    samples: np.ndarray
    """[H, W, samples of a pixel], 0 … 2^depth − 1."""
    orientation: int
    transparent: bool
    """By a chunk tRNS."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def written(png: Png) -> bytes:
    height, width = png.samples.shape[:2]
    bits = (png.samples.reshape(height, -1, 1) >> np.arange(png.depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, png.depth, png.kind, 0, 0, 0))]
    if png.orientation != 1:
        exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, png.orientation, 0) + bytes(4)
        chunks.append(chunk(b"eXIf", exif))
    if png.kind == PALETTE:
        chunks.append(chunk(b"PLTE", COLOURS[: 2**png.depth].tobytes()))
    if png.transparent:
        of_first = png.samples[0, 0].astype(">u2").tobytes()
        chunks.append(chunk(b"tRNS", OPACITY[: 2**png.depth].tobytes() if png.kind == PALETTE else of_first))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")])


def turned(x: np.ndarray, orientation: int) -> np.ndarray:
    """As the EXIF standard has it: where row 0 and column 0 of what is stored are to be seen."""
    turns: dict[int, Any] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }
    return np.asarray(turns[orientation](x))


def seen(png: Png) -> np.ndarray:
    """float64 [H, W, 3], unrounded where it is blended."""
    samples = png.samples.astype(np.int64)
    level = samples >> 8 if png.depth == 16 else samples * (255 // (2**png.depth - 1))
    if png.kind == PALETTE:
        level = COLOURS[samples[..., 0]].astype(np.int64)
    colours = np.broadcast_to(level[..., : 1 if png.kind in (GREY, GREY_ALPHA) else 3], (*level.shape[:2], 3))
    opacity = np.full(level.shape[:2], 255)
    if png.kind in (GREY_ALPHA, RGB_ALPHA):
        opacity = level[..., -1]
    elif png.transparent and png.kind == PALETTE:
        opacity = OPACITY[samples[..., 0]]
    elif png.transparent:
        opacity = np.where((samples == samples[0, 0]).all(-1), 0, 255)
    share = opacity[..., None] / 255
    return turned(colours * share + 255 * (1 - share), png.orientation)


@st.composite
def pngs(draw: st.DrawFn, kinds: tuple[int, ...] = tuple(DEPTHS)) -> Png:
    kind = draw(st.sampled_from(kinds))
    depth = draw(st.sampled_from(DEPTHS[kind]))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    samples = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 2**depth, (*size, SAMPLES[kind]))
    transparent = kind in (GREY, RGB, PALETTE) and draw(st.booleans())
    return Png(kind, depth, samples, draw(st.integers(1, 8)), transparent)


def many(cases: int) -> settings:
    quick = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=cases, deadline=None, suppress_health_check=quick, derandomize=True, database=None)


@many(200)
@given(pngs())
def test_pixels_of_every_png_are_what_a_viewer_shows(png: Png) -> None:
    if png.kind == RGB and png.depth == 16 and png.transparent and png.samples[0, 0].max() > 255:
        with pytest.raises(UserError, match=r"^x has colours of 16 bits, one of them transparent; allowed: 8 bits"):
            pictures.decoded(written(png), "x")
        return
    found, wanted = pictures.decoded(written(png), "x"), seen(png)
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    blended = png.transparent or png.kind in (GREY_ALPHA, RGB_ALPHA)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1 if blended else 0)
    if png.kind in (GREY, GREY_ALPHA):
        np.testing.assert_array_equal(pictures.decoded(written(png), "x", 1), found[..., :1])


@many(100)
@given(pngs((GREY, PALETTE)))
def test_masks_keep_the_values_that_are_stored(png: Png) -> None:
    if png.depth == 16:
        with pytest.raises(
            UserError, match=r"^m has pixels of kind I;16; allowed: a PNG of grey bytes or with a palette"
        ):
            pictures.decoded_labels(written(png), "m")
        return
    found = pictures.decoded_labels(written(png), "m")
    np.testing.assert_array_equal(found, turned(png.samples[..., 0], png.orientation))


def encoded(image: Image.Image, kind: str, **given: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **given)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_turned_as_its_exif_says(mode: str, orientation: int) -> None:
    ramp = np.linspace(0, 255, 16 * 24, dtype=np.uint8).reshape(16, 24)
    image, exif = Image.fromarray(ramp).convert("RGB").convert(mode), Image.Exif()
    exif[0x0112] = orientation
    found = pictures.decoded(encoded(image, "JPEG", quality=100, exif=exif), "x").astype(int)
    wanted = turned(np.repeat(ramp[..., None], 3, -1), orientation)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= 4


def test_damaged_exif_turns_nothing() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (4, 5, 3), np.uint8)
    for exif in (
        b"Exif\0\0MM\0*",
        b"Exif\0\0" + b"\xff" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",
    ):
        np.testing.assert_array_equal(pictures.decoded(encoded(Image.fromarray(pixels), "PNG", exif=exif), "x"), pixels)


def test_what_would_lose_is_refused_by_file_and_kind(tmp_path: pathlib.Path) -> None:
    one, other = (Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in (10, 200))
    animated = encoded(one, "PNG", save_all=True, append_images=[other])
    for read in (pictures.decoded, pictures.decoded_labels):
        with pytest.raises(UserError, match=r"^x (is an animation; allowed: one picture|has pixels of kind RGB)"):
            read(animated, "x")
    coloured = Image.fromarray(np.random.default_rng(3).integers(0, 256, (4, 5, 3), np.uint8))
    with pytest.raises(UserError, match=r"^x has colours; allowed: grey pictures"):
        pictures.decoded(encoded(coloured, "PNG"), "x", 1)
    floats = Image.fromarray(np.random.default_rng(4).random((4, 5), np.float32))
    for kind, image in (("TIFF", floats), ("GIF", one), ("BMP", one), ("WEBP", one)):
        with pytest.raises(UserError, match=r"^x cannot be read: .*; allowed: a JPEG or PNG picture$"):
            pictures.decoded(encoded(image, kind), "x")


def test_a_photograph_with_a_second_picture_in_it_is_the_first() -> None:
    """Telephones write such JPEG files: the second is a preview, or the brightness for other screens."""
    one, other = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200))
    found = pictures.decoded(encoded(one, "MPO", save_all=True, append_images=[other]), "x")
    assert np.abs(found.astype(int) - 10).max() <= 1
