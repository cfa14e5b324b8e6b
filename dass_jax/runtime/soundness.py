"""What the steps of an epoch have seen: by name, averaged, and which of them are not finite.

Infos are here those of all steps of an epoch: {level: Info}, every leaf [seeds, steps].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax.bilevel import Info

Infos = Mapping[str, Info]


class Unsound(NamedTuple):
    """The first step that is not finite."""

    step: int
    """Of the epoch, from 0."""
    seed: int
    """Position among the seeds."""
    figures: dict[str, float]
    """Those that are not finite."""
    leaves: dict[str, int]
    """Collection → the first leaf of its gradient that is not finite."""


def named(infos: Infos) -> dict[str, Any]:
    """The figures by name, with a prefix for each level where there are several."""
    return {
        name: value for level, info in sorted(infos.items()) for name, value in _of_level(infos, level, info).items()
    }


def taken(infos: Infos) -> dict[str, Any]:
    """By the same names, for levels that take turns: int32 [seeds, steps], 1 where the level took its step."""
    marked = {level: info._replace(taken=None) for level, info in infos.items() if info.taken is not None}
    return {name: infos[level].taken for level, info in marked.items() for name in _of_level(infos, level, info)}


def _of_level(infos: Infos, level: str, info: Info) -> dict[str, Any]:
    """A level's figures by name."""
    prefix = f"{level}_" if len(infos) > 1 else ""
    figures = {"loss": info.loss, **info.metrics, "gradient_norm": info.gradient_norm, "cosine": info.cosine}
    return {prefix + name: value for name, value in figures.items() if value is not None}


def bad_steps(infos: Infos) -> np.ndarray:
    """bool [seeds, steps]: where a figure is not finite."""
    return np.any([~np.isfinite(values) for values in named(infos).values()], axis=0)


def first(infos: Infos) -> Unsound | None:
    """The first step that is not finite, None if all are; of the seeds that go wrong in one step the first."""
    wrong = bad_steps(infos)
    if not wrong.any():
        return None
    step, seed = (int(n) for n in np.argwhere(wrong.T)[0])
    figures = {name: float(x[seed, step]) for name, x in named(infos).items() if not np.isfinite(x[seed, step])}
    leaves = {
        name: int(values[seed, step])
        for info in infos.values()
        for name, values in (info.unsound or {}).items()
        if values[seed, step] >= 0
    }
    return Unsound(step, seed, figures, leaves)


def message(found: Unsound, label: str, seeds: Sequence[int] | None, epoch: int, variables: Any) -> str:
    """One line for the user.

    Args:
      seeds: to be named; None for a run that has only one.
      epoch: from 1.
      variables: {collection: tree}, for the names of the leaves.
    """
    whose = "" if seeds is None else f", seed {seeds[found.seed]}"
    wrong = ", ".join(f"{name} = {value}" for name, value in found.figures.items())
    leaves = "".join(
        f", first in the gradient of {name}{jax.tree_util.keystr(_path(variables[name], n))}"
        for name, n in found.leaves.items()
    )
    return (
        f"{label}{whose}, epoch {epoch}, step {found.step + 1}: {wrong}{leaves}; allowed: finite numbers "
        "(a smaller learning rate may help, runtime.nonfinite = 'skip' leaves such steps out)"
    )


def _path(tree: Any, number: int) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree)[number][0]


def before(infos: Infos, found: Unsound) -> tuple[np.ndarray, ...]:
    """The leaves of the infos with zeros from the first unsound step on."""
    earlier = np.arange(bad_steps(infos).shape[-1]) < found.step
    return tuple(np.where(earlier, values, np.zeros((), values.dtype)) for values in jax.tree.leaves(infos))


def means(infos: Infos) -> list[dict[str, float]]:
    """For each seed the figures, averaged over the steps that were taken and are finite, and "skipped_steps" where some
    are not. Where no step is finite the averages are not either."""
    wrong, turns = bad_steps(infos), taken(infos)
    found = [dict[str, float]() for _ in wrong]
    for name, values in named(infos).items():
        counted = ~wrong & (turns[name] > 0) if name in turns else ~wrong
        good = counted.sum(-1)
        # Unsound steps of any size, so that the sum of the others is the same whatever they hold.
        sums = np.where(counted, values, 0).sum(-1, dtype=np.float64)
        averages = np.where(good > 0, sums / np.maximum(good, 1), np.nan)
        for one, average in zip(found, averages, strict=True):
            one[name] = round(float(average), 6)
    for one, skipped in zip(found, wrong.sum(-1), strict=True):
        if skipped:
            one["skipped_steps"] = int(skipped)
    return found
