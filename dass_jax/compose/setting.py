"""What all stages of a run share: configuration, data, devices, random keys."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.architectures.darts import reductions
from dass_jax.config import Config
from dass_jax.data import arrays, colour, load, pictures, stream
from dass_jax.errors import UserError
from dass_jax.nn.heads import auxiliary_fits
from dass_jax.runtime import loop, memory, parallel, seeds


class Setting(NamedTuple):
    """What all stages of a run share."""

    config: Config
    dataset: arrays.Dataset
    devices: list[jax.Device]
    """That share each batch, or the seeds; of all processes, if there are several."""
    seeds: tuple[int, ...]
    """Of the searches or networks that run as one batch."""

    @property
    def spread(self) -> bool:
        """Whether the devices share the seeds, and each has whole batches."""
        return self.config.parallel.axis == "seeds" and len(self.devices) > 1

    @property
    def sharing(self) -> int:
        """Devices that share a batch."""
        return 1 if self.spread else len(self.devices)

    @property
    def together(self) -> int:
        """Seeds of which a program's function is, before it is spread over the devices."""
        return 1 if self.spread else len(self.seeds)

    @property
    def layout(self) -> parallel.Layout:
        """How arrays lie on the devices."""
        return parallel.of_seeds(self.devices) if self.spread else parallel.of_batches(self.devices)

    def of(self, seeds: tuple[int, ...]) -> "Setting":
        """The setting for some of the seeds; if the devices share them, on as many devices as have equally many."""
        found = self._replace(seeds=seeds)
        if self.config.parallel.axis == "seeds":
            return found._replace(devices=self.devices[: loop.largest_divisor(len(seeds), len(self.devices))])
        return found

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.dataset.shape


def setting(config: Config) -> Setting:
    """Loads the data and looks at the devices.

    Raises:
      UserError: if data, sizes and devices do not go together.
    """
    dataset = load.load(_wanted(config))
    devices = parallel.all_devices(config.runtime.devices)
    searches = any(method not in ("random", "given") for method in (config.method, *config.controls))
    found = Setting(config, dataset, devices, tuple(range(config.seed, config.seed + config.seeds)))
    if config.parallel.axis == "seeds":
        parallel.check_seeds(config.data.streaming)
        found = found.of(found.seeds)
    for name in ("search", "train") if searches else ("train",):
        part = getattr(config, name)
        parallel.check_batch(f"{name}.batch_size", part.batch_size, found.sharing)
        parallel.check_parts(f"{name}.accumulate", part.accumulate, part.batch_size // found.sharing)
    split = min(map(len, arrays.split_search(dataset.train, config.data.validation_fraction, config.seed)))
    if searches and config.search.batch_size > split:
        raise UserError(f"search.batch_size = {config.search.batch_size}; allowed: at most {split}, the smaller split")
    if config.train.batch_size > dataset.train.size:
        size = dataset.train.size
        raise UserError(f"train.batch_size = {config.train.batch_size}; allowed: at most {size}, the training images")
    if found.image_shape[2] != 3 and any(getattr(config.data, name) for name in colour.Jitter._fields):
        raise UserError(
            f"data.{', data.'.join(colour.Jitter._fields)}: one is set and the images have {found.image_shape[2]} "
            "channels; allowed: 0 on anything but RGB"
        )
    if config.network.name == "cells" and config.network.auxiliary:
        _check_auxiliary(found)
    return found


def _wanted(config: Config) -> load.Wanted:
    c = config.data
    return load.Wanted(
        source=c.source,
        limit=c.limit,
        seed=config.seed,
        folder=c.folder,
        image_size=c.image_size,
        streaming=c.streaming,
        margin=_margin(config),
        imagenet_statistics=c.statistics == "imagenet",
        most_bytes=memory.host_bytes() if config.runtime.memory_check else None,
    )


def _margin(config: Config) -> float:
    """Whole images are evaluated as they are trained on; after random boxes, without their borders."""
    return pictures.MARGIN if config.data.crop_scale else 1.0


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


def view(s: Setting, name: str, epoch: int, number: int) -> stream.View:
    """How the training images of an epoch of a stage are cut out, by their places in its `number` indices.

    An image's random box depends on the seed, the stage, the epoch and its place in the epoch of that seed.
    """
    size, least = s.config.data.image_size, s.config.data.crop_scale
    if not least:
        return load.view(size, _margin(s.config))

    def random(image: np.ndarray, place: int) -> np.ndarray:
        seed, own = divmod(place, number // len(s.seeds))
        draws = np.random.default_rng((*stage_seed(s.seeds[seed], name), epoch, own))
        return pictures.cut(image, pictures.random_box(draws, image.shape[:2], least), size)

    return random


def centred(s: Setting) -> stream.View:
    """How the test images are cut out."""
    return load.view(s.config.data.image_size, _margin(s.config))


def examples(s: Setting) -> tuple[loop.Examples, loop.Examples]:
    """The training and the test split, where they are in memory."""
    train, test = s.dataset.train, s.dataset.test
    assert isinstance(train, arrays.Split) and isinstance(test, arrays.Split)
    return loop.Examples(train.images, train.labels), loop.Examples(test.images, test.labels)


def activations(config: Config) -> Any:
    """The dtype of activations; None: that of the images, which is float32."""
    return None if config.runtime.precision == "float32" else jnp.dtype(config.runtime.precision)
