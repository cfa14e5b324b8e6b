"""Seeds that share the devices out among themselves: each device works for some of them at a time, in rounds.

Any number of seeds keeps all devices at work. Five seeds do not divide over two devices, so each takes its steps in two
parts, and five rounds are all ten:

    device 0:  seed 0, first   seed 2, first   seed 4, first    seed 1, second   seed 3, second
    device 1:  seed 1, first   seed 3, first   seed 0, second   seed 2, second   seed 4, second
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.runtime import parallel

Function = Callable[..., tuple[Any, Any]]
"""(state, …, first, last) → (state, infos): steps first … last − 1, as `loop.epoch` and `loop.several` take them."""


def at_once(seeds: int, devices: int) -> int:
    """Seeds that a device works for at a time: its own, all of them, if they divide over the devices."""
    return seeds // devices if seeds % devices == 0 else 1


def over(function: Function, seeds: int, devices: int, in_axes: tuple[int | None, ...], infos_axis: int) -> Function:
    """`function` for all seeds; inside a mapped function. Each device holds the states of all and ends with them.

    Args:
      function: for `at_once` seeds; where that is one, nothing has an axis for it.
      seeds: at least as many as devices.
      in_axes: of the arguments between the state and the bounds, the axis of the seeds, or None for one without. The
        state's is 0.
      infos_axis: that of the infos.
    """
    own = at_once(seeds, devices)
    groups = seeds // own
    visits = devices // math.gcd(groups, devices)

    def run(state: Any, *arguments: Any) -> tuple[Any, Any]:
        *given, first, last = arguments
        grouped = [_grouped(tree, axis, groups) for tree, axis in zip(given, in_axes, strict=True)]

        begun = _grouped(state, 0, groups)
        one = jax.eval_shape(lambda tree: _entry(tree, 0), begun)

        def next_round(waiting: Any, number: Any) -> tuple[Any, Any]:
            here = parallel.index()
            visit, group = divmod(number * devices + here, groups)
            mine = [tree if axis is None else _entry(tree, group) for tree, axis in zip(grouped, in_axes, strict=True)]
            part = _part(first, last, visit, visits)
            moved, infos = function(_unpacked(_entry(waiting, here), one), *mine, *part)
            moved, infos = parallel.gathered((_packed(moved), infos))
            # A queue: who was served waits behind all others, so that after the last round each is at its place.
            queue = jax.tree.map(lambda old, new: jnp.concatenate([old[devices:], new]), waiting, moved)
            return queue, infos

        numbers = jnp.arange(groups * visits // devices)
        waiting, infos = jax.lax.scan(next_round, jax.vmap(_packed, axis_size=groups)(begun), numbers)
        states = jax.vmap(lambda vectors: _unpacked(vectors, one), axis_size=groups)(waiting)
        # [rounds, devices, …] are [visits, groups, …], and all visits but one have a zero for a step.
        infos = jax.tree.map(lambda x: x.reshape(visits, groups, *x.shape[2:]).sum(0, dtype=x.dtype), infos)
        return _seeds(states, 0, own), _seeds(infos, infos_axis, own)

    return run


def _grouped(tree: Any, axis: int | None, groups: int) -> Any:
    """[…, seeds, …] → [groups, …, seeds of a group, …]; a group of one has no axis for it."""
    if axis is None:
        return tree

    def group(x: Any) -> Any:
        x, own = jnp.asarray(x), x.shape[axis] // groups
        inner = (own,) if own > 1 else ()
        return jnp.moveaxis(x.reshape(*x.shape[:axis], groups, *inner, *x.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(group, tree)


def _seeds(tree: Any, axis: int, own: int) -> Any:
    """The way back from `_grouped`, for groups of `own` seeds."""

    def ungroup(x: jax.Array) -> jax.Array:
        rest = x.shape[1 + axis + (own > 1) :]
        return jnp.moveaxis(x, 0, axis).reshape(*x.shape[1 : 1 + axis], x.shape[0] * own, *rest)

    return jax.tree.map(ungroup, tree)


def _entry(tree: Any, number: Any) -> Any:
    return jax.tree.map(lambda x: x[number], tree)


def _packed(tree: Any) -> dict[str, jax.Array]:
    """All entries in one vector for each dtype: devices wait for each other once for each array that is gathered."""
    vectors: dict[str, list[jax.Array]] = {}
    for leaf in jax.tree.leaves(tree):
        vectors.setdefault(leaf.dtype.name, []).append(leaf.ravel())
    return {name: jnp.concatenate(parts) for name, parts in vectors.items()}


def _unpacked(vectors: dict[str, jax.Array], like: Any) -> Any:
    """The tree that was `_packed`, of the shapes of `like`."""
    taken = dict.fromkeys(vectors, 0)

    def leaf(shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = shape.dtype.name
        begin = taken[name]
        taken[name] += shape.size
        return vectors[name][begin : taken[name]].reshape(shape.shape)

    return jax.tree.map(leaf, like)


def _part(first: Any, last: Any, number: Any, parts: int) -> tuple[Any, Any]:
    """The bounds of part `number` of the steps first … last − 1; with bounds for each epoch, of all their steps."""
    counts = last - first
    before = jnp.cumsum(counts).reshape(jnp.shape(counts)) - counts
    begin, end = (counts.sum() * n // parts for n in (number, number + 1))
    return first + jnp.clip(begin - before, 0, counts), first + jnp.clip(end - before, 0, counts)
