"""An architecture as frozen plain data: two cells, each a tuple of nodes, each a tuple of (operation, input) pairs.

Inputs of a cell are numbered as in DARTS (arXiv 1806.09055): 0 and 1 are the outputs of the cell before the previous
one and of the previous one, 2, 3, … the cell's own intermediate nodes. The cell's output is the concatenation of all
its connected intermediate nodes.

The published cells have two edges at each node. A search that leaves edges out may find nodes with any number of them;
a node without edges is not connected: nothing reads it, and it is no part of the output.
"""

from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, members, short
from dass_jax.errors import UserError, nearest

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operations of an edge, in the order of α's last axis. `none` is searched over but never derived."""

OPERATIONS = PRIMITIVES[1:]

Node = tuple[tuple[str, int], ...]
Cell = tuple[Node, ...]


class Genotype(NamedTuple):
    """`normal` and `reduce` cells: for each intermediate node the pairs (operation, input); no pair: not connected."""

    normal: Cell
    reduce: Cell


def edges(nodes: int) -> tuple[tuple[int, int], ...]:
    """The (input, node) pairs of a cell with `nodes` intermediate nodes, in the order of α's first axis.

    Node j (numbered from 2) has one edge from each of the inputs 0 … j−1: 2 + 3 + … , so 14 edges for 4 nodes.
    """
    return tuple((source, node) for node in range(2, nodes + 2) for source in range(node))


def reductions(cells: int) -> tuple[int, ...]:
    """Indices of the reduction cells: a third and two thirds of the depth (spec of DARTS and DASS)."""
    return tuple(sorted({cells // 3, 2 * cells // 3}))


def connected(cell: Cell) -> tuple[int, ...]:
    """The cell's connected nodes, numbered from 2."""
    return tuple(node for node, pairs in enumerate(cell, start=2) if pairs)


def skips(cell: Cell) -> int:
    """How many of a cell's operations are skip connections."""
    return sum(operation == "skip_connect" for node in cell for operation, _ in node)


def collapsed(genotype: Genotype) -> dict[str, str]:
    """Which cells have degenerated, and by what sign.

    A search collapses when its skip connections, the only edges that gradients pass unchanged, win over everything that
    learns (DARTS+, arXiv 1909.06035, which stops a search at two in a normal cell). The signs here are stronger: at
    least half of a cell's operations are skip connections, or a normal cell has no convolution at all. A cell may also
    have lost all of its edges.
    """
    found = {}
    for name, cell in genotype._asdict().items():
        operations = [operation for node in cell for operation, _ in node]
        if not operations:
            found[name] = "no node is connected: the cell puts out zeros"
        elif 2 * skips(cell) >= len(operations):
            found[name] = f"{skips(cell)} of {len(operations)} operations are skip connections"
        elif name == "normal" and not any("conv" in operation for operation in operations):
            found[name] = "no operation is a convolution"
    return found


def to_json(genotype: Genotype) -> dict[str, Any]:
    """JSON-able dictionary `{"normal": [[[operation, input], …], …], "reduce": …}`."""
    return {
        name: [[[operation, source] for operation, source in node] for node in cell]
        for name, cell in genotype._asdict().items()
    }


def from_json(data: Any, origin: str = "architecture") -> Genotype:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    given = members(data, Genotype._fields, origin, "'normal' and 'reduce'")
    cells = {name: _cell(cell, f"{origin}: {name}") for name, cell in given.items()}
    if len(cells["normal"]) != len(cells["reduce"]):
        raise UserError(
            f"{origin}: normal has {len(cells['normal'])} nodes and reduce {len(cells['reduce'])}; "
            "allowed: equally many"
        )
    return Genotype(**cells)


def _cell(data: Any, place: str) -> Cell:
    if not isinstance(data, list) or not data:
        raise UserError(f"{place} = {short(data)}; allowed: a list of nodes, each a list of [operation, input] pairs")
    found: list[Node] = []
    for index, node in enumerate(data, start=2):
        found.append(_node(node, f"{place}, node {index}", (0, 1, *connected(tuple(found)))))
    return tuple(found)


def _node(data: Any, place: str, inputs: tuple[int, ...]) -> Node:
    if not isinstance(data, list):
        raise UserError(f"{place} = {short(data)}; allowed: a list of [operation, input] pairs")
    return tuple(_pair(pair, place, inputs) for pair in data)


def _pair(data: Any, place: str, inputs: tuple[int, ...]) -> tuple[str, int]:
    if not isinstance(data, list) or len(data) != 2:
        raise UserError(f"{place}: {short(data)}; allowed: a pair [operation, input]")
    operation, source = data
    if operation not in OPERATIONS:
        hint = nearest(operation, OPERATIONS) if isinstance(operation, str) else ""
        raise UserError(f"{place}: operation {short(operation)}{hint}; allowed: {', '.join(OPERATIONS)}")
    if type(source) is not int or source not in inputs:
        raise UserError(f"{place}: input {short(source)}; allowed: {', '.join(map(str, inputs))}")
    return operation, source


_SHORT = {
    "max3": "max_pool_3x3",
    "avg3": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}


def _published(normal: str, reduce: str) -> Genotype:
    def cell(text: str) -> Cell:
        pairs = (node.split() for node in text.split("|"))
        return tuple(tuple((_SHORT[pair[:-1]], int(pair[-1])) for pair in node) for node in pairs)

    return Genotype(cell(normal), cell(reduce))


PUBLISHED = {
    # DASS (arXiv 2207.06968), the cells searched at 99, 95 and 90 % of the weights pruned.
    "dass_99": _published(
        "avg30 skip1 | dil51 skip2 | avg32 skip1 | skip4 skip3",
        "max31 sep30 | max31 dil32 | skip0 dil32 | max31 skip4",
    ),
    "dass_95": _published(
        "sep50 skip1 | dil51 sep32 | dil32 sep30 | sep32 sep30",
        "sep30 avg31 | sep30 sep52 | sep51 sep52 | dil31 dil32",
    ),
    "dass_90": _published(
        "dil31 dil50 | sep50 dil51 | sep50 sep33 | sep32 dil50",
        "skip1 skip0 | dil51 dil52 | dil52 dil53 | dil53 skip0",
    ),
    # The same authors' own dense search, the paper's main baseline.
    "darts_sparse": _published(
        "sep30 sep31 | skip0 skip1 | skip0 skip2 | skip0 skip1",
        "avg30 dil31 | skip2 avg30 | skip2 avg30 | avg30 skip2",
    ),
    # DARTS (arXiv 1806.09055), first and second order.
    "darts_v1": _published(
        "sep31 sep30 | skip0 sep31 | skip0 sep31 | sep30 skip2",
        "max30 max31 | skip2 max30 | max30 skip2 | skip2 avg30",
    ),
    "darts_v2": _published(
        "sep30 sep31 | sep30 sep31 | sep31 skip0 | skip0 dil32",
        "max30 max31 | skip2 max31 | max30 skip2 | skip2 max31",
    ),
}
"""Published genotypes by name."""


def input_name(index: int) -> str:
    """What a cell's input or node of that number is called."""
    return ("c_{k-2}", "c_{k-1}")[index] if index < 2 else str(index)


def graphs(genotype: Genotype) -> tuple[Graph, ...]:
    """Both cells, from their two inputs to their output c_k, which joins all connected nodes; without the others."""
    return tuple(_graph(f"{title} cell", cell) for title, cell in zip(("normal", "reduction"), genotype, strict=True))


def _graph(name: str, cell: Cell) -> Graph:
    nodes = [input_name(index) for index in connected(cell)]
    edges = [
        Edge(input_name(source), input_name(node), operation)
        for node, pairs in enumerate(cell, start=2)
        for operation, source in pairs
    ]
    inputs = input_name(0), input_name(1)
    return Graph(name, (*inputs, *nodes, "c_k"), (*edges, *(Edge(node, "c_k", "") for node in nodes)))


FAMILY = Family("darts", Genotype, to_json, from_json, graphs, collapsed, PUBLISHED)
