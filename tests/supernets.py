"""A small supernet as one differentiable function, for tests that compare two ways to compute it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dass_jax import relaxation
from dass_jax.methods import dass
from dass_jax.methods.losses import Batch
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS


def dense_loss(sizes: SupernetConfig, pixels: tuple[int, int], random_like: Any) -> tuple[Any, Callable[..., Any]]:
    """(random α and θ, loss): loss(α and θ, images [3, H, W, 4]) gives (dense loss, running statistics)."""
    space = darts(sizes)
    rng = np.random.default_rng(0)
    v = random_like(jax.eval_shape(lambda: space.init(jax.random.key(0), (*pixels, 3))))
    trained = {ALPHA: {name: rng.normal(size=shape) for name, shape in space.alpha_shapes.items()}, PARAMS: v[PARAMS]}

    def loss(trained: Any, images: jax.Array) -> Any:
        supernet = dass.supernet_loss(space.apply, relaxation.softmax, dass.dense_weights)
        batch = Batch(images, np.array([0, 1, 2, 0]))
        value, (_, updates) = supernet({**trained, BATCH_STATS: v[BATCH_STATS]}, batch, None)
        return value, updates

    return trained, loss
