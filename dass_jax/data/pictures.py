"""One picture on the host: decoding it, and cutting a box out of it at the size that the network sees.

Every cut is a box in the picture, resampled once (Pillow's bilinear filter, which averages where it shrinks).
"""

import contextlib
import io
import math
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

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


class Box(NamedTuple):
    """A rectangle in pixels, the right and lower edges outside of it."""

    left: float
    upper: float
    right: float
    lower: float


def decoded(file: pathlib.Path | bytes, name: str, channels: int = 3) -> np.ndarray:
    """A JPEG or PNG file, or its bytes, as uint8 [H, W, channels]: RGB for 3 channels, grey for 1.

    Raises:
      UserError: if it cannot be decoded or has more than `MOST_PIXELS`; `name` is what it is called.
    """
    with _opened(file, name) as image:
        width, height = image.size
        return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(height, width, channels)


def decoded_labels(file: pathlib.Path | bytes, name: str) -> np.ndarray:
    """The mask in a PNG file, or its bytes, as uint8 [H, W]: grey values, or numbers of a palette's colours.

    Raises:
      UserError: as `decoded`, and for a picture of other kinds, whose values are no labels.
    """
    with _opened(file, name, ("PNG",)) as image:
        if image.mode not in ("1", "L", "P"):
            raise UserError(f"{name} has pixels of kind {image.mode}; allowed: a PNG of grey bytes or with a palette")
        return np.asarray(image).astype(np.uint8)


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
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders raise each of them on damage
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
