"""What a network consists of: named collections in one pytree, and which of their leaves may be pruned.

    variables = {"alpha": α, "params": θ, "scores": s, "masks": m, "batch_stats": BN statistics}

α, θ and s are trained by different levels of the bi-level problem, so they never share a collection. `scores` and
`masks` hold the prunable leaves of `params` only, under the same paths. Within a step, and nowhere else, "rates" holds
the numbers that change from step to step (`phases.Rates`).

A prunable leaf has shape [*stack, *layer]: the leading `stack` axes count layers of equal shape that a fused operation
keeps side by side (the edges of a cell, say); each layer is pruned on its own. A layer's first axis is its output
channels, so `fan_in = prod(layer[1:])` for every kind: depthwise [C, k, k], pointwise and linear [O, I], dense
convolution [O, I, k, k].
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from flax import traverse_util

ALPHA = "alpha"
PARAMS = "params"
SCORES = "scores"
MASKS = "masks"
BATCH_STATS = "batch_stats"
RATES = "rates"
AUXILIARY = "auxiliary"
"""The part of a network that is there while it is trained, and is not deployed."""

Variables = dict[str, Any]
Rules = tuple[tuple[str, int | None], ...]
"""(regular expression on a leaf's path, number of stack axes; None: never pruned). The first full match counts."""


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dictionaries to one dictionary with paths like `"cell_0/preprocess_1/weight"`."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: dict[str, Any]) -> Any:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def prunable(params: Any, rules: Rules) -> Any:
    """The prunable leaves of `params` as nested dictionaries of their number of stack axes (Python ints).

    Raises:
      ValueError: if no rule covers a leaf. A weight that silently stays dense would falsify every count.
    """
    stacks = {}
    for path in flatten(params):
        for pattern, stack in rules:
            if re.fullmatch(pattern, path):
                if stack is not None:
                    stacks[path] = stack
                break
        else:
            raise ValueError(f"no rule says whether {path!r} is prunable; rules: {[pattern for pattern, _ in rules]}")
    return unflatten(stacks)


def select(params: Any, stacks: Any) -> Any:
    """The leaves of `params` at the paths of `stacks`, as nested dictionaries."""
    leaves = flatten(params)
    return unflatten({path: leaves[path] for path in flatten(stacks)})


def merge(params: Any, leaves: Any) -> Any:
    """`params` with the leaves of `leaves` in the place of its own."""
    return unflatten({**flatten(params), **flatten(leaves)})


def layer_shape(shape: tuple[int, ...], stack: int) -> tuple[int, tuple[int, ...]]:
    """Splits a leaf's shape into (number of layers, shape of one layer)."""
    return math.prod(shape[:stack]), tuple(shape[stack:])


def fan_in(shape: tuple[int, ...], stack: int = 0) -> int:
    """Inputs of one output unit: (C_in / groups)·k·k."""
    return math.prod(shape[stack + 1 :])


def layers(params: Any, stacks: Any) -> Iterator[tuple[str, int, int]]:
    """Yields (path, number of layers, weights of one layer) for every prunable leaf of `params` (arrays or shapes)."""
    leaves = flatten(params)
    for path, stack in flatten(stacks).items():
        count, shape = layer_shape(leaves[path].shape, stack)
        yield path, count, math.prod(shape)
