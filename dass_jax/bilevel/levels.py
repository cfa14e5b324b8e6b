"""A bi-level problem over named collections, solved by turns.

    min_u F(u, v*(u))   such that   v*(u) = argmin_v f(u, v)

`descend(level)` is one optax step on one collection. `alternate(upper, lower)` is one turn of each; at first order the
upper gradient is the direct term ∂F/∂u at the present v (DARTS, arXiv 1806.09055, Eq. 7 with ξ = 0). DASS
(arXiv 2207.06968) Algorithm 1 is `alternate` with u = α and v = θ (Step 1) or v = s (Step 2); its Step 3 is `descend`.

Only a level's own collection and what its loss hands back in `updates` (running statistics) are ever replaced:
everything else leaves an update as the very same arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from dass_jax.variables import Variables

Loss = Callable[[Variables, Any, jax.Array], tuple[jax.Array, tuple[dict[str, jax.Array], Variables]]]
"""(variables, batch, key) → (loss, (metrics, updates)); `updates` replaces whole collections, e.g. batch_stats."""

Gradient = Callable[["Level", Variables, Any, jax.Array], tuple[Any, tuple[jax.Array, Any]]]
"""(level, variables, batch, key) → (gradient of the level's collection, (loss, (metrics, updates)))."""


class Level(NamedTuple):
    """One level: the collection that it trains, by which loss and by which transform."""

    collection: str
    loss: Loss
    transform: optax.GradientTransformation


class Info(NamedTuple):
    """What one step saw, before it moved: scalars; `metrics` as the loss returned them."""

    loss: jax.Array
    metrics: dict[str, jax.Array]
    gradient_norm: jax.Array


class Descent(NamedTuple):
    """`init(variables) → state`; `update(variables, state, batch, key, **extra) → (variables, state, info)`."""

    init: Callable[[Variables], Any]
    update: Callable[..., tuple[Variables, Any, Info]]


class AlternationState(NamedTuple):
    """Optimizer states of both levels."""

    upper: Any
    lower: Any


class AlternationInfo(NamedTuple):
    """What both levels saw in one turn."""

    upper: Info
    lower: Info


class Alternation(NamedTuple):
    """`update(variables, state, (upper_batch, lower_batch), key, **extra) → (variables, state, AlternationInfo)`."""

    init: Callable[[Variables], AlternationState]
    update: Callable[..., tuple[Variables, AlternationState, AlternationInfo]]


def direct_gradient(level: Level, variables: Variables, batch: Any, key: jax.Array) -> tuple[Any, Any]:
    """∂ loss / ∂ variables[collection], everything else held fixed."""

    def loss(collection: Any) -> Any:
        return level.loss({**variables, level.collection: collection}, batch, key)

    result, gradient = jax.value_and_grad(loss, has_aux=True)(variables[level.collection])
    return gradient, result


def descend(
    level: Level, reduce: Callable[[Any], Any] = lambda tree: tree, gradient: Gradient = direct_gradient
) -> Descent:
    """One step of `level.transform` on `level.collection`.

    Args:
      reduce: applied to gradient, loss and metrics; on several devices the mean over them.
      gradient: how the gradient is found.

    Keyword arguments of `update` (a learning rate, masks) go to the transform as optax extra arguments.
    """
    transform = optax.with_extra_args_support(level.transform)

    def init(variables: Variables) -> Any:
        return transform.init(variables[level.collection])

    def update(variables: Variables, state: Any, batch: Any, key: jax.Array, **extra: Any) -> Any:
        found, (loss, (metrics, updates)) = gradient(level, variables, batch, key)
        found, loss, metrics = reduce((found, loss, metrics))
        step, state = transform.update(found, state, variables[level.collection], **extra)
        moved = optax.apply_updates(variables[level.collection], step)
        info = Info(loss, metrics, optax.tree.norm(found))
        return {**variables, **updates, level.collection: moved}, state, info

    return Descent(init, update)


def alternate(
    upper: Level,
    lower: Level,
    order: str = "upper_first",
    reduce: Callable[[Any], Any] = lambda tree: tree,
) -> Alternation:
    """One turn of each level; each sees what the other has just done.

    Args:
      order: "upper_first" (the code of DARTS and DASS) or "lower_first" (as DASS Algorithm 1 is printed).
      reduce: see `descend`.

    Raises:
      ValueError: on any other order, or if both levels train one collection.
    """
    if order not in ("upper_first", "lower_first"):
        raise ValueError(f"order = {order!r}; allowed: 'upper_first', 'lower_first'")
    if upper.collection == lower.collection:
        raise ValueError(f"both levels train {upper.collection!r}; allowed: two different collections")
    levels = {"upper": descend(upper, reduce), "lower": descend(lower, reduce)}
    turns = ("upper", "lower") if order == "upper_first" else ("lower", "upper")

    def init(variables: Variables) -> AlternationState:
        return AlternationState(**{name: level.init(variables) for name, level in levels.items()})

    def update(variables: Variables, state: AlternationState, batches: Any, key: jax.Array, **extra: Any) -> Any:
        batch = dict(zip(("upper", "lower"), batches, strict=True))
        keys = dict(zip(("upper", "lower"), jax.random.split(key), strict=True))
        states, infos = state._asdict(), {}
        for turn in turns:
            variables, states[turn], infos[turn] = levels[turn].update(
                variables, states[turn], batch[turn], keys[turn], **extra
            )
        return variables, AlternationState(**states), AlternationInfo(**infos)

    return Alternation(init, update)
