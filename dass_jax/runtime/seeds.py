"""The axis of the seeds: everything that depends on the seed has it in front, of length 1 too."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np


def members(tree: Any, count: int) -> list[Any]:
    """The part of each of `count` seeds."""
    return [jax.tree.map(lambda x, n=n: x[n], tree) for n in range(count)]


def stacked(parts: Sequence[Any]) -> Any:
    """The parts of all seeds as one tree of NumPy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def alike(found: Sequence[tuple[int, Hashable]]) -> list[tuple[Any, tuple[int, ...]]]:
    """The different things among pairs of (seed, thing), each with its seeds; in the order of the pairs."""
    groups: dict[Any, list[int]] = {}
    for seed, thing in found:
        groups.setdefault(thing, []).append(seed)
    return [(thing, tuple(seeds)) for thing, seeds in groups.items()]


def named(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 0, 2`, `seeds 0 to 4`."""
    first, last = seeds[0], seeds[-1]
    if len(seeds) == 1:
        return f"seed {first}"
    unbroken = len(seeds) > 2 and last - first == len(seeds) - 1
    return f"seeds {first} to {last}" if unbroken else f"seeds {', '.join(map(str, seeds))}"
