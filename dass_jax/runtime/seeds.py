"""Several seeds in one program: one leading axis, below that of the devices, on everything that depends on the seed.

A single seed has no such axis: its programs are those of a run without batches, to the bit. Learning rates, drop-path
rates and the images are the same for all seeds and never have it.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def each(of_seed: Callable[[int], T], seeds: Sequence[int], stack: Callable[..., Any] = np.stack) -> Any:
    """`of_seed(seed)` of every seed, stacked."""
    found = [of_seed(seed) for seed in seeds]
    return found[0] if len(found) == 1 else stack(found)


def over(function: Callable[..., Any], count: int, in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`function` for `count` seeds: batched over the arguments whose entry in `in_axes` is 0, shared in the others.

    On an accelerator the seeds advance together (`vmap`). On a CPU the one program takes them one after another:
    together they would not fit into its caches, and compile for longer (`parallel.each_seed` has a device for each).
    """
    if count == 1:
        return function
    return in_turn(function, in_axes) if jax.default_backend() == "cpu" else jax.vmap(function, in_axes)


def in_turn(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """As `jax.vmap` with entries 0 and None, one after another."""

    def over_all(*arguments: Any) -> Any:
        batched = [argument for argument, axis in zip(arguments, in_axes, strict=True) if axis == 0]

        def of_one(own: list[Any]) -> Any:
            parts = iter(own)
            return function(
                *(argument if axis is None else next(parts) for argument, axis in zip(arguments, in_axes, strict=True))
            )

        return jax.lax.map(of_one, batched)

    return over_all


def members(tree: Any, count: int) -> list[Any]:
    """The part of each of `count` seeds."""
    return [tree] if count == 1 else [jax.tree.map(lambda x, n=n: x[n], tree) for n in range(count)]


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
