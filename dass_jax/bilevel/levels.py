"""The words of a bi-level problem over named collections.

    min_u F(u, v*(u))   such that   v*(u) = argmin_v f(u, v)

A `Level` is one of its two lines: the collection that is trained (u or v), the loss and the optax transform that train
it. Losses see all collections and differ in which one they are differentiated by. `State` is what an algorithm carries,
`Info` what it observes; `turns` composes levels into algorithms, `hypergradients` holds the estimators of dF/du.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax.bilevel.norms import flat
from dass_jax.variables import Variables

Loss = Callable[[Variables, Any, jax.Array], tuple[jax.Array, tuple[dict[str, jax.Array], Variables]]]
"""(variables, batch, key) → (loss, (metrics, updates)); `updates` replaces whole collections, e.g. batch_stats."""

Result = tuple[jax.Array, tuple[dict[str, jax.Array], Variables]]
"""What a loss returns."""

Reduce = Callable[[Any], Any]
"""A pytree of this device's gradients, loss and metrics → that of all devices: their mean, or on one device itself."""


class State(NamedTuple):
    """What is carried from update to update."""

    variables: Variables
    optimizers: dict[str, Any]
    """The state of each level's transform, under the name of its collection."""


class Level(NamedTuple):
    """One level: the collection that it trains, by which loss and which transform, and how often in a turn."""

    collection: str
    loss: Loss
    transform: optax.GradientTransformation
    steps: int = 1
    """Steps in one turn. With more than one, the level's batch has a leading axis of that length."""
    project: Callable[[State], State] | None = None
    """What follows each of its steps, before any other level's: a projection of the collection, say. It may replace
    other collections that no level trains, and the state of its own transform. Hypergradients through the level look
    ahead without it."""


class Sample(NamedTuple):
    """What a level's loss is evaluated on in one turn."""

    batch: Any
    key: jax.Array


class Info(NamedTuple):
    """What one step saw before it moved, or the mean over a turn's steps: scalars; `metrics` as the loss gives them."""

    loss: jax.Array | None
    """None: another level of the step has it, and the metrics."""
    metrics: dict[str, jax.Array]
    gradient_norm: jax.Array | None
    """None: there is no gradient."""
    cosine: jax.Array | None = None
    """Between the gradient that was followed and the first-order one, where that was asked for."""
    unsound: dict[str, jax.Array] | None = None
    """By collection, int32: which leaf of its gradient is the first that is not finite; −1 where all are."""
    taken: jax.Array | None = None
    """int32, 0 or 1: whether there was a step at all, where levels take turns; None: there was."""


class Algorithm(NamedTuple):
    """`init(variables) → State`; `update(state, batch, key, **extra) → (State, info)`, both pure.

    Keyword arguments of `update` (a learning rate, masks) go to the transforms as optax extra arguments.
    """

    init: Callable[[Variables], State]
    update: Callable[..., tuple[State, Any]]


def same(tree: Any) -> Any:
    """The reduction over one device."""
    return tree


def gradients(loss: Loss, variables: Variables, collections: tuple[str, ...], sample: Sample) -> tuple[Any, Result]:
    """{collection: ∂ loss / ∂ variables[collection]} by one backward pass, and what the loss returned."""

    def of(chosen: Variables) -> Result:
        return loss({**variables, **chosen}, *sample)

    result, found = jax.value_and_grad(of, has_aux=True)({name: variables[name] for name in collections})
    return found, result


def direct_gradient(level: Level, variables: Variables, sample: Sample) -> tuple[Any, Result]:
    """∂ loss / ∂ variables[level.collection], everything else held fixed."""
    found, result = gradients(level.loss, variables, (level.collection,), sample)
    return found[level.collection], result


def move(level: Level, collection: Any, optimizer: Any, gradient: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """One step of the level's transform: (collection, its optimizer state) after it."""
    transform = optax.with_extra_args_support(level.transform)
    step, optimizer = transform.update(gradient, optimizer, collection, **extra)
    return optax.apply_updates(collection, step), optimizer


def first_unsound(gradient: Any) -> jax.Array:
    """int32: the index of the gradient's first leaf with an entry that is not finite; −1 if all are."""
    entries, ends = flat(gradient), np.cumsum([leaf.size for leaf in jax.tree.leaves(gradient)])
    first = jnp.where(jnp.isfinite(entries), entries.size, jnp.arange(entries.size)).min()
    return jnp.where(first < entries.size, (ends <= first).sum(), -1).astype("int32")


def sample_of_step(level: Level, sample: Sample, step: Any) -> Sample:
    """The part of a turn's sample that a step sees; steps beyond the level's own begin again with the first."""
    if level.steps == 1:
        return sample
    at = step % level.steps
    batch = jax.tree.map(lambda x: jnp.asarray(x)[at], sample.batch)
    return Sample(batch, jax.random.split(sample.key, level.steps)[at])
