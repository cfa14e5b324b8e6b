"""Drawing of an architecture's graph, its text for Graphviz, and the architectures that a run's files hold."""

import json
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dass_jax.architectures.family import Edge, Graph
from dass_jax.errors import UserError
from dass_jax.report.fields import field, listed, name, section, short, text, texts
from dass_jax.report.layout import LABEL_SIZE, NAME_SIZE, PAGE, Box, Route, place
from dass_jax.report.style import INK, formula, label_colours, literal, text_width

_TRUNK, _TITLE_SIZE = "#9AA3AD", 11.0


class Architecture(NamedTuple):
    """What a method found: as JSON text, as graphs, and part → why it has degenerated."""

    json: str
    graphs: tuple[Graph, ...]
    warnings: dict[str, str]


def read(data: dict[str, Any], origin: str) -> Architecture | None:
    """The architecture in a file's object; None where it is null.

    Raises:
      UserError: naming `origin` and the place of what is not a graph without cycles.
    """
    if field(data, "architecture", origin) is None:
        return None
    found = section(data["architecture"], f"{origin}: architecture")
    graphs = listed(data.get("graphs", []), f"{origin}: graphs")
    warnings = section(data.get("warnings") or {}, f"{origin}: warnings")
    return Architecture(
        json.dumps(found, ensure_ascii=False),
        tuple(_graph(graph, f"{origin}: graphs[{index}]") for index, graph in enumerate(graphs)),
        {part: text(warnings, part, f"{origin}: warnings") for part in warnings},
    )


def _graph(data: Any, origin: str) -> Graph:
    data = section(data, origin)
    nodes = texts(field(data, "nodes", origin), f"{origin}: nodes")
    if len(set(nodes)) < len(nodes):
        raise UserError(f"{origin}: nodes = {short(list(nodes))}; allowed: names that differ")
    edges = listed(field(data, "edges", origin), f"{origin}: edges")
    found = [_edge(edge, nodes, f"{origin}: edges[{index}]") for index, edge in enumerate(edges)]
    return Graph(name(data, "name", origin), nodes, tuple(found))


def _edge(data: Any, nodes: tuple[str, ...], place: str) -> Edge:
    allowed = "allowed: [source, target, operation] with the source before the target in nodes"
    if not isinstance(data, list) or len(data) != 3 or not all(isinstance(part, str) for part in data):
        raise UserError(f"{place} = {short(data)}; {allowed}")
    edge = Edge(*data)
    if not {edge.source, edge.target} <= set(nodes) or nodes.index(edge.source) >= nodes.index(edge.target):
        raise UserError(f"{place} = {short(data)}; {allowed}")
    return edge


def graph_figure(graph: Graph, title: str) -> Figure:
    """A drawing as wide as the report's page at most.

    Each edge's label is a text whose gid is `edge-<source>-<target>-<label>`; of an edge without a label the arrow has
    that gid.
    """
    found = place(graph)
    scale = min(1.0, PAGE / found.width)
    heading = text_width(literal(title), _TITLE_SIZE, bold=True) + 0.01
    width = min(max(found.width, (heading + 0.24) / scale), PAGE / scale)
    size = _TITLE_SIZE * min(1.0, (width - 0.24) * scale / heading, scale / 0.6)
    figure = Figure(figsize=(width * scale, found.height * scale), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(found.height, 0))
    axes.axis("off")
    axes.text(0.12, 0.12, literal(title), fontsize=size, weight="bold", ha="left", va="top", color=INK)
    for trunk in found.trunks:
        x, y = zip(*trunk.corners, strict=True)
        axes.plot(x, y, color=_TRUNK, linewidth=1.2 * scale, zorder=1)
    for route in found.routes:
        _draw_route(axes, route, scale)
    entered = {edge.target for edge in graph.edges}
    left = {edge.source for edge in graph.edges}
    for node, box in found.nodes.items():
        _draw_box(axes, box, "#E8EEF7" if node in entered and node in left else "#FFFFFF", INK, scale)
        style: Any = {"fontsize": NAME_SIZE * scale, "ha": "center", "va": "center", "color": INK, "zorder": 5}
        axes.text(box.x, box.y, formula(node), **style)
    return figure


def _draw_route(axes: Axes, route: Route, scale: float) -> None:
    """Dot, line to the label, label, arrow to the node, all at one height."""
    edge, label = route.edge, route.label
    line, face = label_colours(edge.label) if edge.label else (_TRUNK, "")
    gid = literal(f"edge-{edge.source}-{edge.target}-{edge.label}")
    if route.branches:
        axes.plot([route.start], [route.y], marker="o", markersize=3.5 * scale, color=line, zorder=3)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": line, "linewidth": 1.3 * scale, "shrinkA": 0, "shrinkB": 0}
    arrow["mutation_scale"] = 9 * scale
    start = route.start if label is None else label.right
    tip = axes.annotate("", xy=(route.end, route.y), xytext=(start, route.y), arrowprops=arrow, zorder=2)
    if label is None:
        tip.set_gid(gid)
        return
    axes.plot([route.start, label.x], [route.y, route.y], color=line, linewidth=1.4 * scale, zorder=2)
    _draw_box(axes, label, face, line, scale)
    style: Any = {"fontsize": LABEL_SIZE * scale, "ha": "center", "va": "center", "color": INK, "zorder": 5}
    axes.text(label.x, label.y, literal(edge.label), gid=gid, **style)


def _draw_box(axes: Axes, box: Box, face: str, line: str, scale: float) -> None:
    style = "round,pad=0,rounding_size=0.06"
    look: Any = {"facecolor": face, "edgecolor": line, "linewidth": scale, "zorder": 4}
    axes.add_patch(FancyBboxPatch((box.left, box.top), box.width, box.height, style, **look))


def dot(graph: Graph, title: str) -> str:
    """The graph as text in Graphviz's DOT language."""
    lines = [f"digraph {_quoted(title)} {{", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(node)};" for node in graph.nodes]
    for edge in graph.edges:
        label = f" [label={_quoted(edge.label)}]" if edge.label else ""
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)}{label};")
    return "\n".join([*lines, "}"])


def sentence(graph: Graph) -> str:
    """The graph in words."""
    by = (f" by {edge.label}" if edge.label else "" for edge in graph.edges)
    return "; ".join(f"{edge.source} to {edge.target}{how}" for edge, how in zip(graph.edges, by, strict=True))


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
