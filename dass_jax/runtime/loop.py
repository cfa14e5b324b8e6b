"""Whole epochs as one compiled program: a loop over steps, with the data set on the device.

Which steps, which examples, which learning rate and which masks are data, so one program serves every epoch of a stage
and every stage of equal structure.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax.bilevel import State
from dass_jax.runtime import parallel
from dass_jax.variables import Variables


class Examples(NamedTuple):
    """A data set on the device: images uint8 [N, H, W, C], labels int32 [N]."""

    images: Any
    labels: Any


Prepare = Callable[[Examples, jax.Array, jax.Array, jax.Array], Any]
"""(examples, indices [B], key, drop_path) → this device's part of the batch."""


def epoch(update: Callable[..., Any], prepare: Prepare, skip: bool = False) -> Callable[..., tuple[State, Any]]:
    """The function of one epoch, or of some of its steps: which ones is data, so that one program serves any part.

    A step whose figures are not all finite leaves the state as it was; so do all that come after it in the same call,
    unless `skip`. What is handed back is then the state before it.

    Args:
      update: of an algorithm: (state, batch or batches, key, learning_rate=…) → (state, info).
      prepare: makes one batch.
      skip: go on after a step that is not finite.

    Returns:
      (state, examples, indices, key, learning_rate, drop_path, first, last, begin) → (state, infos), where indices are
      int32 [steps, B], or [steps, levels, B] for an update that takes one batch for each level, and infos have a
      leading axis over all steps, with zeros for those before step `first` and from step `last` on. If the indices are
      only a part of an epoch, `begin` is the number in it of their first step.
    """

    def run(
        state: State,
        examples: Examples,
        indices: Any,
        key: Any,
        learning_rate: Any,
        drop_path: Any,
        first: Any,
        last: Any,
        begin: Any = 0,
    ) -> Any:
        # jit, so that what is traced for the shapes of the infos is not traced again for the loop.
        @jax.jit
        def step(state: State, number: Any) -> Any:
            rows = indices[number]
            draw, inner = jax.random.split(jax.random.fold_in(key, begin + number))
            if rows.ndim == 1:
                batch = prepare(examples, rows, draw, drop_path)
            else:
                keys = jax.random.split(draw, rows.shape[0])
                batch = [prepare(examples, row, k, drop_path) for row, k in zip(rows, keys, strict=True)]
            return update(state, batch, inner, learning_rate=learning_rate)

        def careful(carry: tuple[State, Any], number: Any) -> tuple[tuple[State, Any], Any]:
            state, going = carry
            moved, info = step(state, number)
            good = going & sound(info)
            # `jnp.where` would be a call for each leaf, of its own kernel (`compilation.copy_calls_late`).
            state = jax.tree.map(lambda new, old: new if new is old else jax.lax.select(good, new, old), moved, state)
            return (state, going if skip else good), info

        (state, _), infos = _some(careful, (state, jnp.array(True)), len(indices), first, last)
        return state, infos

    return run


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


def several(epoch: Callable[..., Any], skip: bool = False) -> Callable[..., tuple[State, Any]]:
    """The function of several whole epochs: as `epoch`, with a leading axis over epochs for all but state and examples.

    After an epoch with figures that are not finite none of the others takes place, unless `skip`.
    """

    def run(state: State, examples: Examples, *inputs: Any) -> Any:
        def one(carry: tuple[State, Any], own: Any) -> Any:
            state, going = carry
            *given, first, last = own
            state, infos = epoch(state, examples, *given, first, jnp.where(going, last, first), jnp.int32(0))
            return (state, going if skip else going & sound(infos)), infos

        (state, _), infos = jax.lax.scan(one, (state, jnp.array(True)), inputs)
        return state, infos

    return run


def bounds(first: int, last: int, epochs: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Which steps of each of several epochs, int32 [epochs], are first … last − 1 of all their steps."""
    begins = np.arange(epochs) * steps
    own_first, own_last = (np.clip(n - begins, 0, steps).astype(np.int32) for n in (first, last))
    return own_first, own_last


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`: calls of that many epochs are of one shape."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)


def evaluation(
    logits: Callable[[Variables, jax.Array], jax.Array],
    prepare: Callable[..., Any],
    total: Callable[[Any], Any] = parallel.total,
) -> Callable[..., Any]:
    """The function that evaluates a split, or some of its batches.

    Args:
      logits: (variables, images [C, H, W, B]) → [B, classes].
      prepare: (examples, indices [B]) → this device's (images, labels).
      total: sums over the devices that share a batch.

    Returns:
      (variables, examples, indices [steps, B], counted [steps, B], first, last) → for each step, [steps], sums over its
      counted examples of {"loss", "correct", "images"}: zeros for the steps before `first` and from `last` on.
      Rows that only fill the last batch have counted = 0.
    """

    def run(variables: Variables, examples: Examples, indices: Any, counted: Any, first: Any, last: Any) -> Any:
        def step(nothing: Any, number: Any) -> Any:
            images, labels, weight = prepare(examples, indices[number], counted[number])
            output = logits(variables, images)
            loss = optax.softmax_cross_entropy_with_integer_labels(output, labels)
            right = (output.argmax(-1) == labels).astype(output.dtype)
            found = {"loss": (loss * weight).sum(), "correct": (right * weight).sum(), "images": weight.sum()}
            return nothing, total(found)

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


def cosine(initial: float, final: float, epochs: int) -> Callable[[int], float]:
    """Learning rate of epoch 0, 1, …: `initial`, falling along a half cosine towards `final` at `epochs`."""
    return lambda epoch: final + (initial - final) * 0.5 * (1 + float(np.cos(np.pi * epoch / epochs)))
