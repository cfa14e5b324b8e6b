"""Segmentation: the class of each pixel. Cross-entropy over pixels, and the mean of the classes' intersections over
unions, from one confusion matrix of the whole data set.

    IoU_k = TP_k / (TP_k + FP_k + FN_k)

Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (2015), Section 4.1.3. Outputs are
[classes, H, W, N] and targets [H, W, N]; a target that is `ignore`, or no class at all, as 255 is, does not count.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.schema import Range, Text
from dass_jax.tasks.task import Metric, Pixels, Task, cross_entropies

METRICS = (Metric("mIoU", "%"), Metric("pixel_accuracy", "%"), Metric("loss", "nats", higher_is_better=False))


@dataclasses.dataclass(frozen=True)
class Fields:
    """What the masks leave open, and the head that DeepLab-v3 (arXiv 1706.05587, Section 3.3) puts on a network."""

    ignore: Annotated[int, Range(0, 255)] = 255
    """Pixels of this label neither train nor count; nor do those of label 255 and those outside of a picture. As the
    last label it is no class."""
    output_stride: Annotated[int, Range(1, 1024)] = 16
    """The network's maps are not smaller than the image by more than this: later reductions keep the size, and
    convolutions after them are dilated, where the network can do so. DeepLab-v3."""
    rates: tuple[Annotated[int, Range(1, 1024)], ...] = (6, 12, 18)
    """Dilations of the head's 3×3 convolutions. DeepLab-v3, at stride 16."""
    depth: Annotated[int, Range(1, 4096)] = 256
    """Channels of each of the head's branches. DeepLab-v3."""
    names: tuple[Annotated[str, Text("a name")], ...] = ()
    """Of the labels from 0 on, for the report's legend; where they end, labels are numbers."""


def segmentation(labels: int, fields: Fields = Fields()) -> Task:
    """The task of masks with the labels 0 … labels − 1, of which `fields.ignore`, as the last one, is no class."""
    c, classes = fields, labels - (fields.ignore == labels - 1)

    def counted_pixels(targets: jax.Array) -> jax.Array:
        return (targets < classes) & (targets != c.ignore)

    def losses(outputs: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
        """[N]: the mean over each image's pixels that count; 0 without any."""
        counts = counted_pixels(targets)
        each = cross_entropies(outputs, jnp.where(counts, targets, 0), smoothing, axis=0)
        return (each * counts).sum((0, 1)) / jnp.maximum(counts.sum((0, 1)), 1)

    def confusion(outputs: jax.Array, targets: jax.Array, counted: jax.Array) -> jax.Array:
        """int32 [truth, prediction] over the pixels that count of images with counted = 1."""
        counts = counted_pixels(targets) & (counted > 0)
        cells = jnp.where(counts, targets * classes + outputs.argmax(0), classes**2)
        return jnp.bincount(cells.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes).astype(jnp.int32)

    def measured(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        found = confusion(outputs, targets, jnp.ones(targets.shape[-1])).astype(outputs.dtype)
        return {"mIoU": mean_iou(found, jnp), "pixel_accuracy": pixel_accuracy(found, jnp)}

    def sums(outputs: jax.Array, targets: jax.Array, counted: jax.Array) -> dict[str, jax.Array]:
        each = losses(outputs, targets)
        matrix = confusion(outputs, targets, counted)
        return {"confusion": matrix, "loss": (each * counted).sum(), "images": counted.sum()}

    def figures(found: Mapping[str, Any]) -> dict[str, float]:
        return {
            "mIoU": mean_iou(found["confusion"]),
            "pixel_accuracy": pixel_accuracy(found["confusion"]),
            "loss": found["loss"] / found["images"],
        }

    return Task(
        name="segmentation",
        outputs=Pixels(classes, c.output_stride, c.rates, c.depth),
        loss=lambda outputs, targets: losses(outputs, targets).mean(),
        measured=measured,
        sums=sums,
        figures=figures,
        metrics=METRICS,
        predictions=lambda outputs: outputs.argmax(0),
        names=c.names,
        smoothed_loss=lambda outputs, targets, smoothing: losses(outputs, targets, smoothing).mean(),
    )


def mean_iou(confusion: Any, xp: Any = np) -> Any:
    """The mean IoU in per cent over the classes that occur, in truth or prediction; 0 without any.

    Args:
      confusion: counts [truth, prediction].
      xp: NumPy, or `jax.numpy` inside of a program.
    """
    right = xp.diagonal(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    return 100 * (right / xp.maximum(union, 1)).sum() / xp.maximum((union > 0).sum(), 1)


def pixel_accuracy(confusion: Any, xp: Any = np) -> Any:
    """Share of pixels with the right class, in per cent."""
    return 100 * xp.trace(confusion) / xp.maximum(confusion.sum(), 1)
