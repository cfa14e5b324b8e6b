"""One cell's trainings as three programs that are compiled once for all cells: dense, sparse, and the test images.

They are the phases of `recipes.prune` on a network of any cell, each a loop over its steps on the device. The cell, the
counts of kept weights, the learning rates and the seeds are arguments. All arrays have the seeds' axis in front.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import sparsity, variables
from dass_jax.bilevel import Algorithm, State
from dass_jax.data.augment import Augmentation, augment, normalise, random_draws
from dass_jax.errors import UserError
from dass_jax.networks.model import Model
from dass_jax.nn.layers import one_device
from dass_jax.recipes import prune, recipe
from dass_jax.runtime import compilation
from dass_jax.schedules import cosine
from dass_jax.sparsebench.fields import Fields
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import BATCH_STATS, Variables

EVALUATED = 500
"""Test images in a batch, of which there must be whole ones."""


class Data(NamedTuple):
    """Images uint8 [N, H, W, C], labels int32 [N], mean and std [C]."""

    images: Any
    labels: Any
    test_images: Any
    test_labels: Any
    mean: Any
    std: Any


class Kept(NamedTuple):
    """What a cell keeps: `layers`, masks of the layers that it has, and counts as `sparsity.largest_of_layers` does."""

    layers: Any
    counts: Any


class Rates(NamedTuple):
    """The learning rate of each epoch, float32 [epochs]."""

    pretrain: np.ndarray
    scores: np.ndarray
    finetune: np.ndarray


class Programs(NamedTuple):
    """dense(cell, keys, rates, data) → variables; sparse(cell, variables, kept, keys, rates, data) → variables under
    masks; right(cell, variables, data) → how many test images have the right answer, int [seeds]. `rates` are `Rates`.
    """

    dense: Callable[..., Variables]
    sparse: Callable[..., Variables]
    right: Callable[..., jax.Array]


def check(c: Fields, train: int, test: int) -> None:
    """Raises UserError if batches do not fit the images."""
    if c.train.batch_size > train:
        raise UserError(f"train.batch_size = {c.train.batch_size}; allowed: at most {train}, the training images")
    if test % EVALUATED and test > EVALUATED:
        raise UserError(f"data.source = {c.data.source!r} has {test} test images; allowed: a multiple of {EVALUATED}")


def problem(net: Model, image_shape: tuple[int, int, int], classes: int, kept: Kept | None) -> recipe.Problem:
    """The recipe's problem of a cell's network; without `kept` it can only be trained dense."""

    def chosen(scores: Any) -> Any:
        assert kept is not None
        return sparsity.magnitude_masks(scores, kept.layers, variables.prunable(scores, net.rules), kept.counts)

    return recipe.Problem(
        net=net,
        task=classification(classes),
        image_shape=image_shape,
        keep=1.0,
        average=one_device,
        auxiliary_weight=0.0,
        drop_path=0.0,
        name="",
        chosen=chosen,
    )


def rates(c: Fields) -> Rates:
    """Those of a configuration."""
    t = c.train

    def falling(rate: float, epochs: int) -> np.ndarray:
        return np.asarray(cosine(rate, t.final_lr)(np.arange(epochs) / max(1, epochs)), np.float32)

    return Rates(
        falling(t.pretrain_lr, t.pretrain_epochs),
        falling(t.scores_lr, t.score_epochs),
        falling(t.finetune_lr, t.finetune_epochs),
    )


def trained(c: Fields, algorithm: Algorithm, state: State, rates: Any, key: Any, data: Data) -> State:
    """An epoch of the one level of an algorithm for each of the learning rates [epochs]."""
    (level,) = state.optimizers
    size, (number, *shape), epochs = c.train.batch_size, data.images.shape, len(rates)
    steps = number // size
    augmentation = Augmentation(c.data.crop_padding, c.data.flip, 0)

    def order(key: Any) -> jax.Array:
        return jax.random.permutation(key, number)[: steps * size].reshape(steps, size)

    def step(state: State, given: Any) -> tuple[State, None]:
        rows, rate, key = given
        draws = random_draws(key, size, (shape[0], shape[1]), augmentation)
        images = augment(data.images[rows], draws, augmentation, data.mean, data.std)
        batch = Batch(images, data.labels[rows])
        return algorithm.update(state, {level: batch}, key, learning_rate={level: rate})[0], None

    if epochs == 0:
        return state
    shuffling, drawing = jax.random.split(key)
    rows = jax.vmap(order)(jax.random.split(shuffling, epochs)).reshape(epochs * steps, size)
    given = rows, jnp.repeat(rates, steps), jax.random.split(drawing, epochs * steps)
    return jax.lax.scan(step, state, given)[0]


def programs(
    c: Fields, model: Callable[[int, Any], Model], image_shape: tuple[int, int, int], classes: int
) -> Programs:
    """The programs of a configuration, jitted; `model` as of a `Space`."""
    fields = prune.Fields(**dataclasses.asdict(c.train))

    def of_cell(cell: Any, kept: Kept | None) -> recipe.Problem:
        return problem(model(classes, cell), image_shape, classes, kept)

    def dense(cell: Any, key: Any, rates: Rates, data: Data) -> Variables:
        own = of_cell(cell, None)
        weights = recipe.train_weights(fields, own)
        first, further = jax.random.split(key)
        begun = weights.init(recipe.fresh(own, first))
        return trained(c, weights, begun, rates.pretrain, further, data).variables

    def sparse(cell: Any, v: Variables, kept: Kept, key: Any, rates: Rates, data: Data) -> Variables:
        own = of_cell(cell, kept)
        weights, scores = recipe.train_weights(fields, own), prune.learn_scores(fields, own)
        first, further = jax.random.split(key)
        learned = trained(c, scores, prune.begin_scores(v, scores, own), rates.scores, first, data)
        begun = weights.init(prune.pruned(learned.variables, own))
        return trained(c, weights, begun, rates.finetune, further, data).variables

    def right(cell: Any, v: Variables, data: Data) -> jax.Array:
        net = model(classes, cell)
        theta = sparsity.masked_weights(v)

        def part(given: Any) -> jax.Array:
            images, labels = given
            outputs = net.apply(theta, v[BATCH_STATS], normalise(images, data.mean, data.std), False)[0]
            return (outputs.argmax(-1) == labels).sum()

        tests = data.test_images, data.test_labels
        size = min(EVALUATED, len(data.test_labels))
        parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tests)
        return jax.lax.map(part, parts).sum()

    def jitted(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        options = compilation.options(jax.default_backend())
        return jax.jit(jax.vmap(function, in_axes=axes), compiler_options=options)

    return Programs(
        dense=jitted(dense, (None, 0, None, None)),
        sparse=jitted(sparse, (None, 0, None, 0, None, None)),
        right=jitted(right, (None, 0, None)),
    )
