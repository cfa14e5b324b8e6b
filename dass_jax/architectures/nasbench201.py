"""The cells of NAS-Bench-201 (arXiv 2001.00326) as plain data: one operation for each of six edges.

A cell has four nodes. Node 0 is its input, node 3 its output, and every node is the sum of an edge from each earlier
one. All cells of a network are alike.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError, nearest

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The operations of an edge, in the order of the benchmark's keys. `none` is derived like any other."""

NODES = 4
EDGES = tuple((source, target) for target in range(NODES) for source in range(target))
"""(source, target), in the order of a cell's operations."""

_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_SHOWN = 120
"""Characters of a wrong text that a message repeats: no right one is longer."""


class Cell(NamedTuple):
    """The operation of each edge, in the order of `EDGES`: `to_3_from_1` is that of 3←1."""

    to_1_from_0: str
    to_2_from_0: str
    to_2_from_1: str
    to_3_from_0: str
    to_3_from_1: str
    to_3_from_2: str


def to_text(cell: Cell) -> str:
    """The benchmark's own notation: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, one group for each of the nodes 1 to 3."""
    groups: list[list[str]] = [[] for _ in range(1, NODES)]
    for operation, (source, target) in zip(cell, EDGES, strict=True):
        groups[target - 1].append(f"{operation}~{source}")
    return "+".join(f"|{'|'.join(group)}|" for group in groups)


def from_text(text: str, origin: str = "cell") -> Cell:
    """Inverse of `to_text`.

    Raises:
      UserError: naming `origin`, the edge or node and what is allowed there.
    """
    groups = text.strip().split("+")
    if len(groups) != NODES - 1:
        raise UserError(
            f"{origin}: nodes = {len(groups)} in {short(text, _SHOWN)}; allowed: {NODES - 1}, as in {_FORM}"
        )
    operations = []
    for target, group in enumerate(groups, start=1):
        entries = group.split("|")[1:-1]
        if f"|{'|'.join(entries)}|" != group or len(entries) != target:
            wanted = _FORM.split("+")[target - 1]
            raise UserError(f"{origin}: node {target} = {short(group, _SHOWN)}; allowed: {wanted}")
        operations += [_operation(entry, source, target, origin) for source, entry in enumerate(entries)]
    return Cell(*operations)


def _operation(entry: str, source: int, target: int, origin: str) -> str:
    operation, _, named = entry.partition("~")
    place = f"{origin}: edge {target}←{source}"
    if operation not in OPERATIONS:
        hint = nearest(operation, OPERATIONS)
        raise UserError(f"{place}: operation {short(operation, _SHOWN)}{hint}; allowed: {', '.join(OPERATIONS)}")
    if named != str(source):
        raise UserError(f"{place}: input {short(named, _SHOWN)}; allowed: {source}, as in {_FORM}")
    return operation


def to_json(cell: Cell) -> Json:
    """`{"cell": "|op~0|+…"}`."""
    return {"cell": to_text(cell)}


def from_json(data: Any, origin: str = "architecture") -> Cell:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    text = members(data, ("cell",), origin, "'cell'")["cell"]
    if not isinstance(text, str):
        raise UserError(f"{origin}: cell = {short(text, _SHOWN)}; allowed: a text like {_FORM}")
    return from_text(text, f"{origin}: cell")


def graphs(cell: Cell) -> tuple[Graph, ...]:
    """The cell as one graph; edges whose operation is `none` are left out of it."""
    names = ("input", *map(str, range(1, NODES - 1)), "output")
    edges = (Edge(names[s], names[t], op) for op, (s, t) in zip(cell, EDGES, strict=True) if op != "none")
    return (Graph("cell", names, tuple(edges)),)


def reaches(cell: Cell) -> bool:
    """Whether a path leads from node 0 to node 3 over edges that are not `none`."""
    reached = {0}
    for operation, (source, target) in zip(cell, EDGES, strict=True):
        if operation != "none" and source in reached:
            reached.add(target)
    return NODES - 1 in reached


def warnings(cell: Cell) -> dict[str, str]:
    """What is wrong with a cell that no image gets through."""
    return {} if reaches(cell) else {"cell": "no path from input to output: it can only answer by chance"}


def key(cell: Cell) -> str:
    """Six digits: for each edge the place of its operation in `OPERATIONS`."""
    return "".join(str(OPERATIONS.index(operation)) for operation in cell)


def of_key(digits: str) -> Cell:
    """Inverse of `key`."""
    return Cell(*(OPERATIONS[int(digit)] for digit in digits))


def cells() -> Iterator[Cell]:
    """All 15,625 cells, in the order of their keys."""
    return itertools.starmap(Cell, itertools.product(OPERATIONS, repeat=len(EDGES)))


PUBLISHED = {
    "nb201_resnet": of_key("303101"),
    # The best by test accuracy after 200 epochs on each of the benchmark's data sets.
    "nb201_best_cifar10": of_key("333132"),
    "nb201_best_cifar100": of_key("333133"),
    "nb201_best_imagenet16": of_key("223133"),
}
"""Cells with a name of their own."""

FAMILY = Family(
    name="nasbench201",
    kind=Cell,
    to_json=to_json,
    from_json=from_json,
    graphs=graphs,
    warnings=warnings,
    published=PUBLISHED,
    from_text=from_text,
    is_text=lambda text: text.lstrip().startswith("|"),
    to_text=to_text,
)
