"""What a network is trained for, as pure functions of its outputs and of targets."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dass_jax.phases import Curve


class Batch(NamedTuple):
    """images [C, H, W, N] float, targets […, N], path_scale [*paths, N] or None (no drop-path), counted [N], 0 for what
    only fills up a batch, or None (all count)."""

    images: jax.Array
    targets: jax.Array
    path_scale: Any = None
    counted: Any = None


class Pixels(NamedTuple):
    """Outputs for each pixel, [number, H, W, N], and the head of the network that gives them (`nn.heads`)."""

    number: int
    """Of each pixel."""
    stride: int = 16
    """The network's maps are not smaller than the image by more than this, where the network can do so."""
    rates: tuple[int, ...] = (6, 12, 18)
    """Dilations of the head's 3×3 convolutions."""
    depth: int = 256
    """Channels of the head's branches."""


Outputs = int | Pixels
"""How many outputs a network has for an image, [N, O], or for each of its pixels."""


def shape_of(outputs: Outputs, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the outputs for one image [H, W, C]: [O] or [O, H, W]."""
    return (outputs.number, *image_shape[:2]) if isinstance(outputs, Pixels) else (outputs,)


def blank(outputs: Outputs, image_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets of zeros for one image [H, W, C]."""
    if isinstance(outputs, Pixels):
        size = image_shape[:2]
        return jnp.zeros((outputs.number, *size, 1)), jnp.zeros((*size, 1), jnp.int32)
    return jnp.zeros((1, outputs)), jnp.zeros(1, jnp.int32)


class Metric(NamedTuple):
    """A figure of a network on a split."""

    name: str
    unit: str = ""
    higher_is_better: bool = True


def cross_entropies(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, axis: int = -1) -> jax.Array:
    """Cross-entropy in nats of each label, classes along `axis` of the logits.

    Args:
      smoothing: share of each target that is spread over all classes alike, its label's too. Source: Szegedy et al.
        (arXiv 1512.00567) Section 7.
    """
    found = optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=axis)
    if not smoothing:
        return found
    return (1 - smoothing) * found - smoothing * jax.nn.log_softmax(logits, axis).mean(axis)


class Task(NamedTuple):
    """The meaning of a network's outputs for targets: [N, O] for [N], or [O, H, W, N] for [H, W, N]."""

    name: str
    outputs: Outputs
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    """(outputs, targets) → the mean over the examples."""
    measured: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    """(outputs, targets) → means over a batch, to be looked at."""
    sums: Callable[[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]
    """(outputs, targets, counted [N]) → sums over the examples with counted = 1, which add up over batches."""
    figures: Callable[[Mapping[str, Any]], dict[str, float]]
    """Sums over a split, float64, → its figures, one for each of `metrics`."""
    metrics: tuple[Metric, ...]
    """The first one is what networks are compared by."""
    predictions: Callable[[jax.Array], jax.Array] | None = None
    """Outputs → what is predicted of each example, int of the targets' shape; None: outputs are numbers that decide
    nothing."""

    names: tuple[str, ...] = ()
    """Of the first outputs, for people."""
    smoothed_loss: Callable[[jax.Array, jax.Array, float], jax.Array] | None = None
    """(outputs, targets, share of each target that is spread over all classes) → `loss`; None: they are no classes."""

    def curves(self, seen: str, unseen: str | None = None, line: str = "") -> tuple[Curve, ...]:
        """How the figures of a phase are drawn: those on what the weights see (metrics with the prefix `seen`) solid
        and, where they are measured, those on what they do not see, which are called `line`, dashed."""
        found = []
        for metric in sorted(self.metrics, key=lambda metric: metric.name != "loss"):
            gap = unseen is not None and metric is self.metrics[0]
            found.append(Curve(seen + metric.name, metric.name, "train", metric.unit, gap=gap))
            if unseen is not None:
                found.append(Curve(unseen + metric.name, metric.name, line, metric.unit, "dashed"))
        return tuple(found)
