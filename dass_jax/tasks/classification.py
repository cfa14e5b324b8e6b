"""Classification of images: cross-entropy and the share of right answers."""

import jax
import jax.numpy as jnp

from dass_jax.schema import Empty
from dass_jax.tasks.task import Metric, Task, cross_entropies

METRICS = (Metric("accuracy", "%"), Metric("loss", "nats", higher_is_better=False))


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy in nats of logits [N, classes]; `smoothing` as in `cross_entropies`."""
    return cross_entropies(logits, labels, smoothing).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of right answers, in per cent."""
    return 100 * jnp.mean((logits.argmax(-1) == labels).astype(logits.dtype))


def sums(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> dict[str, jax.Array]:
    """{"loss", "right", "examples"} over the examples with counted = 1."""
    loss = cross_entropies(logits, labels)
    right = (logits.argmax(-1) == labels).astype(logits.dtype)
    return {"loss": (loss * counted).sum(), "right": (right * counted).sum(), "examples": counted.sum()}


def classification(classes: int, fields: Empty | None = None) -> Task:
    """The task of telling `classes` classes apart; targets are int32 [N], from 0."""
    return Task(
        name="classification",
        outputs=classes,
        loss=cross_entropy,
        measured=lambda logits, labels: {"accuracy": accuracy(logits, labels)},
        sums=sums,
        figures=lambda found: {
            "accuracy": 100 * found["right"] / found["examples"],
            "loss": found["loss"] / found["examples"],
        },
        metrics=METRICS,
        predictions=lambda logits: logits.argmax(-1),
        smoothed_loss=cross_entropy,
    )
