"""ENAS' controller of cells (arXiv 1802.03268 Section 2.4; the authors' code, as published).

One LSTM decides the normal cell and then the reduction cell, with the same weights and from the state that the first
has left. For each block two inputs, logits 1.1·tanh(v·tanh(key_j + h·W2)) over the nodes so far, and two operations,
logits 0.44·tanh(h·S + b), to which the normal cell adds ±0.25 in favour of separable convolutions. b is trained; it
begins at 10 for these, where the tanh is flat: their logits hardly move.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.policies import lstm
from dass_jax.policies.policy import Decide, Policy, Score, as_given, drawn, entropy, nats

CELLS = ("normal", "reduce")
INPUTS, OPERATIONS = "{}_inputs", "{}_operations"
"""Of a cell: int32 [2·blocks] each, for the two edges of each block."""
INDEX_SCALE, SCALE = 1.10, 0.44
FAVOURED = 2
"""The first operations, the separable convolutions."""
FIRST_BIAS, FIXED_BIAS = 10.0, 0.25
NEVER = -1e30
"""The logit of a node that is not there yet."""


def policy(blocks: int, operations: int) -> Policy:
    """Over both cells, of so many blocks."""

    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {
            **lstm.init(key, operations),
            "bias": FIRST_BIAS * (jnp.arange(operations) < FAVOURED).astype("float32"),
        }

    nothing = {part.format(cell): np.zeros(2 * blocks, np.int32) for cell in CELLS for part in (INPUTS, OPERATIONS)}
    return Policy(
        init=init,
        sample=lambda params, key: _walk(params, drawn(key), nothing)[0],
        score=lambda params, choice: _walk(params, as_given, choice)[1],
    )


class Nodes(NamedTuple):
    """What the LSTM said of the nodes so far, zeros for the rest: [nodes, D] each."""

    anchors: jax.Array
    keys: jax.Array


class Found(NamedTuple):
    """Of a block: two decisions each, and their costs and entropies."""

    inputs: jax.Array
    operations: jax.Array
    costs: jax.Array
    entropies: jax.Array


def _walk(params: Any, decide: Decide, given: Any) -> tuple[dict[str, jax.Array], Score]:
    """A loop over the cells, in which there is one over their blocks. The decisions of a block are input, input,
    operation, operation."""
    blocks = len(given[INPUTS.format(CELLS[0])]) // 2
    first = params["first"][0]
    favoured = jnp.where(jnp.arange(len(params["bias"])) < FAVOURED, 1.0, -1.0).astype(first.dtype)

    def of_block(carry: tuple[lstm.Memory, Nodes], now: Any) -> Any:
        (memory, nodes), (number, block, fixed, inputs, operations) = carry, now
        there = jnp.arange(blocks + 2) < block + 2
        x, taken, seen = first, [], []

        def settle(place: int, wanted: jax.Array, logits: jax.Array) -> jax.Array:
            taken.append(decide(4 * number + place, wanted, logits))
            seen.append((nats(logits, taken[-1]), entropy(logits)))
            return taken[-1]

        for edge in range(2):
            memory = lstm.step(params, x, memory)
            logits = INDEX_SCALE * jnp.tanh(lstm.attention(params, nodes.keys, memory.hidden))
            x = nodes.anchors[settle(edge, inputs[edge], jnp.where(there, logits, NEVER))]
        for edge in range(2):
            memory = lstm.step(params, x, memory)
            logits = SCALE * jnp.tanh(memory.hidden @ params["operation"] + params["bias"]) + fixed
            x = params["embedding"][settle(2 + edge, operations[edge], logits)]
        memory = lstm.step(params, x, memory)
        own = memory.hidden, memory.hidden @ params["attend_before"]
        nodes = Nodes(*(kept.at[block + 2].set(new) for kept, new in zip(nodes, own, strict=True)))
        costs, entropies = (jnp.stack(column) for column in zip(*seen, strict=True))
        return (memory, nodes), Found(jnp.stack(taken[:2]), jnp.stack(taken[2:]), costs, entropies)

    def of_cell(memory: lstm.Memory, now: Any) -> Any:
        cell, fixed, inputs, operations = now
        nothing = jnp.zeros((blocks + 2, lstm.UNITS), first.dtype)
        nodes = Nodes(nothing, nothing)
        for node in range(2):
            memory = lstm.step(params, first, memory)
            nodes = nodes._replace(keys=nodes.keys.at[node].set(memory.hidden @ params["attend_before"]))
        each = jnp.arange(blocks)
        xs = cell * blocks + each, each, jnp.broadcast_to(fixed, (blocks, len(fixed))), inputs, operations
        (memory, _), found = jax.lax.scan(of_block, (memory, nodes), xs)
        return memory, found

    wanted = (jnp.stack([given[part.format(cell)].reshape(-1, 2) for cell in CELLS]) for part in (INPUTS, OPERATIONS))
    fixed = jnp.stack([FIXED_BIAS * favoured, jnp.zeros_like(favoured)])
    _, found = jax.lax.scan(of_cell, lstm.begin(params), (jnp.arange(2), fixed, *wanted))
    choice = {
        part.format(cell): each[place].reshape(-1)
        for place, cell in enumerate(CELLS)
        for part, each in ((INPUTS, found.inputs), (OPERATIONS, found.operations))
    }
    nll = found.costs.sum()
    return choice, Score(nll, jax.lax.stop_gradient(found.entropies.sum()), jnp.zeros_like(nll))
