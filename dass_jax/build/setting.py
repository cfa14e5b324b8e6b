"""What all stages of a run share: configuration, data, devices, random keys."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dass_jax.config import Config
from dass_jax.data import arrays
from dass_jax.errors import UserError
from dass_jax.genotype import reductions
from dass_jax.nn.heads import auxiliary_fits
from dass_jax.runtime import loop, memory, parallel, seeds


class Setting(NamedTuple):
    """What all stages of a run share."""

    config: Config
    dataset: arrays.Dataset
    devices: list[jax.Device]
    seeds: tuple[int, ...]
    """Of the searches or networks that run as one batch."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.dataset.train.images.shape[1:]
        return height, width, channels


def setting(config: Config) -> Setting:
    """Loads the data and looks at the devices.

    Raises:
      UserError: if data, sizes and devices do not go together.
    """
    dataset = arrays.load(config.data.source, config.data.limit, config.seed, memory.host_bytes())
    devices = parallel.local_devices(config.runtime.devices)
    for name, part in (("search", config.search), ("train", config.train)):
        parallel.check_batch(f"{name}.batch_size", part.batch_size, len(devices))
        parallel.check_parts(f"{name}.accumulate", part.accumulate, part.batch_size // len(devices))
    found = Setting(config, dataset, devices, tuple(range(config.seed, config.seed + config.seeds)))
    split = min(map(len, arrays.split_search(dataset.train, config.data.validation_fraction, config.seed)))
    searches = any(method != "random" for method in (config.method, *config.controls))
    if searches and config.search.batch_size > split:
        raise UserError(f"search.batch_size = {config.search.batch_size}; allowed: at most {split}, the smaller split")
    if config.train.batch_size > len(dataset.train.images):
        size = len(dataset.train.images)
        raise UserError(f"train.batch_size = {config.train.batch_size}; allowed: at most {size}, the training images")
    if config.network.auxiliary:
        _check_auxiliary(found)
    return found


def _check_auxiliary(s: Setting) -> None:
    network, size = s.config.network, s.image_shape[0]
    size = -(-size // 8) if network.stem == "imagenet" else size
    for reduction in reductions(network.cells):
        size = -(-size // 2) if reduction <= 2 * network.cells // 3 else size
    if s.image_shape[0] != s.image_shape[1] or not auxiliary_fits(size, network.stem):
        wanted = "8 to 10" if network.stem == "cifar" else "7 or 8"
        raise UserError(
            f"network.auxiliary = true on a feature map of {size} pixels; allowed: {wanted} pixels a side, "
            "or network.auxiliary = false"
        )


def stage_seed(seed: int, name: str) -> tuple[int, int]:
    """Equal for all methods of a run: what differs between them is not the luck of the draw."""
    return seed, zlib.crc32(name.encode())


def key(s: Setting, name: str, epoch: int = 0) -> jax.Array:
    """The random key of an epoch of a stage."""

    def of_seed(seed: int) -> jax.Array:
        first, stage = stage_seed(seed, name)
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(first), stage), epoch)

    return seeds.each(of_seed, s.seeds, jnp.stack)


def examples(s: Setting) -> tuple[loop.Examples, loop.Examples]:
    """The training and the test split."""
    train, test = s.dataset.train, s.dataset.test
    return loop.Examples(train.images, train.labels), loop.Examples(test.images, test.labels)


def activations(config: Config) -> Any:
    """The dtype of activations; None: that of the images, which is float32."""
    return None if config.runtime.precision == "float32" else jnp.dtype(config.runtime.precision)
