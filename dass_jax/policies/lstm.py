"""The parts of ENAS' controller (arXiv 1802.03268; the authors' code, as published): an LSTM without biases, and
attention to what was decided before. Vectors are [D]."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

UNITS = 64
"""D."""

Params = Mapping[str, jax.Array]


class Memory(NamedTuple):
    """What an LSTM carries."""

    cell: jax.Array
    hidden: jax.Array


def init(key: jax.Array, operations: int) -> dict[str, jax.Array]:
    """All weights U(−0.1, 0.1): the LSTM's, the first input, an embedding and an output for each operation, and the
    attention's."""
    d = UNITS
    shapes = {
        "lstm": (2 * d, 4 * d),
        "first": (1, d),
        "embedding": (operations, d),
        "operation": (d, operations),
        "attend_before": (d, d),
        "attend_now": (d, d),
        "attend": (d, 1),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(k, shape, minval=-0.1, maxval=0.1)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def begin(params: Params) -> Memory:
    """Zeros."""
    nothing = jnp.zeros(UNITS, params["lstm"].dtype)
    return Memory(nothing, nothing)


def step(params: Params, x: jax.Array, memory: Memory) -> Memory:
    """One step; the gates lie in the order input, forget, output, candidate."""
    i, f, o, g = jnp.split(jnp.concatenate([x, memory.hidden]) @ params["lstm"], 4)
    cell = jax.nn.sigmoid(f) * memory.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return Memory(cell, jax.nn.sigmoid(o) * jnp.tanh(cell))


def attention(params: Params, keys: jax.Array, hidden: jax.Array) -> jax.Array:
    """v·tanh(key + h·W2) for keys [n, D], which are a·W1: [n]."""
    return (jnp.tanh(keys + hidden @ params["attend_now"]) @ params["attend"])[:, 0]
