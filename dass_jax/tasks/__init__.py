"""What networks are trained for: one file for each task, and a line in `TASKS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.schema import Empty
from dass_jax.tasks.classification import classification
from dass_jax.tasks.segmentation import Fields as SegmentationFields
from dass_jax.tasks.segmentation import segmentation
from dass_jax.tasks.task import Batch, Metric, Outputs, Pixels, Task, blank, shape_of


class Entry(NamedTuple):
    """A task as configurations name it: `[task] name`."""

    schema: type
    """Of its fields."""
    make: Callable[[int, Any], Task]
    """(labels of the data, fields) → task."""


TASKS: dict[str, Entry] = {
    "classification": Entry(Empty, classification),
    "segmentation": Entry(SegmentationFields, segmentation),
}

__all__ = ["TASKS", "Batch", "Entry", "Metric", "Outputs", "Pixels", "Task", "blank", "shape_of"]
