"""Optax transforms whose knowledge arrives as data with each update, so that one compiled program serves all stages."""

from typing import Any

import jax
import optax
from jax import lax

from dass_jax import variables
from dass_jax.bilevel.levels import Algorithm, State
from dass_jax.bilevel.norms import clip_by_global_norm


def scale_by_given_learning_rate() -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by −learning_rate; `update` takes the scalar as the keyword argument `learning_rate`.

    The schedule stays on the host: pre-training and fine-tuning differ in it only, and share their program.
    """

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: jax.Array, **_: Any) -> Any:
        return jax.tree.map(lambda u: -learning_rate.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def with_rate(transform: optax.GradientTransformation, level: str) -> optax.GradientTransformationExtraArgs:
    """`transform` with the entry of `level` in {level: learning rate}: the levels of one update have their own."""
    inner = optax.with_extra_args_support(transform)

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **extra: Any) -> Any:
        return inner.update(updates, state, params, learning_rate=learning_rate[level], **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def sgd(
    momentum: float, weight_decay: float, clip: float, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    """SGD as in DARTS: clip by the global norm, coupled weight decay, momentum; the learning rate comes as data.

    Args:
      nesterov: the step is g + momentum·m, with m the new momentum, in the place of m.
    """
    # Not through `optax.flatten`: leaves cut out of one vector are each compiled for their own place in it, while
    # leaves of one shape share what is compiled for them.
    return optax.chain(
        clip_by_global_norm(clip),
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum, nesterov),
        scale_by_given_learning_rate(),
    )


def adam(beta1: float, beta2: float, weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """Adam with coupled weight decay, as DARTS moves α; the learning rate comes as data."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(beta1, beta2),
        scale_by_given_learning_rate(),
    )


def freeze_pruned() -> optax.GradientTransformationExtraArgs:
    """Drops updates where the keyword argument `masks` is 0 (leaves without a mask pass): pruned weights never move.

    Goes last in a chain: momentum and weight decay could move a pruned weight though its gradient is zero.
    """

    def update(updates: Any, state: Any, params: Any = None, *, masks: Any, **_: Any) -> Any:
        leaves = variables.select(updates, masks)
        # x + (−0) is x to the last bit, also where x is −0.
        frozen = jax.tree.map(lambda u, m: lax.select(m != 0, u, lax.full_like(u, -0.0)), leaves, masks)
        return variables.merge(updates, frozen), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def under_masks(algorithm: Algorithm) -> Algorithm:
    """The algorithm with `variables["masks"]` handed to its transforms, for `freeze_pruned`."""

    def update(state: State, batch: Any, key: jax.Array, **extra: Any) -> Any:
        return algorithm.update(state, batch, key, masks=state.variables[variables.MASKS], **extra)

    return Algorithm(algorithm.init, update)
