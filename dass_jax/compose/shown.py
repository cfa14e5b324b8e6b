"""What there is to see of a trained network whose task predicts something of each pixel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import sparsity
from dass_jax.compose.problems import model
from dass_jax.compose.setting import Setting, centred
from dass_jax.data import stream
from dass_jax.data.arrays import Split
from dass_jax.data.augment import normalise
from dass_jax.nn.layers import one_device
from dass_jax.runtime.shown import Shown
from dass_jax.tasks import Pixels
from dass_jax.variables import BATCH_STATS

IMAGES = 4
"""The first of the test images."""


def shown(s: Setting, architecture: Any, v: Any) -> Shown | None:
    """The first test images with their masks and what the network of an architecture predicts of them, with variables
    `v` (params, masks, batch_stats); None where pixels have no predictions."""
    task = s.task
    if task.predictions is None or not isinstance(task.outputs, Pixels):
        return None
    test, rows = s.dataset.test, np.arange(min(IMAGES, s.dataset.test.size))
    if isinstance(test, Split):
        split = Split(np.asarray(test.images[rows]), np.asarray(test.labels[rows]))
    else:
        split = next(stream.batches(test, rows, centred(s), s.image_shape, len(rows)))
    net = model(s, architecture, False, one_device)
    images = normalise(jnp.asarray(split.images), jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std))
    outputs = jax.jit(lambda v, x: net.apply(sparsity.masked_weights(v), v[BATCH_STATS], x, False)[0])(v, images)
    predictions = np.moveaxis(np.asarray(task.predictions(outputs)), -1, 0).astype(np.uint8)
    return Shown(split.images, split.labels, predictions, task.outputs.number, task.names)
