"""Whole epochs as one compiled program: a loop over steps, with the data set on the device.

Which steps, which examples, which numbers (learning rates, drop-path) and which masks are data, so one program serves
every epoch of a phase and every phase of equal structure. Everything here is of one seed.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.bilevel import State
from dass_jax.bilevel.by_turns import TURN
from dass_jax.runtime import parallel
from dass_jax.variables import RATES, Variables


class Examples(NamedTuple):
    """A data set on the device: images uint8 [N, H, W, C], targets [N, …]; mean and deviation [C] of its pixels, on the
    scale 0 … 1. These are data, as every split has its own, and one program serves all seeds."""

    images: Any
    targets: Any
    mean: Any = None
    std: Any = None


Prepare = Callable[[Examples, jax.Array, jax.Array, Mapping[str, Any]], Any]
"""(examples, rows [B], key, the step's rates) → this device's part of the batch."""


def epoch(
    update: Callable[..., Any], prepares: Mapping[str, Prepare | None], skip: bool = False, by_turns: bool = False
) -> Callable[..., tuple[State, Any]]:
    """The function of one epoch, or of some of its steps: which ones is data, so that one program serves any part.

    A step whose figures are not all finite leaves the state as it was; so do all that come after it in the same call,
    unless `skip`. What is handed back is then the state before it.

    Args:
      update: of a phase's algorithm: (state, {level: batch}, key, learning_rate=…) → (state, {level: Info}).
      prepares: level → what makes one of its batches; None for a level without one.
      skip: go on after a step that is not finite.
      by_turns: a step is of one level, whose number is the rate "turn": the batches of the others are zeros.

    Returns:
      (state, examples, indices, key, rates, first, last, begin) → (state, infos). indices are {level: int32 [steps, B],
      or [steps, batches, B] for a level that sees several in a step}; rates are a tree of float32 [steps], of at least
      one leaf; infos have a leading axis over all steps, with zeros for those before step `first` and from step `last`
      on. If the indices are only a part of an epoch, `begin` is the number in it of their first step.
    """

    def batches(examples: Examples, rows: Mapping[str, jax.Array], draw: jax.Array, rates: Any) -> dict[str, Any]:
        keys = [draw] if len(prepares) == 1 else list(jax.random.split(draw, len(prepares)))
        found: dict[str, Any] = {}
        for number, ((level, prepare), key) in enumerate(zip(prepares.items(), keys, strict=True)):
            if prepare is None:
                found[level] = None
                continue
            make = functools.partial(_prepared, prepare, examples, rows[level], key, rates)
            if by_turns:
                nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make))
                found[level] = jax.lax.cond(rates[TURN] == number, make, lambda nothing=nothing: nothing)
            else:
                found[level] = make()
        return found

    def run(
        state: State,
        examples: Examples,
        indices: Mapping[str, Any],
        key: Any,
        rates: Any,
        first: Any,
        last: Any,
        begin: Any = 0,
    ) -> Any:
        # jit, so that what is traced for the shapes of the infos is not traced again for the loop.
        @jax.jit
        def step(state: State, number: Any) -> Any:
            now = jax.tree.map(lambda rate: rate[number], rates)
            rows = {level: indices[level][number] for level, prepare in prepares.items() if prepare is not None}
            draw, inner = jax.random.split(jax.random.fold_in(key, begin + number))
            extra = {name: now[name] for name in ("learning_rate",) if name in now}
            seeing = state._replace(variables={**state.variables, RATES: now})
            moved, info = update(seeing, batches(examples, rows, draw, now), inner, **extra)
            kept = {name: value for name, value in moved.variables.items() if name != RATES}
            return moved._replace(variables=kept), info

        def careful(carry: tuple[State, Any], number: Any) -> tuple[tuple[State, Any], Any]:
            state, going = carry
            moved, info = step(state, number)
            good = going & sound(info)
            # `jnp.where` would be a call for each leaf, of its own kernel (`compilation.copy_calls_late`).
            state = jax.tree.map(lambda new, old: new if new is old else jax.lax.select(good, new, old), moved, state)
            return (state, going if skip else good), info

        (state, _), infos = _some(careful, (state, jnp.array(True)), len(jax.tree.leaves(rates)[0]), first, last)
        return state, infos

    return run


def _prepared(prepare: Prepare, examples: Examples, rows: jax.Array, key: jax.Array, rates: Any) -> Any:
    """A level's batch of one step, or the stack of its several batches."""
    if rows.ndim == 1:
        return prepare(examples, rows, key, rates)
    own = zip(rows, jax.random.split(key, len(rows)), strict=True)
    parts = [prepare(examples, row, each, rates) for row, each in own]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def sound(info: Any) -> jax.Array:
    """Whether all floating-point figures of one step are finite."""
    figures = [x for x in jax.tree.leaves(info) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in figures]).all()


def _some(step: Callable[..., Any], carry: Any, steps: int, first: Any, last: Any) -> tuple[Any, Any]:
    """As `jax.lax.scan` of `step` over the numbers 0 … steps − 1, of which only first … last − 1 take place."""
    shapes = jax.eval_shape(step, carry, first)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), shapes)

    def one(number: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, seen = inputs
        carry, info = step(carry, number)
        return carry, jax.tree.map(lambda all_of_it, own: all_of_it.at[number].set(own), seen, info)

    return jax.lax.fori_loop(first, last, one, (carry, nothing))


def evaluation(
    outputs: Callable[[Variables, jax.Array], jax.Array],
    sums: Callable[..., dict[str, jax.Array]],
    prepare: Callable[..., Any],
    total: Callable[[Any], Any] = parallel.total,
) -> Callable[..., Any]:
    """The function that evaluates a split, or some of its batches.

    Args:
      outputs: (variables, images [C, H, W, B]) → [B, O].
      sums: (outputs, targets, counted) → sums over the counted examples, as a task offers it.
      prepare: (examples, rows [B], counted [B]) → this device's (images, targets, counted).
      total: sums over the devices that share a batch.

    Returns:
      (variables, examples, indices [steps, B], counted [steps, B], first, last) → the sums of each step, [steps]: zeros
      for the steps before `first` and from `last` on. Rows that only fill the last batch have counted = 0.
    """

    def run(variables: Variables, examples: Examples, indices: Any, counted: Any, first: Any, last: Any) -> Any:
        def step(nothing: Any, number: Any) -> Any:
            images, targets, weight = prepare(examples, indices[number], counted[number])
            return nothing, total(sums(outputs(variables, images), targets, weight))

        return _some(step, (), len(indices), first, last)[1]

    return run


def shuffled(indices: np.ndarray, batch_size: int, seed: tuple[int, ...]) -> np.ndarray:
    """A permutation of `indices` as int32 [steps, batch_size]; the remainder is left out of this epoch."""
    order = np.random.default_rng(seed).permutation(indices)
    steps = len(order) // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def in_order(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices int32 [steps, batch_size] over 0 … size − 1 and float32 weights: 0 for rows that only fill up."""
    steps = -(-size // batch_size)
    rows = np.arange(steps * batch_size)
    counted = (rows < size).astype(np.float32)
    return (rows % size).astype(np.int32).reshape(steps, -1), counted.reshape(steps, -1)


class Plan(NamedTuple):
    """How the examples of an epoch are parted, for those that do not lie on the devices: into parts of a few steps, and
    each part into the slices of the devices. A part is a small data set of its own, into which its indices point."""

    places: np.ndarray
    """int64 [parts, devices, images]: where in the flat indices each image of a part is named."""
    indices: np.ndarray
    """int32 [seeds, steps of a part, batches, B]: where its images lie on their device. The slice of the global batch
    that a device takes names images of its own, so these are the same on all devices and for all parts."""


def parted(shape: tuple[int, ...], steps: int, devices: int) -> Plan:
    """Parts of `steps` steps, a divisor of the epoch's, of indices [seeds, steps, batches, B]; B divides over the
    devices."""
    seeds, total, batches, batch = shape
    own = batch // devices
    whole = np.arange(np.prod(shape)).reshape(seeds, total // steps, steps, batches, devices, own)
    places = whole.transpose(1, 4, 0, 2, 3, 5).reshape(total // steps, devices, -1)
    there = np.arange(places.shape[-1], dtype=np.int32).reshape(seeds, steps, batches, own)
    return Plan(places, np.tile(there, (1, 1, 1, devices)))
