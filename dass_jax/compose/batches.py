"""How examples become batches: augmentation, normalisation, drop-path, and each device's part."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.compose.setting import Setting
from dass_jax.data import colour
from dass_jax.data.arrays import VOID
from dass_jax.data.augment import Augmentation, augment, follow, normalise, random_draws
from dass_jax.phases import COUNTED, Feed
from dass_jax.runtime import parallel
from dass_jax.runtime.epoch import Examples, Prepare
from dass_jax.tasks import Batch


def prepare(s: Setting, feed: Feed, level: str) -> Prepare:
    """Draws for the global batch, then this device's part of it."""
    cutout = s.config.data.cutout if feed.cutout else 0
    augmentation = Augmentation(s.config.data.crop_padding, s.config.data.flip, cutout)
    if not feed.augment:
        augmentation = Augmentation(0, False, 0)
    devices = s.layout.sharing
    jitter = colour.Jitter(*(getattr(s.config.data, name) for name in colour.Jitter._fields))

    def batch(data: Examples, rows: jax.Array, draw: jax.Array, rates: Mapping[str, Any]) -> Batch:
        image_key, path_key = jax.random.split(draw)
        draws = random_draws(image_key, rows.shape[0], s.image_shape[:2], augmentation)
        scale = None
        if feed.paths is not None:
            dropped = jnp.broadcast_to(rates["drop_path"] * jnp.asarray(feed.drops), feed.paths)[..., None]
            kept = jax.random.bernoulli(path_key, 1 - dropped, (*feed.paths, rows.shape[0]))
            scale = parallel.own_slice(kept / (1 - dropped), devices)
        own, draws = jax.tree.map(lambda x: parallel.own_slice(x, devices), (rows, draws))
        recolour = None
        if any(jitter) and feed.augment:
            amounts, order = colour.random_draws(jax.random.fold_in(image_key, 0), rows.shape[0], jitter)
            amounts = jax.tree.map(lambda x: parallel.own_slice(x, devices), amounts)
            recolour = functools.partial(colour.recolour, draws=amounts, order=order)
        images = augment(data.images[own], draws, augmentation, data.mean, data.std, recolour=recolour)
        counted = None
        if feed.whole:
            # Not from the examples: for those that are read part by part, the indices are of the part.
            real = jnp.arange(rows.shape[0]) < rates[COUNTED][level]
            counted = parallel.own_slice(real.astype(images.dtype), devices)
        targets = data.targets[own]
        targets = follow(targets, draws, augmentation, VOID) if s.dataset.masks else targets
        return Batch(images, targets, scale, counted)

    return batch


def prepare_evaluation(s: Setting) -> Callable[..., Any]:
    """(examples, indices, counted) → this device's (images, targets, counted)."""
    devices = s.layout.sharing

    def part(data: Examples, rows: jax.Array, counted: jax.Array) -> Any:
        own, weight = (parallel.own_slice(x, devices) for x in (rows, counted))
        targets = jnp.moveaxis(data.targets[own], 0, -1).astype(jnp.int32)
        return normalise(data.images[own], data.mean, data.std), targets, weight

    return part
