"""Steps whose numbers are not finite: which is the first, what was wrong with it, and what the others come to.

Infos are here those of all steps of some epochs: every leaf [epochs, steps], over several seeds [epochs, seeds, steps].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.bilevel import Info


class Unsound(NamedTuple):
    """The first step that is not finite."""

    epoch: int
    """Of those of the infos, from 0."""
    step: int
    """Of the epoch, from 0."""
    seed: int
    """Position among the seeds."""
    figures: dict[str, float]
    """Those that are not finite."""
    leaves: dict[str, int]
    """Collection → the first leaf of its gradient that is not finite."""


def named(info: Any) -> dict[str, Any]:
    """The figures of an info by name: with a prefix for each level of a bi-level step."""
    if hasattr(info, "upper"):
        levels = {level: named(getattr(info, level)) for level in sorted(info._fields)}
        return {f"{level}_{name}": value for level, found in levels.items() for name, value in found.items()}
    found = {"loss": info.loss, **info.metrics, "gradient_norm": info.gradient_norm}
    return found if info.cosine is None else {**found, "cosine": info.cosine}


def bad_steps(infos: Any) -> np.ndarray:
    """bool, of the shape of the infos' leaves: where a figure is not finite."""
    return np.any([~np.isfinite(values) for values in named(infos).values()], axis=0)


def first(infos: Any) -> Unsound | None:
    """The first step that is not finite, None if all are."""
    wrong = bad_steps(infos)
    if not wrong.any():
        return None
    # Of the seeds that go wrong in one step the first: their axis goes last.
    places = np.argwhere(np.moveaxis(wrong.reshape(wrong.shape[0], -1, wrong.shape[-1]), 1, 2))
    epoch, step, seed = (int(n) for n in places[0])
    at = (epoch, step) if wrong.ndim == 2 else (epoch, seed, step)
    figures = {name: float(values[at]) for name, values in named(infos).items() if not np.isfinite(values[at])}
    levels = jax.tree.leaves(infos, is_leaf=lambda x: isinstance(x, Info))
    leaves = {
        name: int(values[at])
        for level in levels
        if isinstance(level, Info)
        for name, values in (level.unsound or {}).items()
        if values[at] >= 0
    }
    return Unsound(epoch, step, seed, figures, leaves)


def message(found: Unsound, label: str, seeds: Sequence[int] | None, epoch: int, variables: Any) -> str:
    """One line for the user.

    Args:
      seeds: to be named; None for a run that has only one.
      epoch: the number, from 1, of the first epoch of the infos.
      variables: {collection: tree}, for the names of the leaves.
    """
    whose = "" if seeds is None else f", seed {seeds[found.seed]}"
    wrong = ", ".join(f"{name} = {value}" for name, value in found.figures.items())
    leaves = "".join(
        f", first in the gradient of {name}{jax.tree_util.keystr(_path(variables[name], n))}"
        for name, n in found.leaves.items()
    )
    return (
        f"{label}{whose}, epoch {found.epoch + epoch}, step {found.step + 1}: {wrong}{leaves}; allowed: finite numbers "
        "(a smaller learning rate may help, runtime.nonfinite = 'skip' leaves such steps out)"
    )


def _path(tree: Any, number: int) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree)[number][0]


def before(infos: Any, found: Unsound) -> tuple[np.ndarray, ...]:
    """The leaves of the infos with zeros from the first unsound step on."""
    epochs, steps = bad_steps(infos).shape[0], bad_steps(infos).shape[-1]
    earlier = np.arange(epochs * steps).reshape(epochs, steps) < found.epoch * steps + found.step

    def cut(values: np.ndarray) -> np.ndarray:
        return np.where(earlier if values.ndim == 2 else earlier[:, None], values, np.zeros((), values.dtype))

    return tuple(cut(values) for values in jax.tree.leaves(infos))


def means(infos: Any) -> tuple[Any, np.ndarray]:
    """(figures averaged over the steps that are finite, how many are not), without the axis of the steps. Where no step
    is finite the averages are not either."""
    wrong = bad_steps(infos)
    good = (~wrong).sum(-1)

    def mean(values: np.ndarray) -> np.ndarray:
        # Unsound steps of any size, so that the sum of the others is the same whatever they hold.
        sums = np.where(wrong, 0, values).sum(-1, dtype=np.float64)
        return np.where(good > 0, sums / np.maximum(good, 1), np.nan)

    return jax.tree.map(mean, infos), wrong.sum(-1)
