"""From a configuration to searches, networks and trainings: the one room that knows both."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import accounting, architectures, bilevel, config, sparsity
from dass_jax.compose.data import load_data
from dass_jax.compose.setting import Setting, split_rows
from dass_jax.config import Config
from dass_jax.data import arrays, colour
from dass_jax.data.augment import normalise
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from dass_jax.methods import Problem as SearchProblem
from dass_jax.networks import NETWORKS, Model
from dass_jax.nn.layers import Average, one_device
from dass_jax.phases import WHOLE, Search, Training
from dass_jax.recipes import RECIPES
from dass_jax.recipes import Problem as TrainingProblem
from dass_jax.runtime import parallel
from dass_jax.spaces import SPACES, Space
from dass_jax.spaces.lookup import Lookup
from dass_jax.tasks import Pixels, Task
from dass_jax.variables import BATCH_STATS, PARAMS, Variables


def setting(c: Config, dataset: arrays.Dataset | None = None) -> Setting:
    """Loads the data, if they are not given, and looks at the devices.

    Raises:
      UserError: if data, sizes and devices do not go together.
    """
    dataset = load_data(c) if dataset is None else dataset
    devices = parallel.all_devices(c.runtime.devices)
    found = Setting(c, dataset, devices, tuple(range(c.seed, c.seed + c.seeds)))
    if c.parallel.axis == "seeds":
        parallel.check_seeds(c.data.streaming)
        found = found.of(found.seeds)
    if found.image_shape[2] != 3 and any(getattr(c.data, name) for name in colour.Jitter._fields):
        raise UserError(
            f"data.{', data.'.join(colour.Jitter._fields)}: one is set and the images have {found.image_shape[2]} "
            "channels; allowed: 0 on anything but RGB"
        )
    _check_targets(found)
    SPACES[c.space.name].fits(c.space.fields, found.task.outputs, found.image_shape)
    lookup(c)  # raises for a table that cannot be read
    for method in methods(c):
        _check_feeds(found, method)
    trained = c.train.fields
    training_task(found)  # raises if it has no labels to smooth
    _check_batch(found, "train", trained.batch_size, trained.accumulate, dataset.train.size, "the training images")
    NETWORKS[c.network.name].check(c.network.fields, found.image_shape)
    if NETWORKS[c.network.name].of_architecture:
        model(found, _some_architecture(found), False, one_device)  # raises for sizes that do not fit the space's
    return found


def _some_architecture(s: Setting) -> Any:
    """One that a run may come to train: the given one, or any of the space."""
    if s.config.architecture:
        return architectures.load(s.config.architecture)
    space = make_space(s)
    return space.sample(np.random.default_rng(0)) if space.whole is None else space.whole


def methods(c: Config) -> tuple[str, ...]:
    """The methods of a run by their names in METHODS, the main one first."""
    return (c.method.name, *c.controls)


def _check_targets(s: Setting) -> None:
    """Raises UserError if the task's targets are not what the data have."""
    per_pixel = isinstance(s.task.outputs, Pixels)
    if per_pixel != s.dataset.masks:
        has, wanted = ("a label for each image", "masks") if per_pixel else ("masks", "a label for each image")
        raise UserError(
            f"task.name = {s.config.task.name!r} with data.source = {s.config.data.source!r}, which has {has}; "
            f"allowed: data with {wanted}"
        )


def _check_feeds(s: Setting, method: str) -> None:
    """Raises UserError if a search's batches do not fit into its splits, or not onto the devices."""
    parts = getattr(method_fields(s.config, method), "accumulate", 1)
    for phase in search(s, method).phases:
        for feed in phase.feeds.values():
            if feed is not None:
                split = min(len(split_rows(s, feed.split, seed)) for seed in s.seeds)
                what = "the training images" if feed.split == WHOLE else f"its split, {feed.split}"
                once = split if feed.steps is not None else split // feed.batches
                _check_batch(s, "method", feed.batch, parts, once, what)


def _check_batch(s: Setting, table: str, size: int, parts: int, most: int, what: str) -> None:
    parallel.check_batch(f"{table}.batch_size", size, s.layout.sharing)
    parallel.check_parts(f"{table}.accumulate", parts, size // s.layout.sharing)
    if size > most:
        raise UserError(f"{table}.batch_size = {size}; allowed: at most {most}, {what}")


def method_fields(c: Config, method: str) -> Any:
    """The fields of a run's method: of a control those that it has of the main method."""
    return config.converted(c.method, method).fields


def make_space(s: Setting, **restricted: Any) -> Space:
    """The search space of a configuration."""
    chosen = s.config.space
    average = s.layout.over_devices(parallel.mean)
    return SPACES[chosen.name].make(chosen.fields, s.task.outputs, average, s.activations, **restricted)


def lookup(c: Config) -> Lookup | None:
    """What is known of the space's architectures without training them; None: nothing."""
    return SPACES[c.space.name].lookup(c.space.fields)


def hypergradient_of(c: Config) -> bilevel.Hypergradient:
    """The estimator of α's gradient that a configuration names, with its arguments."""
    return bilevel.ESTIMATORS[c.hypergradient.name](**dataclasses.asdict(c.hypergradient.fields))


def search(s: Setting, method: str) -> Search:
    """What a method does, and how its architecture is found."""
    given = s.config.architecture
    problem = SearchProblem(
        space=lambda **restricted: make_space(s, **restricted),
        task=s.task,
        image_shape=s.image_shape,
        keep=s.config.sparsity.keep,
        hypergradient=hypergradient_of(s.config),
        average=s.layout.over_devices(parallel.mean),
        macs=lambda space: macs(s, space),
        size=functools.cache(lambda architecture: size(s, architecture)),
        given=architectures.load(given) if given else None,
        distribution=s.config.sparsity.distribution,
    )
    return METHODS[method].search(method_fields(s.config, method), problem)


def macs(s: Setting, space: Space) -> int:
    """Multiply-accumulates of a supernet for one image."""
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), s.image_shape))
    height, width, channels = s.image_shape
    choice = {name: labels.zeros for name, labels in space.choices.items()}

    def forward() -> Any:
        values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        images = jnp.zeros((channels, height, width, 1))
        return space.apply(values[PARAMS], values[BATCH_STATS], choice, images, False)

    kept = accounting.kept_of_fraction(shapes[PARAMS], space.rules, 1.0)
    return accounting.count(shapes[PARAMS], space.rules, kept, 1.0, forward).macs


def size(s: Setting, architecture: Any) -> accounting.Count:
    """The size of the network that the configuration makes of an architecture, with all of its weights."""
    net = model(s, architecture, False, one_device)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))
    height, width, channels = s.image_shape

    def forward() -> Any:
        values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return net.apply(values[PARAMS], values[BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    kept = accounting.kept_of_fraction(shapes[PARAMS], net.rules, 1.0)
    return accounting.count(shapes[PARAMS], net.rules, kept, 1.0, forward)


def model(s: Setting, architecture: Any, auxiliary: bool, average: Average) -> Model:
    """The network of an architecture or, for None, the published one that the configuration names."""
    chosen = s.config.network
    return NETWORKS[chosen.name].make(architecture, chosen.fields, s.task.outputs, auxiliary, average, s.activations)


def training_task(s: Setting) -> Task:
    """The task with label smoothing, if it is asked for, in its loss and nowhere else.

    Raises:
      UserError: for targets that are no classes.
    """
    # A recipe that trains nothing has no loss to smooth.
    share, loss = getattr(s.config.train.fields, "label_smoothing", 0.0), s.task.smoothed_loss
    if not share:
        return s.task
    if loss is None:
        raise UserError(f"train.label_smoothing = {share:g} with task.name = {s.task.name!r}; allowed: 0")
    return s.task._replace(loss=lambda outputs, targets: loss(outputs, targets, share))


def training(s: Setting, architecture: Any) -> Training:
    """How the configuration trains `model`'s network."""
    chosen, average = s.config.network, s.layout.over_devices(parallel.mean)
    entry = NETWORKS[chosen.name]
    problem = TrainingProblem(
        net=model(s, architecture, True, average),
        task=training_task(s),
        image_shape=s.image_shape,
        keep=s.config.sparsity.keep,
        average=average,
        auxiliary_weight=entry.auxiliary_weight(chosen.fields),
        drop_path=entry.drop_path(chosen.fields),
        name=str(architecture if architecture is not None else chosen.name),
        distribution=s.config.sparsity.distribution,
    )
    return RECIPES[s.config.train.name].train(s.config.train.fields, problem)


def cell_maps(s: Setting, architecture: Any) -> Callable[[Variables, jax.Array], tuple[jax.Array, ...]] | None:
    """(variables with masks, images uint8 [N, H, W, C]) → what each part of the network puts out for θ⊙m, float32; None
    for a network without parts."""
    chosen = s.config.network
    make = NETWORKS[chosen.name].maps
    if make is None:
        return None
    maps = make(architecture, chosen.fields, s.task.outputs, s.activations)

    def of_images(v: Variables, images: jax.Array) -> tuple[jax.Array, ...]:
        inputs = normalise(images, jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std))
        return tuple(x.astype(jnp.float32) for x in maps(sparsity.masked_weights(v), v[BATCH_STATS], inputs))

    return of_images


def hparams(s: Setting, method: str) -> dict[str, Any]:
    """What TensorBoard's table of runs says of a run's configuration, by dotted name."""
    chosen = config.flatten(s.config)
    return {**chosen, "method.name": method}
