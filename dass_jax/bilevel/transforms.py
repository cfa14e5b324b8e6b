"""Optax transforms whose knowledge arrives as data with each update, so that one compiled program serves all stages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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


def sgd_of_parts(momentum: float, decay: float, clip: float = 0.0) -> optax.GradientTransformationExtraArgs:
    """Nesterov's momentum with the penalty decay·Σw², whose gradient is 2·decay·w, on the parts of leaves that take
    part in a step: the rest, weights and momenta, stay as they are to the last bit. Before all that the gradient's
    global norm is cut off at `clip`; 0: it is not.

    `update` takes the keyword argument `moving`: a tree like the parameters of bool, each with as many leading axes of
    its leaf's as it needs.
    """

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: Any, moving: Any, **_: Any) -> Any:
        if clip:
            updates = clip_by_global_norm(clip).update(updates, optax.EmptyState())[0]
        gradient = jax.tree.map(lambda g, w: g + 2 * decay * w, updates, params)
        memory = jax.tree.map(lambda g, m, part: select(part, g + momentum * m, m), gradient, state, moving)

        def step(g: Any, m: Any, part: Any) -> Any:
            taken = -learning_rate.astype(g.dtype) * (g + momentum * m)
            # x + (−0) is x to the last bit, also where x is −0.
            return select(part, taken, lax.full_like(taken, -0.0))

        return jax.tree.map(step, gradient, memory, moving), memory

    def select(part: Any, one: Any, other: Any) -> Any:
        part = jnp.asarray(part)
        wide = jnp.broadcast_to(part.reshape(*part.shape, *[1] * (one.ndim - part.ndim)), one.shape)
        return lax.select(wide, one, other)

    return optax.GradientTransformationExtraArgs(lambda params: jax.tree.map(jnp.zeros_like, params), update)


class AdamState(NamedTuple):
    """Steps so far, and the means of gradients and of their squares."""

    steps: jax.Array
    mean: Any
    square: Any


def adam_of_tensorflow(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformationExtraArgs:
    """Adam as TensorFlow has it, with the "epsilon hat" of arXiv 1412.6980 Section 2: the step is
    lr·√(1−β2^t)/(1−β1^t)·m/(√v + ε). Optax divides by √(v/(1−β2^t)) + ε: as long as t is small, ε counts less there."""

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: AdamState, params: Any = None, *, learning_rate: Any, **_: Any) -> Any:
        count = state.steps + 1
        mean = jax.tree.map(lambda g, m: beta1 * m + (1 - beta1) * g, updates, state.mean)
        square = jax.tree.map(lambda g, v: beta2 * v + (1 - beta2) * g * g, updates, state.square)
        correction = jnp.sqrt(1 - beta2 ** count.astype(learning_rate.dtype)) / (1 - beta1**count)
        rate = learning_rate * correction
        steps = jax.tree.map(lambda m, v: -(rate * m / (jnp.sqrt(v) + epsilon)).astype(m.dtype), mean, square)
        return steps, AdamState(count, mean, square)

    return optax.GradientTransformationExtraArgs(init, update)
