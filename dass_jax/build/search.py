"""The stages of a search, from a configuration."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dass_jax import bilevel, relaxation, variables
from dass_jax.build import programs
from dass_jax.build.setting import Setting, activations, stage_seed
from dass_jax.config import HYPERGRADIENT_ARGUMENTS, Config, Search
from dass_jax.data import arrays
from dass_jax.genotype import Genotype
from dass_jax.methods import dass
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
    return darts(sizes, parallel.mean, activations(s.config))


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
            draw = (*stage_seed(seed, name), epoch)
            rows = [loop.shuffled(half, c.batch_size, (*draw, i)) for i, half in enumerate(halves[seed])]
            steps = min(map(len, rows))
            return np.stack([rows[1][:steps], rows[0][:steps]], axis=1)

        return lambda epoch: seeds.each(functools.partial(of_seed, epoch), s.seeds)

    prepare = programs.prepare(s, cutout=0, paths=None)

    def stage(name: str, epochs: int, alternation: bilevel.Algorithm, begin: Any, rate: float) -> Stage:
        return Stage(
            name=name,
            clock="search",
            program=f"search {name}",
            epochs=epochs,
            epoch=programs.epoch(s, alternation.update, prepare),
            steps=programs.steps(s, alternation.update, prepare),
            start=programs.starting(s, "search", begin),
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
