"""Whole epochs as one compiled program: a scan over steps, with the data set on the device.

Which examples, which learning rate and which masks are data, so one program serves every epoch of a stage and every
stage of equal structure.
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


def steps(update: Callable[..., Any], prepare: Prepare) -> Callable[..., tuple[State, Any]]:
    """The function of some steps of an epoch, one after another.

    Args:
      update: of an algorithm: (state, batch or batches, key, learning_rate=…) → (state, info).
      prepare: makes one batch.

    Returns:
      (state, examples, indices, key, learning_rate, drop_path, first) → (state, info of each step), where indices are
      int32 [steps, B], or [steps, levels, B] for an update that takes one batch for each level, and first is the number
      of the first step in its epoch.
    """

    def run(
        state: State, examples: Examples, indices: Any, key: Any, learning_rate: Any, drop_path: Any, first: Any
    ) -> Any:
        def step(state: State, inputs: Any) -> Any:
            rows, number = inputs
            draw, inner = jax.random.split(jax.random.fold_in(key, number))
            if rows.ndim == 1:
                batch = prepare(examples, rows, draw, drop_path)
            else:
                keys = jax.random.split(draw, rows.shape[0])
                batch = [prepare(examples, row, k, drop_path) for row, k in zip(rows, keys, strict=True)]
            return update(state, batch, inner, learning_rate=learning_rate)

        return jax.lax.scan(step, state, (indices, first + jnp.arange(indices.shape[0])))

    return run


def epoch(update: Callable[..., Any], prepare: Prepare) -> Callable[..., tuple[State, Any]]:
    """The function of one epoch: all of its `steps`, without `first`, and the mean of their infos."""
    all_steps = steps(update, prepare)

    def run(state: State, examples: Examples, indices: Any, key: Any, learning_rate: Any, drop_path: Any) -> Any:
        state, infos = all_steps(state, examples, indices, key, learning_rate, drop_path, 0)
        return state, jax.tree.map(lambda x: x.mean(0), infos)

    return run


def several(epoch: Callable[..., Any]) -> Callable[..., tuple[State, Any]]:
    """The function of several epochs: as `epoch`, with a leading axis over epochs for all but state and examples."""

    def run(state: State, examples: Examples, indices: Any, keys: Any, learning_rates: Any, drop_paths: Any) -> Any:
        def one(state: State, inputs: Any) -> Any:
            return epoch(state, examples, *inputs)

        return jax.lax.scan(one, state, (indices, keys, learning_rates, drop_paths))

    return run


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`: calls of that many epochs are of one shape."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)


def evaluation(logits: Callable[[Variables, jax.Array], jax.Array], prepare: Callable[..., Any]) -> Callable[..., Any]:
    """The function that evaluates a whole split.

    Args:
      logits: (variables, images [C, H, W, B]) → [B, classes].
      prepare: (examples, indices [B]) → this device's (images, labels).

    Returns:
      (variables, examples, indices [steps, B], counted [steps, B]) → sums over the counted examples of
      {"loss", "correct", "images"}; rows that only fill the last batch have counted = 0.
    """

    def run(variables: Variables, examples: Examples, indices: Any, counted: Any) -> Any:
        def step(sums: Any, inputs: Any) -> Any:
            rows, weight = inputs
            images, labels, weight = prepare(examples, rows, weight)
            output = logits(variables, images)
            loss = optax.softmax_cross_entropy_with_integer_labels(output, labels)
            right = (output.argmax(-1) == labels).astype(output.dtype)
            found = {"loss": (loss * weight).sum(), "correct": (right * weight).sum(), "images": weight.sum()}
            return jax.tree.map(jnp.add, sums, parallel.total(found)), None

        zero = {name: jnp.zeros(()) for name in ("loss", "correct", "images")}
        return jax.lax.scan(step, zero, (indices, counted))[0]

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
