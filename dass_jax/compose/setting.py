"""What all phases of a run share: configuration, data, devices, random keys."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.compose.data import margin
from dass_jax.config import Config
from dass_jax.data import arrays, load, pictures, stream
from dass_jax.phases import TRAINING, VALIDATION, WHOLE
from dass_jax.runtime import parallel
from dass_jax.runtime.epoch import Examples
from dass_jax.tasks import TASKS, Task


class Setting(NamedTuple):
    """What all phases of a run share."""

    config: Config
    dataset: arrays.Dataset
    devices: list[jax.Device]
    """That share each batch, or the seeds; of all processes, if there are several."""
    seeds: tuple[int, ...]
    """Of the searches or networks that run as one batch."""

    @property
    def layout(self) -> parallel.Layout:
        """How arrays and programs lie on the devices."""
        return parallel.layout(self.devices, len(self.seeds), self.config.parallel.axis == "seeds")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.dataset.shape

    @property
    def task(self) -> Task:
        """What the networks are trained for."""
        chosen = self.config.task
        return TASKS[chosen.name].make(self.dataset.classes, chosen.fields)

    @property
    def activations(self) -> Any:
        """The dtype of activations; None: that of the images, which is float32."""
        name = self.config.runtime.precision
        return None if name == "float32" else jnp.dtype(name)

    def of(self, seeds: tuple[int, ...]) -> "Setting":
        """The setting for some of the seeds; if the devices share them, on as many devices as have equally many."""
        found = self._replace(seeds=seeds)
        if self.config.parallel.axis == "seeds":
            return found._replace(devices=self.devices[: parallel.largest_divisor(len(seeds), len(self.devices))])
        return found


def split_rows(s: Setting, split: str, seed: int) -> np.ndarray:
    """Rows of the training images, int, that a split has under a seed.

    Raises:
      UserError: if a part of a search would be empty.
    """
    if split == WHOLE:
        return np.arange(s.dataset.train.size)
    parts = arrays.split_search(s.dataset.train, s.config.data.validation_fraction, seed)
    return parts[(TRAINING, VALIDATION).index(split)]


def draw_seed(seed: int, name: str) -> tuple[int, int]:
    """Equal for all methods of a run: what differs between them is not the luck of the draw."""
    return seed, zlib.crc32(name.encode())


def key(s: Setting, name: str, epoch: int = 0) -> jax.Array:
    """The random keys [seeds] of an epoch of what draws under that name."""

    def of_seed(seed: int) -> jax.Array:
        first, second = draw_seed(seed, name)
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(first), second), epoch)

    return jnp.stack([of_seed(seed) for seed in s.seeds])


def view(s: Setting, name: str, epoch: int, number: int) -> stream.View:
    """How the training images of an epoch are cut out, by their places in its `number` indices.

    An image's random box depends on the seed, the name, the epoch and its place in the epoch of that seed.
    """
    size, least = s.config.data.image_size, s.config.data.crop_scale
    if not least:
        return load.view(size, margin(s.config))

    def random(image: np.ndarray, place: int, exact: bool = False) -> np.ndarray:
        seed, own = divmod(place, number // len(s.seeds))
        draws = np.random.default_rng((*draw_seed(s.seeds[seed], name), epoch, own))
        return pictures.cut(image, pictures.random_box(draws, image.shape[:2], least), size, exact)

    return random


def centred(s: Setting) -> stream.View:
    """How the test images are cut out."""
    return load.view(s.config.data.image_size, margin(s.config))


def examples(s: Setting) -> tuple[Examples, Examples]:
    """The training and the test split, where they are in memory."""
    train, test = s.dataset.train, s.dataset.test
    assert isinstance(train, arrays.Split) and isinstance(test, arrays.Split)
    return Examples(*train, *statistics(s)), Examples(*test, *statistics(s))


def statistics(s: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [C] that images are normalised by, float32."""
    return np.asarray(s.dataset.mean, np.float32), np.asarray(s.dataset.std, np.float32)
