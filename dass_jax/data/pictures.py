"""One picture on the host: decoding it, and cutting a box out of it at the size that the network sees.

Every cut is a box in the picture, resampled once (Pillow's bilinear filter, which averages where it shrinks).
"""

import contextlib
import io
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dass_jax.errors import UserError

MOST_PIXELS = 50_000_000
"""Pictures with more are refused before they are decoded (150 MB in memory): a small file can claim any size."""
RATIOS = 3 / 4, 4 / 3
"""Width to height of a random box. Szegedy et al., "Going Deeper with Convolutions" (2014), section 6."""
MARGIN = 256 / 224
"""What an evaluation's shorter side is resized to before the centre is taken, over the size: the usual partner of
random boxes, in which things look larger than in whole pictures."""
TRIES = 10
BACKGROUND = 255
"""Grey level under what is transparent: white, as on a page."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Kinds of pixels, by Pillow's names, that become colours of 8 bits without loss but for rounding."""
SPREAD = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey of 2 and 4 bits over 0 … 255, by these steps."""
ORIENTATION = 0x0112
"""EXIF's tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each orientation asks for, as in Pillow's `ImageOps.exif_transpose`."""


class Box(NamedTuple):
    """A rectangle in pixels, the right and lower edges outside of it."""

    left: float
    upper: float
    right: float
    lower: float


def decoded(file: pathlib.Path | bytes, name: str, channels: int = 3) -> np.ndarray:
    """What a viewer shows of a JPEG or PNG file, or of its bytes, uint8 [H, W, channels]: RGB for 3 channels, grey for
    1.

    It is turned as its EXIF orientation says; of 16 bits the upper 8 are taken; palettes and CMYK become colours; what
    is transparent lies on `BACKGROUND`. Colour profiles are not applied.

    Raises:
      UserError: if it cannot be decoded, has more than `MOST_PIXELS`, or would lose what it shows: an animation,
        colours where grey is wanted, pixels of another kind; `name` is what it is called.
    """
    with _opened(file, name) as image:
        pixels = np.asarray(upright(image, _colours(image, name)))
    if channels == 3:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise UserError(f"{name} has colours; allowed: grey pictures, as the data set's images have one channel")
    return pixels[..., :1]


def decoded_labels(file: pathlib.Path | bytes, name: str) -> np.ndarray:
    """The mask in a PNG file, or its bytes, as uint8 [H, W]: grey values as they are stored, or numbers of a palette's
    colours, turned as a picture is.

    Raises:
      UserError: as `decoded`, and for a picture of other kinds, whose values are no labels.
    """
    with _opened(file, name, ("PNG",)) as image:
        if image.mode not in ("1", "L", "P"):
            raise UserError(f"{name} has pixels of kind {image.mode}; allowed: a PNG of grey bytes or with a palette")
        _refuse_animation(image, name)
        step = SPREAD.get(_raw_mode(image), 1)
        return np.asarray(upright(image, image.copy())).astype(np.uint8) // np.uint8(step)


def _raw_mode(image: Any) -> str:
    """How a file that is opened stores its pixels, by Pillow's names, as "L;4"."""
    return str(image.tile[0][3]) if image.tile else ""


def stored(file: str | pathlib.Path, name: str) -> bytes:
    """The bytes of a file. Raises UserError."""
    try:
        return pathlib.Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; allowed: a JPEG or PNG picture") from error


def upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    """`image` turned as the EXIF orientation of the file says; one that cannot be read, or is none, turns nothing."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything; viewers pass it over
        turn = None
    return image if turn is None else image.transpose(turn)


def _refuse_animation(image: Image.Image, name: str) -> None:
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise UserError(f"{name} is an animation; allowed: one picture")


def _colours(image: Image.Image, name: str) -> Image.Image:
    """As RGB. Raises UserError for what that would lose."""
    _refuse_animation(image, name)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if not isinstance(transparent, int):
            return grey.convert("RGB")
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return _laid(grey)
    if image.mode not in MODES:
        raise UserError(f"{name} has pixels of kind {image.mode}; allowed: {', '.join(MODES)}, or 16 bits of grey")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        raise UserError(f"{name} has colours of 16 bits, one of them transparent; allowed: 8 bits, or an alpha channel")
    if isinstance(transparent, int) and image.mode == "L":  # Pillow leaves it as it is stored
        image.info["transparency"] = transparent * SPREAD.get(_raw_mode(image), 1)
    if transparent is not None or image.mode in ("LA", "PA", "RGBA"):
        return _laid(image)
    return image.convert("RGB")


def _laid(image: Image.Image) -> Image.Image:
    """A picture with transparency on the background."""
    under = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")


@contextlib.contextmanager
def _opened(file: pathlib.Path | bytes, name: str, formats: tuple[str, ...] = ("JPEG", "PNG")) -> Iterator[Image.Image]:
    """A picture to be decoded in the block. Raises UserError."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UserError(f"{name} has {width}×{height} pixels; allowed: at most {MOST_PIXELS:,} in a picture")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} is too large; allowed: at most {MOST_PIXELS:,} pixels in a picture") from error
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damage
        reason = (
            os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "damaged or of another kind"
        )
        kinds = " or ".join(formats)
        raise UserError(f"{name} cannot be read: {reason}; allowed: a {kinds} picture") from error


def centre_box(size: tuple[int, int], margin: float = 1.0) -> Box:
    """The largest centred square of a picture of `size` (H, W), its side divided by `margin`: what is left of it when
    the shorter side is resized to margin · S and the central S×S pixels are taken."""
    height, width = size
    side = min(size) / margin
    left, upper = (width - side) / 2, (height - side) / 2
    return Box(left, upper, left + side, upper + side)


def random_box(draws: np.random.Generator, size: tuple[int, int], least: float) -> Box:
    """A box of `least` to 1 of the area of a picture of `size` (H, W), its ratio log-uniform in `RATIOS`.

    As in torchvision, sizes are whole pixels, and after `TRIES` boxes that do not fit it is a centred one, as large as
    the ratios allow.
    """
    height, width = size
    for _ in range(TRIES):
        area = height * width * draws.uniform(least, 1)
        ratio = math.exp(draws.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            upper, left = int(draws.integers(height - down + 1)), int(draws.integers(width - across + 1))
            return Box(left, upper, left + across, upper + down)
    across = min(width, round(height * RATIOS[1]))
    down = min(height, round(width / RATIOS[0]))
    left, upper = (width - across) // 2, (height - down) // 2
    return Box(left, upper, left + across, upper + down)


def cut(image: np.ndarray, box: Box, side: int, exact: bool = False) -> np.ndarray:
    """The box of a picture uint8 [H, W, C] as uint8 [side, side, C]; a box that is the whole picture at that size
    leaves it as it is. `exact`: of the nearest pixels, as labels need it."""
    if image.shape[:2] == (side, side) and box == (0, 0, side, side):
        return image
    if image.shape[2] == 3:
        return np.asarray(_resample(image, box, side, exact))
    return np.stack([np.asarray(_resample(plane, box, side, exact)) for plane in np.moveaxis(image, -1, 0)], axis=-1)


def _resample(pixels: np.ndarray, box: Box, side: int, exact: bool) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize((side, side), Image.Resampling.NEAREST if exact else Image.Resampling.BILINEAR, box=box)
