"""What a network is trained for, as pure functions of its outputs and of targets."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from dass_jax.phases import Curve


class Batch(NamedTuple):
    """images [C, H, W, N] float, targets [N, …], path_scale [*paths, N] or None (no drop-path), counted [N], 0 for what
    only fills up a batch, or None (all count)."""

    images: jax.Array
    targets: jax.Array
    path_scale: Any = None
    counted: Any = None


class Metric(NamedTuple):
    """A figure of a network on a split."""

    name: str
    unit: str = ""
    higher_is_better: bool = True


class Task(NamedTuple):
    """The meaning of a network's outputs [N, O] for targets [N]."""

    name: str
    outputs: int
    """O."""
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    """(outputs, targets) → the mean over the examples."""
    measured: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    """(outputs, targets) → means over a batch, to be looked at."""
    sums: Callable[[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]
    """(outputs, targets, counted [N]) → sums over the examples with counted = 1, which add up over batches."""
    figures: Callable[[Mapping[str, float]], dict[str, float]]
    """Sums over a split → its figures, one for each of `metrics`."""
    metrics: tuple[Metric, ...]
    """The first one is what networks are compared by."""
    predictions: Callable[[jax.Array], jax.Array] | None = None
    """Outputs → what is predicted of each example, int [N]; None: outputs are numbers that decide nothing."""

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
