"""Where the nodes, lines and labels of a graph are drawn, whatever graph it is. Lengths in inches, y downwards.

Each node has rows of its own, one for each edge that enters it. Under each source runs a vertical line, its trunk; an
edge leaves it in its row, passes through its label and ends at its node:

    first input
       |   second input
       |      |
       +------|---[an operation]-->+---+
              +---[another one]--->| a |-------- output
                                   +---+

In the staircase the nodes stand in columns by their distance from the inputs, and the labels between two columns, where
no trunk runs. A graph too deep for the page becomes a ladder: all nodes in one column, all labels left of them and the
trunks left of these, each with a row in which it leaves its node. In both nothing but an edge's own line is in its row
where labels stand, and nothing but nodes in the columns of nodes: no label can touch a node, another label or a line
that is not its own. A last node to which all lines are mere arrows is a bar at the right edge.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dass_jax.architectures.family import Edge, Graph
from dass_jax.report.style import formula, literal, text_width

PAGE = 9.9
"""Width of the report's page; a wider drawing is made smaller."""

NAME_SIZE, LABEL_SIZE = 10.0, 8.5  # points
LABEL_HEIGHT = 0.22
_SMALLEST = 0.75  # a staircase is not made smaller than this
_TOP, _MARGIN, _LINE = 0.42, 0.12, 0.28  # title, edge of the figure, distance of two rows
_NODE, _INPUT, _BAR, _LOW = 0.36, 0.58, 0.40, 0.32  # least widths, and the least height of a node
_GAP, _STEP = 0.22, 0.12  # between nodes below one another; between a trunk and the next node of its column
_ARROW, _SPACE, _SLOT, _OUT = 0.24, 0.14, 0.15, 0.5  # label to node, trunk to label, trunk to trunk, node to bar


class Box(NamedTuple):
    """A rectangle by its centre."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2


class Route(NamedTuple):
    """The level line of an edge from x = `start` to its arrow's tip at x = `end`."""

    edge: Edge
    y: float
    start: float
    end: float
    label: Box | None
    branches: bool
    """It leaves a trunk, where a dot is drawn, and not its source itself."""


class Trunk(NamedTuple):
    """The line from a source down to the lowest of its edges, by its corners."""

    source: str
    corners: tuple[tuple[float, float], ...]


class Layout(NamedTuple):
    """Everything that is drawn."""

    nodes: dict[str, Box]
    routes: tuple[Route, ...]
    trunks: tuple[Trunk, ...]
    width: float
    height: float


class _Rows(NamedTuple):
    """Of a node: its upper edge, its height, the heights of its edges' rows and that of the row it is left by."""

    top: float
    height: float
    edges: tuple[float, ...]
    out: float


def place(graph: Graph) -> Layout:
    """The staircase, or the ladder where the staircase is much wider than the page."""
    found = staircase(graph)
    return found if found.width * _SMALLEST <= PAGE else ladder(graph)


def depths(graph: Graph) -> dict[str, int]:
    """The most edges on a way from an input to each node."""
    found = dict.fromkeys(graph.nodes, 0)
    for node in graph.nodes:
        found[node] = max((found[edge.source] + 1 for edge in graph.edges if edge.target == node), default=0)
    return found


def staircase(graph: Graph) -> Layout:
    """Columns of nodes by their distance from the inputs."""
    bar = _bar(graph)
    rows, depth = _rows(graph, bar, leaving=False), depths(graph)
    nodes: dict[str, Box] = {}
    labels: dict[str, tuple[float, float]] = {}  # node -> left and right end of the labels before it
    trunk, end = 0.0, 0.0  # the last trunk's and the boxes' right end so far
    for column in range(max(depth.values(), default=0) + 1):
        members = [node for node in graph.nodes if depth[node] == column and node != bar]
        left = trunk + _SPACE if column else _MARGIN
        width = max((_label_width(edge) for edge in graph.edges if edge.target in members), default=0.0)
        labels |= dict.fromkeys(members, (left, left + width))
        x = max(left + width + _ARROW, end + _STEP) if column else left
        for node in members:
            nodes[node] = _box(graph, node, x, rows[node])
            x, trunk, end = nodes[node].x + _STEP, nodes[node].x, max(end, nodes[node].right)
        trunk += nodes[members[-1]].width / 4 if members else 0.0  # labels keep off wide names above them
    sources = {node: (box.x, box.bottom) for node, box in nodes.items()}
    routes = [_route(edge, y, sources[edge.source][0], nodes, labels) for edge, y in _inner(graph, bar, rows)]
    trunks = _trunks(routes, {node: (start,) for node, start in sources.items()})
    return _finished(nodes, routes, trunks, _barred(graph, bar, nodes))


def ladder(graph: Graph) -> Layout:
    """One column of nodes."""
    bar = _bar(graph)
    rows = _rows(graph, bar, leaving=True)
    inner = _inner(graph, bar, rows)
    reach = {node: max((y for edge, y in inner if edge.source == node), default=0.0) for node in rows}
    slots: list[float] = []  # the lower end of the last trunk in each slot, from the right
    slot: dict[str, int] = {}
    for node in rows:
        if reach[node]:
            free = (index for index, low in enumerate(slots) if low < rows[node].out - _LINE / 2)
            slot[node] = next(free, len(slots))
            slots[slot[node] : slot[node] + 1] = [reach[node]]
    left = _MARGIN + len(slots) * _SLOT + _SPACE
    right = left + max((_label_width(edge) for edge, _ in inner), default=0.0)
    nodes = {node: _box(graph, node, right + _ARROW, found) for node, found in rows.items()}
    across = {node: left - _SPACE - index * _SLOT for node, index in slot.items()}
    routes = [_route(edge, y, across[edge.source], nodes, dict.fromkeys(nodes, (left, right))) for edge, y in inner]
    corners = {
        node: ((nodes[node].left, rows[node].out), (across[node], rows[node].out)) for node in nodes if node in across
    }
    return _finished(nodes, routes, _trunks(routes, corners), _barred(graph, bar, nodes))


def _bar(graph: Graph) -> str | None:
    """The last node that is entered by arrows without labels alone, one from each source, and that no edge leaves."""
    for node in reversed(graph.nodes):
        into = [edge for edge in graph.edges if edge.target == node]
        plain = into and not any(edge.label for edge in into) and len(set(into)) == len(into)
        if plain and all(edge.source != node for edge in graph.edges):
            return node
    return None


def _rows(graph: Graph, bar: str | None, leaving: bool) -> dict[str, _Rows]:
    """The rows of all nodes but the bar; with one more for each that is left, if `leaving`."""
    found: dict[str, _Rows] = {}
    low = _TOP
    for node in graph.nodes:
        if node == bar:
            continue
        into = sum(edge.target == node for edge in graph.edges)
        count = into + (leaving and any(edge.source == node and edge.target != bar for edge in graph.edges))
        height = max(count * _LINE, _LOW)
        top = low + (0.0 if not found else _GAP if into else _GAP / 2)
        first = top + height / 2 - (count - 1) / 2 * _LINE
        levels = [first + index * _LINE for index in range(count)]
        found[node] = _Rows(top, height, tuple(levels[:into]), levels[-1] if levels else first)
        low = top + height
    return found


def _inner(graph: Graph, bar: str | None, rows: dict[str, _Rows]) -> list[tuple[Edge, float]]:
    """The edges that do not enter the bar, each with its row."""
    return [
        pair
        for node in rows
        for pair in zip((edge for edge in graph.edges if edge.target == node), rows[node].edges, strict=True)
    ]


def _box(graph: Graph, node: str, left: float, rows: _Rows) -> Box:
    least = _NODE if any(edge.target == node for edge in graph.edges) else _INPUT
    width = max(least, text_width(formula(node), NAME_SIZE) + 0.14)
    return Box(left + width / 2, rows.top + rows.height / 2, width, rows.height)


def _label_width(edge: Edge) -> float:
    return text_width(literal(edge.label), LABEL_SIZE) + 0.16 if edge.label else 0.0


def _route(edge: Edge, y: float, x: float, nodes: dict[str, Box], labels: dict[str, tuple[float, float]]) -> Route:
    left, right = labels[edge.target]
    label = Box((left + right) / 2, y, right - left, LABEL_HEIGHT) if edge.label else None
    return Route(edge, y, x, nodes[edge.target].left, label, branches=True)


def _trunks(routes: list[Route], starts: Mapping[str, tuple[tuple[float, float], ...]]) -> tuple[Trunk, ...]:
    """That of each source, whose first corners are its `starts`."""
    lowest = {node: max((route.y for route in routes if route.edge.source == node), default=0.0) for node in starts}
    return tuple(Trunk(node, (*start, (start[-1][0], lowest[node]))) for node, start in starts.items() if lowest[node])


def _barred(graph: Graph, bar: str | None, nodes: dict[str, Box]) -> tuple[dict[str, Box], list[Route]]:
    """The bar, as high as its sources together, and the arrows to it."""
    if bar is None:
        return {}, []
    edges = [edge for edge in graph.edges if edge.target == bar]
    sources = [nodes[edge.source] for edge in edges]
    top, bottom = min(box.top for box in sources), max(box.bottom for box in sources)
    width = max(_BAR, text_width(formula(bar), NAME_SIZE) + 0.14)
    x = max(box.right for box in nodes.values()) + _OUT
    arrows = [Route(edge, nodes[edge.source].y, nodes[edge.source].right, x, None, False) for edge in edges]
    return {bar: Box(x + width / 2, (top + bottom) / 2, width, bottom - top)}, arrows


def _finished(
    nodes: dict[str, Box], routes: list[Route], trunks: tuple[Trunk, ...], barred: tuple[dict[str, Box], list[Route]]
) -> Layout:
    boxes = {**nodes, **barred[0]}
    width = max((box.right for box in boxes.values()), default=0.0) + _MARGIN
    height = max((box.bottom for box in boxes.values()), default=_TOP) + _MARGIN
    return Layout(boxes, (*routes, *barred[1]), trunks, width, height)
