"""Augmentation on the device: random crop, mirror and cutout as pure functions, for use inside `jit`.

Random numbers are drawn apart from their use (`random_draws`, then `augment`), so that the draws of a whole batch can
be sliced over devices and the result does not depend on how many there are. As in the authors' code, the uint8 image
is padded with 0, black, before it is normalised; cutout is done after, so its 0 is the channel's mean (DARTS).

Images go in as [N, H, W, C] bytes and come out as [C, H, W, N], the order of all activations here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Augmentation(NamedTuple):
    """What is done; plain numbers, fixed when a program is compiled."""

    padding: int
    """Pixels of black on each side before the random crop; 0 = no crop."""
    flip: bool
    """Mirror left to right with probability 1/2."""
    cutout: int
    """Side in pixels of the square set to 0; 0 = none."""


class Draws(NamedTuple):
    """The random choices for N images, each an array [N]."""

    top: jax.Array
    """int32: first row of the crop in the padded image, 0 … 2 · padding."""
    left: jax.Array
    """int32: first column of the crop."""
    mirror: jax.Array
    """bool."""
    centre_y: jax.Array
    """int32: row of the cutout square's centre, 0 … H − 1."""
    centre_x: jax.Array
    """int32: column of its centre."""


def random_draws(key: jax.Array, batch: int, size: tuple[int, int], augmentation: Augmentation) -> Draws:
    """Choices for `batch` images of `size` (H, W); what is switched off still has an array, of no effect."""
    keys = jax.random.split(key, 5)
    crops = 2 * augmentation.padding + 1
    height, width = size
    return Draws(
        top=jax.random.randint(keys[0], (batch,), 0, crops, jnp.int32),
        left=jax.random.randint(keys[1], (batch,), 0, crops, jnp.int32),
        mirror=jax.random.bernoulli(keys[2], 0.5, (batch,)) & augmentation.flip,
        centre_y=jax.random.randint(keys[3], (batch,), 0, height, jnp.int32),
        centre_x=jax.random.randint(keys[4], (batch,), 0, width, jnp.int32),
    )


def normalise(images: jax.Array, mean: jax.Array, std: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """(images / 255 − mean) / std of bytes [N, H, W, C], with mean and std [C], as `dtype` [C, H, W, N]."""
    return _standardised(_planes(images, dtype), mean, std, dtype)


def augment(
    images: jax.Array,
    draws: Draws,
    augmentation: Augmentation,
    mean: jax.Array,
    std: jax.Array,
    dtype: Any = jnp.float32,
    recolour: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Bytes [N, H, W, C] cropped, mirrored, normalised and cut out as `draws` say, as `dtype` [C, H, W, N].

    With padding 0, no flip and cutout 0 this is `normalise`. `recolour` changes the images [C, H, W, N] on the scale
    0 … 1 before they are normalised.
    """
    if augmentation.padding or augmentation.flip:
        images = _crop_and_mirror(images, draws, augmentation.padding)
    if recolour is None:
        planes = normalise(images, mean, std, dtype)
    else:
        planes = _standardised(recolour(_planes(images, dtype)), mean, std, dtype)
    return _cut_out(planes, draws, augmentation.cutout) if augmentation.cutout else planes


def follow(masks: jax.Array, draws: Draws, augmentation: Augmentation, outside: int) -> jax.Array:
    """Masks, bytes [N, H, W], cropped and mirrored as `augment` does with their images, as int32 [H, W, N]; what lies
    outside of them is `outside`. Cutout leaves them as they are."""
    if augmentation.padding or augmentation.flip:
        masks = _crop_and_mirror(masks[..., None], draws, augmentation.padding, outside)[..., 0]
    return jnp.moveaxis(masks, 0, -1).astype(jnp.int32)


def _planes(images: jax.Array, dtype: Any) -> jax.Array:
    return jnp.transpose(images, (3, 1, 2, 0)).astype(dtype) / 255


def _standardised(planes: jax.Array, mean: jax.Array, std: jax.Array, dtype: Any) -> jax.Array:
    return (planes - _per_channel(mean, dtype)) * (1 / _per_channel(std, dtype))


def _per_channel(values: jax.Array, dtype: Any) -> jax.Array:
    return jnp.asarray(values, dtype)[:, None, None, None]


def _crop_and_mirror(images: jax.Array, draws: Draws, padding: int, outside: int = 0) -> jax.Array:
    """Crop and mirror at once by one gather: the source of each pixel is computed; outside the image it is black, or
    `outside`."""
    number, height, width, _ = images.shape
    columns = jnp.arange(width, dtype=jnp.int32)
    columns = jnp.where(draws.mirror[:, None], columns[::-1], columns)
    rows = (jnp.arange(height, dtype=jnp.int32) + draws.top[:, None] - padding)[:, :, None]
    columns = (columns + draws.left[:, None] - padding)[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    which = jnp.arange(number, dtype=jnp.int32)[:, None, None]
    # Clipped indices are in bounds; what they fetch from the border is masked.
    found = images[which, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
    return jnp.where(inside[..., None], found, jnp.asarray(outside, images.dtype))


def _cut_out(planes: jax.Array, draws: Draws, side: int) -> jax.Array:
    """Sets to 0 the `side` rows from centre − side // 2 on, and so the columns, as far as they lie in the image."""
    _, height, width, _ = planes.shape

    def covered(length: int, centre: jax.Array) -> jax.Array:
        distance = jnp.arange(length, dtype=jnp.int32)[:, None] - centre + side // 2
        return (distance >= 0) & (distance < side)

    square = covered(height, draws.centre_y)[:, None] & covered(width, draws.centre_x)[None]
    return jnp.where(square, jnp.zeros((), planes.dtype), planes)
