"""Colour jitter on the device: brightness, contrast, saturation and hue of RGB images, as pure functions.

As torchvision's ColorJitter, by its definitions in floating point: the images are on the scale 0 … 1 and are clipped
to it after each change, but never rounded to bytes. Every image has factors of its own; the four changes come in a
random order, which is one for the whole batch here, so that only four of them are computed.

All images are [3, H, W, N], factors and shifts [N].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey, ITU-R BT.601, as in Pillow's "L"."""


class Jitter(NamedTuple):
    """How much is changed at most; plain numbers, fixed when a program is compiled. 0 = nothing."""

    brightness: float = 0.0
    """The factor is uniform in [max(0, 1 − b), 1 + b]; so are the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """The shift is uniform in [−h, h], in turns of the colour wheel; at most 1/2."""


class Draws(NamedTuple):
    """The random choices for N images, each float32 [N]."""

    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    hue: jax.Array


def random_draws(key: jax.Array, batch: int, jitter: Jitter) -> tuple[Draws, jax.Array]:
    """Choices for `batch` images, and the order of the changes, an int32 permutation of 0 … 3."""
    *keys, last = jax.random.split(key, 5)
    bounds = [(max(0.0, 1 - most), 1 + most) for most in jitter[:3]] + [(-jitter.hue, jitter.hue)]
    drawn = [
        jax.random.uniform(k, (batch,), jnp.float32, low, high) for k, (low, high) in zip(keys, bounds, strict=True)
    ]
    return Draws(*drawn), jax.random.permutation(last, 4)


def recolour(images: jax.Array, draws: Draws, order: jax.Array) -> jax.Array:
    """The four changes one after another: change order[0] (0 brightness, … 3 hue) first."""
    # mypy does not infer a lambda whose defaults bind the loop's variables.
    changes: list[Callable[[jax.Array], jax.Array]] = [
        lambda x, change=change, amount=amount: change(x, amount.astype(x.dtype))  # type: ignore[misc]
        for change, amount in zip((brightness, contrast, saturation, hue), draws, strict=True)
    ]
    for turn in range(len(changes)):
        images = jax.lax.switch(order[turn], changes, images)
    return images


def grey(images: jax.Array) -> jax.Array:
    """Luma, [1, H, W, N]."""
    red, green, blue = (share * plane for share, plane in zip(_LUMA, images, strict=True))
    return (red + green + blue)[None]


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """factor · x, clipped."""
    return jnp.clip(factor * images, 0, 1)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """factor · x + (1 − factor) · m, clipped, with the image's mean grey m."""
    return _blend(images, grey(images).mean((0, 1, 2), keepdims=True), factor)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """factor · x + (1 − factor) · grey(x), clipped."""
    return _blend(images, grey(images), factor)


def hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """The hue of HSV turned by `shift` turns; saturation and value stay."""
    red, green, blue = images
    value, least = images.max(0), images.min(0)
    spread = value - least
    safe = jnp.where(spread > 0, spread, 1)
    turn = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turn = jnp.where(spread > 0, turn, 0) + 6 * shift
    # A channel as a function of the hue: `value` for two sixths of the wheel, `least` for two, and ramps between them.
    offsets = jnp.array([5, 3, 1], images.dtype)[:, None, None, None]
    place = (offsets + turn) % 6
    return value - spread * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def _blend(images: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)
