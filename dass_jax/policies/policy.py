"""What every policy offers, and the walk through its decisions that drawing and scoring have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Score(NamedTuple):
    """What a policy says of one choice; scalars."""

    nll: jax.Array
    """−log of its probability, in nats."""
    entropy: jax.Array
    """What is rewarded beside the accuracy; without gradient. For a policy without skips the entropy of its decisions,
    given those before them."""
    penalty: jax.Array
    """What is added to the loss, weighted."""


class Policy(NamedTuple):
    """A distribution over choices {name: int32 [rows]}.

    init(key) → params
    sample(params, key) → choice
    score(params, choice) → Score, differentiable by params
    """

    init: Callable[[jax.Array], Any]
    sample: Callable[[Any, jax.Array], Any]
    score: Callable[[Any, Any], Score]


Decide = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(number of the decision, what is given, logits [..., options]) → int32 [...], independent along the leading axes."""


def drawn(key: jax.Array) -> Decide:
    """Decisions by chance, as the logits say."""

    def decide(number: Any, given: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, number), logits).astype(jnp.int32)

    return decide


def as_given(number: Any, given: jax.Array, logits: jax.Array) -> jax.Array:
    """Decisions that were taken before."""
    return given


def nats(logits: jax.Array, choice: jax.Array) -> jax.Array:
    """−log softmax(logits)[choice], [...]."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), choice[..., None], -1)[..., 0]


def entropy(logits: jax.Array) -> jax.Array:
    """Of softmax(logits), [...], in nats."""
    logp = jax.nn.log_softmax(logits)
    return -(jnp.exp(logp) * logp).sum(-1)
