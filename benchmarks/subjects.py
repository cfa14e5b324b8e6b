"""What the benchmarks work on: searches that need no data, and images of noise."""

from typing import Any

import numpy as np

from dass_jax import bilevel, methods
from dass_jax.nn import layers
from dass_jax.runtime import epoch
from dass_jax.tasks.classification import classification


def searched(
    space: Any,
    classes: int,
    image_shape: tuple[int, int, int],
    keep: float = 1.0,
    average: layers.Average = layers.one_device,
) -> methods.Problem:
    """The problem of searching a space by first order, for images [H, W, C]."""
    return methods.Problem(
        space=lambda: space,
        task=classification(classes),
        image_shape=image_shape,
        keep=keep,
        hypergradient=bilevel.first_order(),
        average=average,
        macs=lambda space: 0,
        size=lambda architecture: None,
    )


def noise(classes: int, pixels: int, batch: int) -> epoch.Examples:
    """Images [3, H, W, B] of noise and targets [B]: what a step costs does not depend on what is in the images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, pixels, pixels, batch)).astype(np.float32)
    return epoch.Examples(images, rng.integers(classes, size=batch).astype(np.int32))
