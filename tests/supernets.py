"""Supernets that tests search in: what a method is given, and one small network as a differentiable function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import bilevel, methods
from dass_jax.architectures.darts import PRIMITIVES, Genotype
from dass_jax.methods import relaxed
from dass_jax.spaces import SPACES
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS


def problem(space: Any, classes: int, image_shape: tuple[int, int, int], /, **given: Any) -> methods.Problem:
    """The problem of searching `space`, by first order on one device and for half of the weights unless `given` says
    otherwise."""
    usual = {
        "space": lambda: space,
        "task": classification(classes),
        "image_shape": image_shape,
        "keep": 0.5,
        "hypergradient": bilevel.first_order(),
        "average": bilevel.levels.same,
        "macs": lambda space: 0,
        "size": lambda architecture: None,
    }
    return methods.Problem(**{**usual, **given})


def living(*edges: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Of a DARTS supernet whose cells have one node the operations that each of its edges keeps: of few a program is
    compiled in half of the time."""
    return dict.fromkeys(Genotype._fields, np.array([np.isin(PRIMITIVES, edge) for edge in edges]))


EACH_KIND = living(("max_pool_3x3", "skip_connect", "sep_conv_3x3"), ("avg_pool_3x3", "dil_conv_3x3"))


def few_operations(patch: pytest.MonkeyPatch) -> None:
    """Of DARTS' supernets in runs, of one node, those of each kind live alone."""
    entry = SPACES["darts"]
    patch.setitem(SPACES, "darts", entry._replace(make=functools.partial(entry.make, live=EACH_KIND)))


def few_in_benchmarks(patch: pytest.MonkeyPatch) -> None:
    """The same of the supernets whose steps benchmarks time in this process."""
    patch.setattr("dass_jax.spaces.darts.darts", functools.partial(darts, live=EACH_KIND))


def dense_loss(
    sizes: SupernetConfig, pixels: tuple[int, int], random_like: Any, live: Any = None
) -> tuple[Any, Callable[..., Any]]:
    """(random α and θ, loss): loss(α and θ, images [3, H, W, 4]) gives (dense loss, running statistics)."""
    space = darts(sizes, live=live)
    rng = np.random.default_rng(0)
    v = random_like(jax.eval_shape(lambda: space.init(jax.random.key(0), (*pixels, 3))))
    alpha = {name: rng.normal(size=choice.shape) for name, choice in space.choices.items()}
    task = classification(sizes.classes)
    supernet = relaxed.supernet_loss(space.apply, task, relaxed.softmax_choice, relaxed.dense_weights)

    def loss(trained: Any, images: jax.Array) -> Any:
        batch = Batch(images, np.array([0, 1, 2, 0]))
        value, (_, updates) = supernet({**trained, BATCH_STATS: v[BATCH_STATS]}, batch, None)
        return value, updates

    return {ALPHA: alpha, PARAMS: v[PARAMS]}, loss
