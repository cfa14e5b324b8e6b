"""The cells of ENAS (arXiv 1802.03268, "micro") as plain data: twenty integers for each of two cells.

Nodes 0 and 1 are the cell's inputs: the output of the cell before the previous one, and of the previous one. Block b of
five is node b + 2 and the sum of two edges; its four integers are input and operation of the one and of the other. A
cell puts out all nodes that no edge leaves, its inputs among them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "identity")
"""In the order of their numbers."""

BLOCKS = 5
NODES = BLOCKS + 2
INTEGERS = 4 * BLOCKS

Cell = tuple[int, ...]


class Arc(NamedTuple):
    """For each cell input and operation of ten edges, two for each block: 20 integers."""

    normal: Cell
    reduce: Cell


class CellEdge(NamedTuple):
    """One of a block's two."""

    source: int
    """A node."""
    operation: int


def blocks(cell: Sequence[int]) -> tuple[tuple[CellEdge, CellEdge], ...]:
    """The edges of each block."""
    edges = [CellEdge(*cell[place : place + 2]) for place in range(0, INTEGERS, 2)]
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def unused(cell: Sequence[int]) -> tuple[int, ...]:
    """The nodes that no edge leaves, which the cell puts out."""
    return tuple(sorted(set(range(NODES)) - set(cell[::2])))


def reductions(layers: int) -> tuple[int, ...]:
    """Which of the layers + 2 cells reduce (from 0): at a third and at two thirds of the depth."""
    return layers // 3, 2 * (layers // 3) + 1


def to_json(arc: Arc) -> Json:
    """`{"normal": [20 integers], "reduce": [20 integers]}`."""
    return {name: list(cell) for name, cell in arc._asdict().items()}


def from_json(data: Any, origin: str = "architecture") -> Arc:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    given = members(data, Arc._fields, origin, "'normal' and 'reduce'")
    return Arc(*(_cell(cell, f"{origin}: {name}") for name, cell in given.items()))


def _cell(data: Any, place: str) -> Cell:
    if not isinstance(data, list) or len(data) != INTEGERS:
        raise UserError(f"{place} = {short(data)}; allowed: {INTEGERS} integers, (input, operation) twice a block")
    for index, value in enumerate(data):
        block, what = index // 4, ("input", "operation")[index % 2]
        end = (block + 2, len(OPERATIONS))[index % 2]
        if type(value) is not int or value not in range(end):
            raise UserError(f"{place}: {what} of block {block} = {short(value)}; allowed: 0 to {end - 1}")
    return tuple(data)


def node_name(index: int) -> str:
    """What a node is called."""
    return ("c_{k-2}", "c_{k-1}")[index] if index < 2 else str(index)


def graphs(arc: Arc) -> tuple[Graph, ...]:
    """Both cells, from their two inputs to their output c_k, which joins all nodes that no edge leaves."""
    return tuple(_graph(f"{title} cell", cell) for title, cell in zip(("normal", "reduction"), arc, strict=True))


def _graph(name: str, cell: Cell) -> Graph:
    nodes = tuple(map(node_name, range(NODES)))
    edges = [
        Edge(nodes[source], nodes[node], OPERATIONS[operation])
        for node, pair in enumerate(blocks(cell), start=2)
        for source, operation in pair
    ]
    return Graph(name, (*nodes, "c_k"), (*edges, *(Edge(nodes[node], "c_k", "") for node in unused(cell))))


def warnings(arc: Arc) -> dict[str, str]:
    """Cells of which no operation has weights."""
    return {
        name: "no operation is a convolution" for name, cell in arc._asdict().items() if not {0, 1} & set(cell[1::2])
    }


PUBLISHED = {
    "enas_micro": Arc(
        normal=(0, 2, 0, 0, 0, 4, 0, 1, 0, 4, 1, 1, 1, 0, 0, 1, 0, 2, 1, 1),
        reduce=(1, 0, 1, 0, 0, 3, 0, 2, 1, 1, 3, 1, 1, 0, 0, 4, 0, 3, 1, 1),
    )
}
"""The authors' cells, from their script for CIFAR-10."""

FAMILY = Family("enas_micro", Arc, to_json, from_json, graphs, warnings, PUBLISHED)
