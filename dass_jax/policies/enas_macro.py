"""ENAS' controller of whole networks (arXiv 1802.03268 Section 2.3; the authors' code, as published).

For each layer an operation, then, from the second layer on, a bit for each earlier layer but the last. An operation's
logits are 1.5·tanh(h·S). Of bit j, with q_j = v·tanh(a_j·W1 + h·W2) and a_j what the LSTM said after layer j, the two
logits are 1.5·tanh(∓q_j): it is 1 with probability σ(2z), z = 1.5·tanh(q_j). Bit j is of feature map j, though a_j is
layer j's, whose map is j + 1: so in the published code, and so here.

The penalty is the mean over the layers with bits of Σ_j KL(Bernoulli(σ(z_j)) ‖ Bernoulli(0.4)). It is of σ(z), not of
the probability by which bits are drawn: at its optimum they are 1 in 4 of 13 cases.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.policies import lstm
from dass_jax.policies.policy import Decide, Policy, Score, as_given, drawn, nats

OPERATIONS, SKIPS = "operations", "skips"
"""A choice: int32 [layers] and the bits, int32 [layers (layers − 1) / 2], layer by layer."""
SCALE = 1.5
PRIOR = 0.4
"""Of a bit."""


def policy(layers: int, operations: int) -> Policy:
    """Over the operations and bits of so many layers."""
    nothing = {OPERATIONS: np.zeros(layers, np.int32), SKIPS: np.zeros(layers * (layers - 1) // 2, np.int32)}
    return Policy(
        init=lambda key: lstm.init(key, operations),
        sample=lambda params, key: _walk(params, drawn(key), nothing)[0],
        score=lambda params, choice: _walk(params, as_given, choice)[1],
    )


def _walk(params: Any, decide: Decide, given: Any) -> tuple[dict[str, jax.Array], Score]:
    """Decision 2l is layer l's operation, decision 2l + 1 its bits: a loop over the layers, in which what later layers
    have said is zero and not looked at."""
    layers = len(given[OPERATIONS])
    bits = np.tril_indices(layers, -1)
    first = params["first"][0]

    def step(carry: tuple[lstm.Memory, jax.Array, jax.Array], now: Any) -> Any:
        (memory, x, anchors), (layer, operation, skips) = carry, now
        memory = lstm.step(params, x, memory)
        logits = SCALE * jnp.tanh(memory.hidden @ params["operation"])
        operation = decide(2 * layer, operation, logits)
        memory = lstm.step(params, params["embedding"][operation], memory)
        z = SCALE * jnp.tanh(lstm.attention(params, anchors @ params["attend_before"], memory.hidden))
        pairs, earlier = jnp.stack([-z, z], -1), jnp.arange(layers) < layer
        skips = jnp.where(earlier, decide(2 * layer + 1, skips, pairs), 0)
        x = jnp.where(layer > 0, skips.astype(x.dtype) @ anchors / (1 + skips.sum()), first)
        costs = jnp.append(jnp.where(earlier, nats(pairs, skips), 0), nats(logits, operation))
        penalty = jnp.where(earlier, _divergence(z), 0).sum()
        return (memory, x, anchors.at[layer].set(memory.hidden)), (operation, skips, costs, penalty)

    begin = lstm.begin(params), first, jnp.zeros((layers, lstm.UNITS), first.dtype)
    there = jnp.zeros((layers, layers), jnp.int32).at[bits].set(given[SKIPS])
    each = jnp.arange(layers), jnp.asarray(given[OPERATIONS]), there
    _, (operations, skips, costs, penalties) = jax.lax.scan(step, begin, each)
    # As published: of the decisions that were taken only.
    entropy = jax.lax.stop_gradient((costs * jnp.exp(-costs)).sum())
    score = Score(costs.sum(), entropy, penalties.sum() / max(1, layers - 1))
    return {OPERATIONS: operations, SKIPS: skips[bits]}, score


def _divergence(z: jax.Array) -> jax.Array:
    """KL(Bernoulli(σ(z)) ‖ Bernoulli(0.4)), each."""
    one, zero = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
    return jnp.exp(one) * (one - jnp.log(PRIOR)) + jnp.exp(zero) * (zero - jnp.log1p(-PRIOR))
