"""From a configuration to functions: the one place that knows both. Nothing that it calls reads the configuration."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax import bilevel, relaxation, sparsity, variables
from dass_jax.config import HYPERGRADIENT_ARGUMENTS, Config, Search
from dass_jax.data import arrays
from dass_jax.data.augment import Augmentation, augment, normalise, random_draws
from dass_jax.errors import UserError
from dass_jax.genotype import Genotype, reductions
from dass_jax.methods import dass, prune
from dass_jax.methods.losses import Batch
from dass_jax.models.derived import Model, NetworkConfig, derived
from dass_jax.nn.heads import auxiliary_fits
from dass_jax.nn.layers import Average
from dass_jax.runtime import loop, parallel, seeds
from dass_jax.runtime.stage import Stage
from dass_jax.spaces.darts import Space, SupernetConfig, darts
from dass_jax.variables import ALPHA, MASKS, PARAMS, Variables


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
    dataset = arrays.load(config.data.source, config.data.limit, config.seed)
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


def _stage_seed(seed: int, name: str) -> tuple[int, int]:
    """Equal for all methods of a run: what differs between them is not the luck of the draw."""
    return seed, zlib.crc32(name.encode())


def key(s: Setting, name: str, epoch: int = 0) -> jax.Array:
    """The random key of an epoch of a stage."""

    def of_seed(seed: int) -> jax.Array:
        first, stage = _stage_seed(seed, name)
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(first), stage), epoch)

    return seeds.each(of_seed, s.seeds, jnp.stack)


def _starting(s: Setting, name: str, begin: Callable[[jax.Array, Any], bilevel.State]) -> Callable[[Any], Any]:
    """A stage's `start` from `begin`: (key, last state) → first state. The key is an argument: one program for all."""
    program = jax.jit(seeds.over(begin, len(s.seeds), (0, 0)))
    return lambda state: program(key(s, name), state)


def _epoch(s: Setting, update: Callable[..., Any], prepare: loop.Prepare) -> Callable[..., Any]:
    """An epoch of all seeds: each has its state, indices and key, and all share images and rates."""
    return seeds.over(loop.epoch(update, prepare), len(s.seeds), (0, None, 0, 0, None, None))


def examples(s: Setting) -> tuple[loop.Examples, loop.Examples]:
    """The training and the test split."""
    train, test = s.dataset.train, s.dataset.test
    return loop.Examples(train.images, train.labels), loop.Examples(test.images, test.labels)


def _prepare(s: Setting, cutout: int, paths: tuple[int, ...] | None) -> loop.Prepare:
    """Draws for the global batch, then this device's part of it."""
    augmentation = Augmentation(s.config.data.crop_padding, s.config.data.flip, cutout)
    mean, std, devices = jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std), len(s.devices)

    def prepare(data: loop.Examples, rows: jax.Array, draw: jax.Array, drop_path: jax.Array) -> Batch:
        image_key, path_key = jax.random.split(draw)
        draws = random_draws(image_key, rows.shape[0], s.image_shape[:2], augmentation)
        scale = None
        if paths is not None:
            kept = jax.random.bernoulli(path_key, 1 - drop_path, (*paths, rows.shape[0]))
            scale = parallel.own_slice(kept / (1 - drop_path), devices)
        own, draws = jax.tree.map(lambda x: parallel.own_slice(x, devices), (rows, draws))
        return Batch(augment(data.images[own], draws, augmentation, mean, std), data.labels[own], scale)

    return prepare


def search_transforms(c: Search) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """What moves α (Adam with coupled weight decay) and what moves θ or s."""
    alpha = optax.chain(
        optax.add_decayed_weights(c.alpha_weight_decay),
        optax.adam(c.alpha_lr, b1=c.alpha_beta1, b2=c.alpha_beta2),
    )
    return alpha, bilevel.sgd(c.momentum, c.weight_decay, c.clip)


def _activations(config: Config) -> Any:
    """The dtype of activations; None: that of the images, which is float32."""
    return None if config.runtime.precision == "float32" else jnp.dtype(config.runtime.precision)


def _space(s: Setting) -> Space:
    c = s.config.search
    sizes = SupernetConfig(s.dataset.classes, c.cells, c.channels, c.nodes, c.stem, c.none, c.remat)
    return darts(sizes, parallel.mean, _activations(s.config))


def hypergradient_of(config: Config) -> bilevel.Hypergradient:
    """The estimator of α's gradient that a configuration names, with its arguments."""
    name, arguments = config.search.hypergradient, config.hypergradient
    return bilevel.ESTIMATORS[name](**{field: getattr(arguments, field) for field in HYPERGRADIENT_ARGUMENTS[name]})


def search_stages(s: Setting, method: str) -> tuple[list[Stage], Callable[[Variables], tuple[Any, Genotype]]]:
    """The stages of a method's search, and how edge weights and genotype are read off the variables.

    "dass" is Step 1 and Step 2; "darts_sparse" is Step 1 for as many epochs as the two take together.
    """
    c, space = s.config.search, _space(s)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), s.image_shape))
    stacks = variables.prunable(shapes[PARAMS], space.rules)
    alpha_transform, sgd = search_transforms(c)
    hypergradient, cosine = hypergradient_of(s.config), s.config.hypergradient.cosine

    def step(collection: str, weights: dass.Weights) -> bilevel.Algorithm:
        loss = bilevel.accumulated(dass.supernet_loss(space.apply, relaxation.softmax, weights), c.accumulate)
        return dass.step(collection, loss, alpha_transform, sgd, hypergradient, c.order, parallel.mean, cosine)

    step1 = step(PARAMS, dass.dense_weights)
    step2 = step(variables.SCORES, dass.sparse_weights(stacks, s.config.sparsity.keep))

    def start(key: jax.Array, _: Any) -> bilevel.State:
        first, second = jax.random.split(key)
        return step1.init({**space.init(first, s.image_shape), ALPHA: relaxation.init(second, space.alpha_shapes)})

    def start2(_: jax.Array, state: bilevel.State) -> bilevel.State:
        return dass.begin_step2(state, step2, stacks)

    fraction = s.config.data.validation_fraction
    halves = {seed: arrays.split_search(s.dataset.train, fraction, seed) for seed in s.seeds}

    def indices(name: str) -> Callable[[int], np.ndarray]:
        """[steps, (upper, lower), B]: the upper level sees the validation split."""

        def of_seed(epoch: int, seed: int) -> np.ndarray:
            draw = (*_stage_seed(seed, name), epoch)
            rows = [loop.shuffled(half, c.batch_size, (*draw, i)) for i, half in enumerate(halves[seed])]
            steps = min(map(len, rows))
            return np.stack([rows[1][:steps], rows[0][:steps]], axis=1)

        return lambda epoch: seeds.each(functools.partial(of_seed, epoch), s.seeds)

    def stage(name: str, epochs: int, alternation: bilevel.Algorithm, begin: Any, rate: float) -> Stage:
        return Stage(
            name=name,
            clock="search",
            program=f"search {name}",
            epochs=epochs,
            epoch=_epoch(s, alternation.update, _prepare(s, cutout=0, paths=None)),
            start=_starting(s, "search", begin),
            indices=indices(name),
            learning_rate=loop.cosine(rate, c.final_lr, epochs),
            drop_path=lambda epoch: 0.0,
            masks=lambda v: None,
        )

    def read(v: Variables) -> tuple[Any, Genotype]:
        weights = relaxation.softmax(v[ALPHA])
        return weights, space.derive(weights)

    if method == "darts_sparse":
        return [stage("step1", c.epochs + c.prune_epochs, step1, start, c.theta_lr)], read
    stages = [
        stage("step1", c.epochs, step1, start, c.theta_lr),
        stage("step2", c.prune_epochs, step2, start2, c.scores_lr),
    ]
    return stages, read


def model(s: Setting, genotype: Genotype, auxiliary: bool, average: Average) -> Model:
    """The derived network of a genotype."""
    n = s.config.network
    sizes = NetworkConfig(s.dataset.classes, n.cells, n.channels, n.stem, auxiliary)
    return derived(genotype, sizes, average, _activations(s.config))


def training_stages(s: Setting, genotype: Genotype) -> tuple[list[Stage], Callable[..., Any]]:
    """Pre-training, score learning and fine-tuning of a genotype's network, and the function that evaluates it."""
    c, network, keep = s.config.train, s.config.network, s.config.sparsity.keep
    net = model(s, genotype, network.auxiliary, parallel.mean)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))
    stacks = variables.prunable(shapes[PARAMS], net.rules)
    sgd = bilevel.sgd(c.momentum, c.weight_decay, c.clip)
    common = network.auxiliary_weight, parallel.mean, c.accumulate
    weights = prune.train_weights(net.apply, sgd, *common)
    scores = prune.learn_scores(net.apply, sgd, stacks, keep, *common)

    def start(key: jax.Array, _: Any) -> bilevel.State:
        v = net.init(key, s.image_shape)
        return weights.init({**v, MASKS: sparsity.dense_masks(v[PARAMS], stacks)})

    def stage(
        name: str, clock: str, epochs: int, rate: float, descent: bilevel.Algorithm, begin: Any, masks: Any
    ) -> Stage:
        everything = np.arange(len(s.dataset.train.images))
        paths = net.paths if network.drop_path > 0 else None

        def of_seed(epoch: int, seed: int) -> np.ndarray:
            return loop.shuffled(everything, c.batch_size, (*_stage_seed(seed, name), epoch))

        return Stage(
            name=name,
            clock=clock,
            program=f"{'scores' if descent is scores else 'weights'} of {genotype}",
            epochs=epochs,
            epoch=_epoch(s, descent.update, _prepare(s, s.config.data.cutout, paths)),
            start=_starting(s, "network", begin),
            indices=lambda epoch: seeds.each(functools.partial(of_seed, epoch), s.seeds),
            learning_rate=loop.cosine(rate, c.final_lr, epochs),
            drop_path=lambda epoch: network.drop_path * epoch / epochs,
            masks=masks,
        )

    learned = jax.jit(seeds.over(lambda scores: sparsity.topk_masks(scores, stacks, keep), len(s.seeds), (0,)))
    stages = [
        stage("pretrain", "pretrain", c.pretrain_epochs, c.pretrain_lr, weights, start, lambda v: v[MASKS]),
        stage(
            "scores",
            "prune",
            c.score_epochs,
            c.scores_lr,
            scores,
            lambda _, state: prune.begin_scores(state.variables, scores, stacks),
            lambda v: learned(v[variables.SCORES]),
        ),
        stage(
            "finetune",
            "finetune",
            c.finetune_epochs,
            c.finetune_lr,
            weights,
            lambda _, state: prune.begin_finetuning(state.variables, weights, stacks, keep),
            lambda v: v[MASKS],
        ),
    ]

    def logits(v: Variables, images: jax.Array) -> jax.Array:
        return net.apply(prune.masked_weights(v), v[variables.BATCH_STATS], images, False)[0]

    evaluate = loop.evaluation(logits, _prepare_evaluation(s))
    return stages, seeds.over(evaluate, len(s.seeds), (0, None, None, None))


def _prepare_evaluation(s: Setting) -> Callable[..., Any]:
    mean, std, devices = jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std), len(s.devices)

    def prepare(data: loop.Examples, rows: jax.Array, counted: jax.Array) -> Any:
        own, weight = (parallel.own_slice(x, devices) for x in (rows, counted))
        return normalise(data.images[own], mean, std), data.labels[own], weight

    return prepare
