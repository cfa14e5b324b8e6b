"""DARTS' supernet without the operations that have left it: where the variables of those that live go.

With all of its operations a group of edges is computed at once, `edges_<group>`; when one has left, each source and
operation by itself, `source_<source>_<operation>` (`nn.mixed_cell`). Layers and statistics keep their order.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dass_jax.architectures.darts import reductions
from dass_jax.nn.mixed import NORMS
from dass_jax.nn.mixed_cell import complete, groups, rows
from dass_jax.spaces import live as living
from dass_jax.spaces.live import Live
from dass_jax.spaces.space import Choice

_LEAF = re.compile(r"((?:.*/)?cell_(\d+)/)(?:edges_(\d+)|source_(\d+)_(\w+))/((\w+?)(?:_(?:depth|point)wise_\d)?/\w+)")
"""Cell, group or source and operation, and the leaf, whose name begins with that of an operation or a norm."""


def carried(tree: Any, live: Live, before: Live | None, sizes: tuple[int, int], choices: Mapping[str, Choice]) -> Any:
    """What the program of `live` keeps of a tree of the program of `before` (None: of all operations): params,
    batch_stats, or what has the structure of one of them, such as momentum, scores or masks.

    Args:
      sizes: cells of the supernet, nodes of a cell.

    Raises:
      ValueError: if something in `live` was not in `before`, or if a shape is wrong.
    """
    (now, then), (cells, nodes) = living.smaller(live, before, choices), sizes

    def pieces(path: str, leaf: Any) -> dict[str, Any] | None:
        if not (found := _LEAF.fullmatch(path)):
            return None
        cell, number, group, source, operation, name, owner = found.groups()
        matrix = "reduce" if int(number) in reductions(cells) else "normal"
        columns = choices[matrix].columns
        sources, targets = groups(nodes)[int(group) if group else max(int(source) - 1, 0)]
        if complete(now[matrix][rows(nodes, sources, targets)], columns):
            return None
        operations: tuple[str, ...] = NORMS.get(owner, (owner,))
        if group is None:
            sources, operations = (int(source),), (operation,)
        stack = 3 if owner in NORMS and owner != "norm_1" else 2
        parts, kept = leaf.reshape(len(sources), len(operations), -1, *leaf.shape[stack:]), {}
        for i, j in np.ndindex(parts.shape[:2]):
            [own], column = rows(nodes, sources[i : i + 1], targets), columns.index(operations[j])
            mask = now[matrix][own, column][then[matrix][own, column]]
            if owner == "norm_pool":  # one map for all edges of a source
                mask = mask.any(keepdims=True)
            if mask.any():
                module, part = f"source_{sources[i]}_{operations[j]}", parts[i, j][mask]
                kept[f"{cell}{module}/{name}"] = part.reshape((1,) * (stack - 1) + part.shape)
        return kept

    return living.carried(tree, pieces)
