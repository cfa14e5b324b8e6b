"""What supernets are compared on: variables, a batch, and all gradients of one loss."""

import functools
from typing import Any

import jax
import numpy as np

from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS

Image = tuple[int, int, int]
"""(H, W, C)."""


def random_variables(space: Any, random_like: Any, image: Image) -> tuple[Any, Any]:
    """(params, running statistics)."""
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), image))
    return random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))


def batch(image: Image, images: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Images [C, H, W, N] and labels of three classes."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(image[2], *image[:2], images)), rng.integers(3, size=images)


def gradients(apply: Any, image: Image) -> Any:
    """(params, running statistics, choice) → gradients by params and choice, (outputs, moved statistics)."""
    images, labels = batch(image)

    @functools.partial(jax.grad, argnums=(0, 2), has_aux=True)
    def loss(params: Any, stats: Any, choice: Any) -> Any:
        outputs, moved = apply(params, stats, choice, images, True)
        return cross_entropy(outputs, labels), (outputs, moved)

    return jax.jit(loss)
