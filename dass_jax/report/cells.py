"""Drawing of a cell, and its text for Graphviz.

The nodes go down a staircase, inputs first. Under each source runs a vertical line; an edge leaves it at the height of
the node it enters, passes through a label with the operation's name and ends at the node:

    c_{k-2}
       |   c_{k-1}
       |      |
       +------|---[skip_connect]-->+---+
              +---[sep_conv_3x3]-->| 2 |-------- c_k
                                   +---+

Labels of node j lie between the columns of source j − 1 and node j, in rows of their own, where no vertical line runs.
So no label can touch a node, a line that is not its own, or another label, whatever the genotype.
"""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dass_jax.architectures.darts import Cell
from dass_jax.report.style import INK, literal

_LABEL, _NODE, _INPUT, _OUTPUT = 1.06, 0.36, 0.58, 0.40  # widths of the boxes in inches
_LINE, _BOX, _GAP = 0.28, 0.22, 0.22  # distance of two edges of a node, height of a label, gap between nodes
_ARROW, _SPACE = 0.24, 0.16  # label to node, vertical line to label
_KINDS = {  # start of the operation's name -> colour of its line, colour of its label
    "max_pool": ("#7A5195", "#EFE3F5"),
    "avg_pool": ("#1F6FA8", "#DDEEF9"),
    "skip": ("#666666", "#EEEEEE"),
    "sep": ("#B35900", "#FFE9D1"),
    "dil": ("#1B7F4B", "#DCF3E6"),
}


class _Place(NamedTuple):
    """Centre and size of a box in inches; y is measured upwards from the figure's lower edge."""

    x: float
    y: float
    width: float
    height: float


def input_name(index: int) -> str:
    """Name of a cell's input or node as the genotype numbers it, with matplotlib's formula marks."""
    return ("$c_{k-2}$", "$c_{k-1}$")[index] if index < 2 else str(index)


def cell_figure(cell: Cell, title: str) -> Figure:
    """The graph of one cell. Each edge's label is a text whose gid is `edge-<input>-<node>-<operation>`."""
    places, width, height = _places(cell)
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))  # so one unit is one inch
    axes.axis("off")
    axes.text(0.12, height - 0.12, literal(title), fontsize=11, weight="bold", ha="left", va="top", color=INK)
    for node, pairs in enumerate(cell, start=2):
        for row, (operation, source) in enumerate(pairs):
            y = places[node].y + ((len(pairs) - 1) / 2 - row) * _LINE
            _edge(axes, operation, (source, places[source]), (node, places[node]), y)
    _output(axes, places[2:], width)
    for index, place in enumerate(places):
        _box(axes, place, "#FFFFFF" if index < 2 else "#E8EEF7", INK)
        axes.text(place.x, place.y, input_name(index), fontsize=10, ha="center", va="center", color=INK, zorder=5)
    return figure


def dot(cell: Cell, title: str) -> str:
    """The cell as text in Graphviz's DOT language."""
    names = ["c_{k-2}", "c_{k-1}", *(str(node) for node in range(2, len(cell) + 2))]
    quoted = title.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f'digraph "{quoted}" {{', "  rankdir=LR;", "  node [shape=box];"]
    for node, pairs in enumerate(cell, start=2):
        lines += [f'  "{names[source]}" -> "{node}" [label="{operation}"];' for operation, source in pairs]
    lines += [f'  "{node}" -> "c_k";' for node in names[2:]]
    return "\n".join([*lines, "}"])


def _places(cell: Cell) -> tuple[list[_Place], float, float]:
    """Boxes of the inputs and nodes in the genotype's numbering, and the figure's width and height."""
    heights = [len(pairs) * _LINE for pairs in cell]
    height = 0.42 + 2 * (0.32 + 0.10) + sum(heights) + len(cell) * _GAP + 0.04
    places = [
        _Place(0.12 + _INPUT / 2, height - 0.42 - 0.16, _INPUT, 0.32),
        _Place(0.12 + 1.5 * _INPUT + 0.12, height - 0.42 - 0.16 - 0.42, _INPUT, 0.32),
    ]
    for index, tall in enumerate(heights):
        last = places[-1]
        # The first label clears the box of c_{k-1}, which is wider than a node.
        x = last.x + _SPACE + _LABEL + _ARROW + _NODE / 2 + (_INPUT / 4 if index == 0 else 0)
        places.append(_Place(x, last.y - last.height / 2 - _GAP - tall / 2, _NODE, tall))
    return places, places[-1].x + _NODE / 2 + 0.5 + _OUTPUT + 0.12, height


def _edge(axes: Axes, operation: str, source: tuple[int, _Place], node: tuple[int, _Place], y: float) -> None:
    """Line down from the source, junction, line to the label, label, arrow to the node, all at the height `y`."""
    line, face = next(colours for start, colours in _KINDS.items() if operation.startswith(start))
    end = node[1].x - _NODE / 2
    label = _Place(end - _ARROW - _LABEL / 2, y, _LABEL, _BOX)
    start = source[1]
    axes.plot([start.x, start.x], [start.y - start.height / 2, y], color="#9AA3AD", linewidth=1.2, zorder=1)
    axes.plot([start.x], [y], marker="o", markersize=3.5, color=line, zorder=3)
    axes.plot([start.x, label.x], [y, y], color=line, linewidth=1.4, zorder=2)
    _arrow(axes, label.x + _LABEL / 2, end, y, line)
    _box(axes, label, face, line)
    gid = f"edge-{source[0]}-{node[0]}-{operation}"
    axes.text(label.x, y, operation, fontsize=8.5, ha="center", va="center", color=INK, zorder=5, gid=gid)


def _output(axes: Axes, nodes: list[_Place], width: float) -> None:
    """The bar c_k at the right edge and an arrow to it from every intermediate node."""
    top, bottom = nodes[0].y + nodes[0].height / 2, nodes[-1].y - nodes[-1].height / 2
    bar = _Place(width - 0.12 - _OUTPUT / 2, (top + bottom) / 2, _OUTPUT, top - bottom)
    for node in nodes:
        _arrow(axes, node.x + _NODE / 2, bar.x - _OUTPUT / 2, node.y, "#9AA3AD")
    _box(axes, bar, "#FFFFFF", INK)
    axes.text(bar.x, bar.y, "$c_k$", fontsize=10, ha="center", va="center", color=INK, zorder=5)


def _arrow(axes: Axes, start: float, end: float, y: float, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", xy=(end, y), xytext=(start, y), arrowprops=style, zorder=2)


def _box(axes: Axes, place: _Place, face: str, line: str) -> None:
    corner = (place.x - place.width / 2, place.y - place.height / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(corner, place.width, place.height, style, facecolor=face, edgecolor=line, linewidth=1, zorder=4)
    )
