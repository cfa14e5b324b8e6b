"""What networks are trained for: one file for each task, and a line in `TASKS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.schema import Empty
from dass_jax.tasks.classification import classification
from dass_jax.tasks.task import Batch, Metric, Task


class Entry(NamedTuple):
    """A task as configurations name it: `[task] name`."""

    schema: type
    """Of its fields."""
    make: Callable[[int, Any], Task]
    """(classes of the data, fields) → task."""


TASKS: dict[str, Entry] = {"classification": Entry(Empty, classification)}

__all__ = ["TASKS", "Batch", "Entry", "Metric", "Task"]
