"""The stages of a search, from a configuration."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dass_jax import bilevel, relaxation, variables
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import programs
from dass_jax.compose.setting import Setting, activations, stage_seed
from dass_jax.config import HYPERGRADIENT_ARGUMENTS, Config, Search
from dass_jax.data import arrays
from dass_jax.methods import dass, dass_op, prune
from dass_jax.runtime import loop, parallel, seeds
from dass_jax.runtime.stage import Stage
from dass_jax.spaces.darts import Space, SupernetConfig, darts
from dass_jax.variables import ALPHA, PARAMS, Variables


def search_transforms(c: Search) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """What moves α (Adam with coupled weight decay) and what moves θ or s."""
    alpha = optax.chain(
        optax.add_decayed_weights(c.alpha_weight_decay),
        optax.adam(c.alpha_lr, b1=c.alpha_beta1, b2=c.alpha_beta2),
    )
    return alpha, bilevel.sgd(c.momentum, c.weight_decay, c.clip)


def _space(s: Setting) -> Space:
    c = s.config.search
    sizes = SupernetConfig(s.dataset.classes, c.cells, c.channels, c.nodes, c.stem, c.none, c.remat)
    return darts(sizes, programs.over_devices(s, parallel.mean), activations(s.config))


def hypergradient_of(config: Config) -> bilevel.Hypergradient:
    """The estimator of α's gradient that a configuration names, with its arguments."""
    name, arguments = config.search.hypergradient, config.hypergradient
    return bilevel.ESTIMATORS[name](**{field: getattr(arguments, field) for field in HYPERGRADIENT_ARGUMENTS[name]})


class _Part(NamedTuple):
    """What a stage of a search does, and how it begins: (key, last state) → first state."""

    algorithm: bilevel.Algorithm
    begin: Callable[[jax.Array, Any], bilevel.State]


def _parts(s: Setting, space: Space) -> dict[str, _Part]:
    """Everything that a search may consist of, by the name of its program."""
    c, keep = s.config.search, s.config.sparsity.keep
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), s.image_shape))
    stacks = variables.prunable(shapes[PARAMS], space.rules)
    alpha, sgd = search_transforms(c)
    mean = programs.over_devices(s, parallel.mean)
    common = hypergradient_of(s.config), c.order, mean, s.config.hypergradient.cosine

    def loss(weights: dass.Weights) -> bilevel.Loss:
        return bilevel.accumulated(dass.supernet_loss(space.apply, relaxation.softmax, weights), c.accumulate)

    def fresh(key: jax.Array) -> Variables:
        first, second = jax.random.split(key)
        return {**space.init(first, s.image_shape), ALPHA: relaxation.init(second, space.alpha_shapes)}

    dense, sparse, masked = map(loss, (dass.dense_weights, dass.sparse_weights(stacks, keep), prune.masked_weights))
    step1 = dass.step(PARAMS, dense, alpha, sgd, *common)
    step2 = dass.step(variables.SCORES, sparse, alpha, sgd, *common)
    fixed = dass_op.step(masked, alpha, sgd, *common)
    joint = dass.unsplit(sparse, alpha, bilevel.with_rate(sgd, 0), bilevel.with_rate(sgd, 1), *common)
    return {
        "step1": _Part(step1, lambda key, _: step1.init(fresh(key))),
        "step2": _Part(step2, lambda _, state: dass.begin_step2(state, step2, stacks)),
        "dass_op": _Part(fixed, lambda key, _: fixed.init(dass_op.with_masks(fresh(key), stacks, keep))),
        "dass_joint": _Part(joint, lambda key, _: joint.init(dass.with_scores(fresh(key), stacks))),
    }


def search_stages(s: Setting, method: str) -> tuple[list[Stage], Callable[[Variables], tuple[Any, Genotype]]]:
    """The stages of a method's search, and how edge weights and genotype are read off the variables.

    "dass" is Step 1 and Step 2. The others have one stage, of as many epochs as the two take together: "darts_sparse"
    Step 1, "dass_op" Step 1 under fixed masks, "dass_joint" the un-split problem. It has Step 1's name for its draws.
    """
    c, space = s.config.search, _space(s)
    parts = _parts(s, space)
    fraction = s.config.data.validation_fraction
    halves = {seed: arrays.split_search(s.dataset.train, fraction, seed) for seed in s.seeds}

    def indices(name: str) -> Callable[[int], np.ndarray]:
        """[steps, (upper, lower), B]: the upper level sees the validation split."""

        def of_seed(epoch: int, seed: int) -> np.ndarray:
            draw = (*stage_seed(seed, name), epoch)
            rows = [loop.shuffled(half, c.batch_size, (*draw, i)) for i, half in enumerate(halves[seed])]
            steps = min(map(len, rows))
            return np.stack([rows[1][:steps], rows[0][:steps]], axis=1)

        return lambda epoch: seeds.each(functools.partial(of_seed, epoch), s.seeds)

    prepare = programs.prepare(s, cutout=0, paths=None)

    def stage(name: str, part: str, epochs: int, *rates: float) -> Stage:
        cosines = [loop.cosine(rate, c.final_lr, epochs) for rate in rates]
        return Stage(
            name=name,
            clock="search",
            program=f"search {part}",
            epochs=epochs,
            epoch=programs.epoch(s, parts[part].algorithm.update, prepare),
            start=programs.starting(s, "search", parts[part].begin),
            indices=indices(name),
            learning_rate=cosines[0] if len(rates) == 1 else lambda epoch: tuple(rate(epoch) for rate in cosines),
            drop_path=lambda epoch: 0.0,
            masks=lambda v: None,
        )

    def read(v: Variables) -> tuple[Any, Genotype]:
        weights = relaxation.softmax(v[ALPHA])
        return weights, space.derive(weights)

    if method == "dass":
        step1 = stage("step1", "step1", c.epochs, c.theta_lr)
        return [step1, stage("step2", "step2", c.prune_epochs, c.scores_lr)], read
    part = "step1" if method == "darts_sparse" else method
    rates = (c.theta_lr, c.scores_lr) if method == "dass_joint" else (c.theta_lr,)
    return [stage("step1", part, c.epochs + c.prune_epochs, *rates)], read
