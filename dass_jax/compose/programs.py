"""The pieces that the stages of search and training have in common: first states, epochs, batches."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax import bilevel
from dass_jax.compose.setting import Setting, key
from dass_jax.data import colour
from dass_jax.data.augment import Augmentation, augment, normalise, random_draws
from dass_jax.methods.losses import Batch
from dass_jax.runtime import loop, parallel, seeds


def starting(s: Setting, name: str, begin: Callable[[jax.Array, Any], bilevel.State]) -> Callable[[Any], Any]:
    """A stage's `start` from `begin`: (key, last state) → first state. The key is an argument: one program for all."""
    program = jax.jit(seeds.over(begin, len(s.seeds), (0, 0)))
    return lambda state: program(key(s, name), state)


def epoch(s: Setting, update: Callable[..., Any], prepare: loop.Prepare) -> Callable[..., Any]:
    """An epoch of all seeds: each has its state, indices and key, and all share images and rates."""
    skip = s.config.runtime.nonfinite == "skip"
    return seeds.over(loop.epoch(update, prepare, skip), s.together, (0, None, 0, 0, *[None] * 5))


def over_devices(s: Setting, reduce: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`parallel.mean` or `total`, where the devices share a batch."""
    return parallel.alone if s.spread else reduce


def prepare(s: Setting, cutout: int, paths: tuple[int, ...] | None) -> loop.Prepare:
    """Draws for the global batch, then this device's part of it."""
    augmentation = Augmentation(s.config.data.crop_padding, s.config.data.flip, cutout)
    mean, std, devices = jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std), s.sharing
    jitter = colour.Jitter(*(getattr(s.config.data, name) for name in colour.Jitter._fields))

    def batch(data: loop.Examples, rows: jax.Array, draw: jax.Array, drop_path: jax.Array) -> Batch:
        image_key, path_key = jax.random.split(draw)
        draws = random_draws(image_key, rows.shape[0], s.image_shape[:2], augmentation)
        scale = None
        if paths is not None:
            kept = jax.random.bernoulli(path_key, 1 - drop_path, (*paths, rows.shape[0]))
            scale = parallel.own_slice(kept / (1 - drop_path), devices)
        own, draws = jax.tree.map(lambda x: parallel.own_slice(x, devices), (rows, draws))
        recolour = None
        if any(jitter):
            amounts, order = colour.random_draws(jax.random.fold_in(image_key, 0), rows.shape[0], jitter)
            amounts = jax.tree.map(lambda x: parallel.own_slice(x, devices), amounts)
            recolour = functools.partial(colour.recolour, draws=amounts, order=order)
        images = augment(data.images[own], draws, augmentation, mean, std, recolour=recolour)
        return Batch(images, data.labels[own], scale)

    return batch


def prepare_evaluation(s: Setting) -> Callable[..., Any]:
    """(examples, indices, counted) → this device's (images, labels, counted)."""
    mean, std, devices = jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std), s.sharing

    def part(data: loop.Examples, rows: jax.Array, counted: jax.Array) -> Any:
        own, weight = (parallel.own_slice(x, devices) for x in (rows, counted))
        return normalise(data.images[own], mean, std), data.labels[own], weight

    return part
