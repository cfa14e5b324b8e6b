"""Levels composed into algorithms: `descend`, `alternate`, `in_turn`, `joint`.

DASS (arXiv 2207.06968) Algorithm 1 is `alternate` with α above and θ (Step 1) or s (Step 2) below; its Step 3 is
`descend`; its un-split problem (Eq. 5) is `in_turn` of α, θ and s. Single-level search is `joint`.

Every `update` returns `(state, {level: Info})`. Only the levels' own collections, what their losses hand back in
`updates` (running statistics) and what they project are ever replaced: everything else leaves an update as the very
same arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dass_jax.bilevel.hypergradients.first_order import first_order
from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.levels import (
    Algorithm,
    Info,
    Level,
    Reduce,
    Sample,
    State,
    direct_gradient,
    first_unsound,
    gradients,
    move,
    same,
    sample_of_step,
)
from dass_jax.bilevel.norms import norm
from dass_jax.variables import Variables

Gradient = Callable[[Level, Variables, Sample], tuple[Any, Any]]
"""(level, variables, sample) → (gradient of the level's collection, what the loss returned)."""


class Through(NamedTuple):
    """Says that a level's gradient is the hypergradient through the answer of the level called `lower`."""

    lower: str
    hypergradient: Hypergradient


def descend(level: Level, reduce: Reduce = same, gradient: Gradient = direct_gradient) -> Algorithm:
    """One turn of one level: `update(state, batch, key, **extra) → (state, {collection: Info})`.

    Args:
      reduce: applied to gradients, loss and metrics; on several devices the mean over them.
      gradient: how the gradient is found.
    """
    _check_levels({level.collection: level})

    def update(state: State, batch: Any, key: jax.Array, **extra: Any) -> tuple[State, dict[str, Info]]:
        def found(state: State, sample: Sample) -> tuple[Any, Any]:
            return gradient(level, state.variables, sample)

        state, info = _turn(level, found, state, Sample(batch, key), reduce, extra, cosine=False)
        return state, {level.collection: info}

    return Algorithm(lambda variables: _begin([level], variables), update)


def alternate(
    upper: Level,
    lower: Level,
    hypergradient: Hypergradient | None = None,
    order: str = "upper_first",
    reduce: Reduce = same,
    cosine: bool = False,
) -> Algorithm:
    """One turn of each of two levels, which are called "upper" and "lower": see `in_turn`.

    Args:
      hypergradient: estimates dF/du for the upper level; None is `first_order()`.
      order: "upper_first" (the code of DARTS and DASS) or "lower_first" (as DASS Algorithm 1 is printed). Each level
        sees what the other has just done.
      reduce: see `descend`.
      cosine: also report the cosine between the upper level's gradient and its first-order part. One more gradient.

    Raises:
      ValueError: on any other order, or if both levels train one collection.
    """
    if order not in ("upper_first", "lower_first"):
        raise ValueError(f"order = {order!r}; allowed: 'upper_first', 'lower_first'")
    return in_turn(
        {"upper": upper, "lower": lower},
        {"upper": Through("lower", hypergradient or first_order())},
        order=("upper", "lower") if order == "upper_first" else ("lower", "upper"),
        reduce=reduce,
        cosine=cosine,
    )


def in_turn(
    levels: Mapping[str, Level],
    through: Mapping[str, Through] | None = None,
    order: Sequence[str] = (),
    reduce: Reduce = same,
    cosine: bool = False,
) -> Algorithm:
    """One turn of each of any number of levels: `update(state, {name: batch}, key, **extra) → (state, {name: Info})`.

    Args:
      levels: by a name of the caller's choice. A level draws from its own key, whatever the order.
      through: which of them follow a hypergradient, and through which other level; the rest follow the gradient of
        their own loss with all other collections held fixed.
      order: the names in the order of their turns; empty: as in `levels`.
      reduce: see `descend`.
      cosine: see `alternate`; for every level in `through`.

    Raises:
      ValueError: if two levels train one collection, or a name in `through` or `order` is not a level's.
    """
    through, order = dict(through or {}), tuple(order) or tuple(levels)
    _check_levels(levels)
    if sorted(order) != sorted(levels):
        raise ValueError(f"order = {order!r}; allowed: each of {sorted(levels)} once")
    for name, (lower, _) in through.items():
        if name not in levels or lower not in levels or name == lower:
            raise ValueError(f"through[{name!r}] leads to {lower!r}; allowed: two different names of {sorted(levels)}")

    def gradient_of(name: str, samples: Mapping[str, Sample], extra: dict[str, Any]) -> Callable[..., Any]:
        def direct(state: State, sample: Sample) -> tuple[Any, Any]:
            return direct_gradient(levels[name], state.variables, sample)

        def hyper(state: State, sample: Sample) -> tuple[Any, Any]:
            below = levels[through[name].lower]
            optimizer = state.optimizers[below.collection]
            point = Point(state.variables, optimizer, sample, samples[through[name].lower], extra)
            return through[name].hypergradient(levels[name], below, point, reduce)

        return hyper if name in through else direct

    def update(state: State, batches: Mapping[str, Any], key: jax.Array, **extra: Any) -> tuple[State, dict[str, Info]]:
        keys = jax.random.split(key, len(levels))
        samples = {name: Sample(batches[name], k) for name, k in zip(levels, keys, strict=True)}
        infos = {}
        for name in order:
            found = gradient_of(name, samples, extra)
            compare = cosine and name in through
            state, infos[name] = _turn(levels[name], found, state, samples[name], reduce, extra, compare)
        return state, infos

    return Algorithm(lambda variables: _begin(levels.values(), variables), update)


def joint(levels: Mapping[str, Level], reduce: Reduce = same) -> Algorithm:
    """One step of several levels on one batch, by one backward pass: `update(state, batch, key, **extra) → (state,
    {name: Info})`. All levels saw the same loss and metrics, which the first one's info has, and each its own gradient.

    This is single-level search: the levels share the loss and differ in collection and transform.

    Raises:
      ValueError: if the levels' losses are not one and the same function, two train one collection, or one has more
        than one step in a turn.
    """
    _check_levels(levels)
    losses = [level.loss for level in levels.values()]
    if any(loss is not losses[0] for loss in losses):
        raise ValueError(f"the levels {tuple(levels)} have different losses; allowed: one function, which all share")
    if any(level.steps != 1 for level in levels.values()):
        steps = [level.steps for level in levels.values()]
        raise ValueError(f"steps = {steps} in a joint update; allowed: 1 for each level")
    collections = tuple(level.collection for level in levels.values())

    def update(state: State, batch: Any, key: jax.Array, **extra: Any) -> tuple[State, dict[str, Info]]:
        found, (loss, (metrics, updates)) = gradients(losses[0], state.variables, collections, Sample(batch, key))
        found, loss, metrics = reduce((found, loss, metrics))
        variables, optimizers = {**state.variables, **updates}, dict(state.optimizers)
        infos: dict[str, Info] = {}
        for name, level in levels.items():
            own, gradient = level.collection, found[level.collection]
            variables[own], optimizers[own] = move(level, state.variables[own], optimizers[own], gradient, extra)
            seen = Info(loss, metrics, norm(gradient), None, {own: first_unsound(gradient)})
            infos[name] = seen._replace(loss=None, metrics={}) if infos else seen
        after = State(variables, optimizers)
        for level in levels.values():
            after = after if level.project is None else level.project(after)
        return after, infos

    return Algorithm(lambda variables: _begin(levels.values(), variables), update)


def _begin(levels: Any, variables: Variables) -> State:
    return State(
        dict(variables), {level.collection: level.transform.init(variables[level.collection]) for level in levels}
    )


def _check_levels(levels: Mapping[str, Level]) -> None:
    trained_by: dict[str, str] = {}
    for name, level in levels.items():
        other = trained_by.setdefault(level.collection, name)
        if other != name:
            raise ValueError(
                f"{other!r} and {name!r} both train {level.collection!r}; allowed: a collection of its own for each"
            )
        if level.steps < 1:
            raise ValueError(f"{name!r} has steps = {level.steps}; allowed: at least 1")


def _turn(
    level: Level,
    gradient: Callable[[State, Sample], tuple[Any, Any]],
    state: State,
    sample: Sample,
    reduce: Reduce,
    extra: dict[str, Any],
    cosine: bool,
) -> tuple[State, Info]:
    """The steps of one level's turn."""
    name = level.collection

    def step(state: State, number: Any) -> tuple[State, Info]:
        now = sample_of_step(level, sample, number)
        found, (loss, (metrics, updates)) = gradient(state, now)
        found, loss, metrics = reduce((found, loss, metrics))
        similar = _cosine(found, reduce(direct_gradient(level, state.variables, now)[0])) if cosine else None
        moved, optimizer = move(level, state.variables[name], state.optimizers[name], found, extra)
        info = Info(loss, metrics, norm(found), similar, {name: first_unsound(found)})
        after = State({**state.variables, **updates, name: moved}, {**state.optimizers, name: optimizer})
        return after if level.project is None else level.project(after), info

    if level.steps == 1:
        return step(state, 0)
    # What no step replaces stays outside of the loop: it leaves as the very same arrays.
    moving: list[str] = []

    def replaced(state: State) -> None:
        after = step(state, 0)[0].variables
        moving.extend(part for part in after if after[part] is not state.variables[part])

    jax.eval_shape(replaced, state)

    def next_step(carry: tuple[Variables, Any], number: Any) -> tuple[tuple[Variables, Any], Info]:
        now = State({**state.variables, **carry[0]}, {**state.optimizers, name: carry[1]})
        after, info = step(now, number)
        return ({part: after.variables[part] for part in moving}, after.optimizers[name]), info

    first = {part: state.variables[part] for part in moving}, state.optimizers[name]
    (moved, optimizer), infos = jax.lax.scan(next_step, first, jnp.arange(level.steps))
    after = State({**state.variables, **moved}, {**state.optimizers, name: optimizer})
    # Of the leaves that are not finite in some step any will do; all other figures are averaged.
    unsound = jax.tree.map(lambda x: x.max(0), infos.unsound)
    means = jax.tree.map(lambda x: x.mean(0), infos._replace(unsound=None))
    return after, means._replace(unsound=unsound)


def _cosine(one: Any, other: Any) -> jax.Array:
    """⟨one, other⟩ / (|one|·|other|); 0 where one of them is zero."""
    return optax.tree.vdot(_unit(one), _unit(other))


def _unit(tree: Any) -> Any:
    length = norm(tree)
    return optax.tree.scale(1 / jnp.where(length > 0, length, 1), tree)
