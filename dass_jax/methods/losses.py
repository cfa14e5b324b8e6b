"""What every method minimises."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Batch(NamedTuple):
    """images [C, H, W, N] float, labels [N] int32, path_scale [cells, nodes, pairs, N] or None (no drop-path)."""

    images: jax.Array
    labels: jax.Array
    path_scale: Any = None


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats of logits [N, classes]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of right answers, in per cent."""
    return 100 * jnp.mean((logits.argmax(-1) == labels).astype(logits.dtype))
