"""The stages of a network's training, from a configuration."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import bilevel, sparsity, variables
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import programs
from dass_jax.compose.setting import Setting, activations, stage_seed
from dass_jax.data.augment import normalise
from dass_jax.methods import prune
from dass_jax.networks.baselines import baseline
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.derived import cell_maps as derived_cell_maps
from dass_jax.networks.model import Model
from dass_jax.nn.layers import Average
from dass_jax.runtime import loop, parallel, seeds
from dass_jax.runtime.stage import Stage
from dass_jax.variables import MASKS, PARAMS, Variables


def model(s: Setting, genotype: Genotype | None, auxiliary: bool, average: Average) -> Model:
    """The network of a genotype or, where there is none, the published one that the configuration names."""
    n = s.config.network
    if genotype is None:
        return baseline(n.name, s.dataset.classes, n.width, average, activations(s.config))
    sizes = NetworkConfig(s.dataset.classes, n.cells, n.channels, n.stem, auxiliary)
    return derived(genotype, sizes, average, activations(s.config))


def cell_maps(s: Setting, genotype: Genotype) -> Callable[[Variables, jax.Array], tuple[jax.Array, ...]]:
    """(variables with masks, images uint8 [N, H, W, C]) → `models.derived.cell_maps` of θ⊙m, as float32."""
    n = s.config.network
    sizes = NetworkConfig(s.dataset.classes, n.cells, n.channels, n.stem, auxiliary=False)
    maps = derived_cell_maps(genotype, sizes, activations(s.config))

    def of_images(v: Variables, images: jax.Array) -> tuple[jax.Array, ...]:
        inputs = normalise(images, jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std))
        return tuple(x.astype(jnp.float32) for x in maps(prune.masked_weights(v), v[variables.BATCH_STATS], inputs))

    return of_images


def training_stages(s: Setting, genotype: Genotype | None) -> tuple[list[Stage], Callable[..., Any]]:
    """Pre-training, score learning and fine-tuning of `model`'s network, and the function that evaluates it."""
    c, network, keep = s.config.train, s.config.network, s.config.sparsity.keep
    mean, total = (programs.over_devices(s, reduce) for reduce in (parallel.mean, parallel.total))
    net = model(s, genotype, network.auxiliary, mean)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))
    stacks = variables.prunable(shapes[PARAMS], net.rules)
    sgd = bilevel.sgd(c.momentum, c.weight_decay, c.clip)
    common = network.auxiliary_weight, mean, c.accumulate
    weights = prune.train_weights(net.apply, sgd, *common)
    scores = prune.learn_scores(net.apply, sgd, stacks, keep, *common)

    def start(key: jax.Array, _: Any) -> bilevel.State:
        v = net.init(key, s.image_shape)
        return weights.init({**v, MASKS: sparsity.dense_masks(v[PARAMS], stacks)})

    def stage(
        name: str, clock: str, epochs: int, rate: float, descent: bilevel.Algorithm, begin: Any, masks: Any
    ) -> Stage:
        everything = np.arange(s.dataset.train.size)
        prepare = programs.prepare(s, s.config.data.cutout, net.paths if network.drop_path > 0 else None)

        def of_seed(epoch: int, seed: int) -> np.ndarray:
            return loop.shuffled(everything, c.batch_size, (*stage_seed(seed, name), epoch))

        return Stage(
            name=name,
            clock=clock,
            program=f"{'scores' if descent is scores else 'weights'} of {genotype}",
            epochs=epochs,
            epoch=programs.epoch(s, descent.update, prepare),
            start=programs.starting(s, "network", begin),
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

    evaluate = loop.evaluation(logits, programs.prepare_evaluation(s), total)
    return stages, seeds.over(evaluate, s.together, (0, None, None, None, None, None))
