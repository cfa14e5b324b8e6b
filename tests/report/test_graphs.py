"""The drawing of a graph: every edge is there once, leaves its source, and touches nothing that is not its own."""

import io
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from dass_jax.architectures.family import Edge, Graph
from dass_jax.report import graph_figure, graphs, style
from dass_jax.report.layout import PAGE, Box, Layout, depths, ladder, place, staircase
from tests.report.folders import DIAMOND, ONE, cell

FULL = Graph(
    "cell",
    ("0", "1", "2", "3"),
    (
        Edge("0", "1", "nor_conv_3x3"),
        Edge("0", "2", "none"),
        Edge("1", "2", "nor_conv_1x1"),
        Edge("0", "3", "skip_connect"),
        Edge("1", "3", "avg_pool_3x3"),
        Edge("2", "3", "none"),
    ),
)
DEEP = cell(
    "deep",
    (("avg_pool_3x3", 0), ("skip_connect", 1)),
    (("dil_conv_5x5", 1), ("skip_connect", 2)),
    (("avg_pool_3x3", 2), ("skip_connect", 1)),
    (("skip_connect", 4), ("skip_connect", 3)),
)
CHAIN = Graph("chain", tuple(map(str, range(22))), tuple(Edge(str(n), str(n + 1), "mbconv6_k5") for n in range(21)))
SIXTY = Graph(
    "sixty",
    tuple(map(str, range(12))),
    tuple(Edge(str(i), str(j), "sep_conv_3x3") for j in range(12) for i in range(j) if j - i < 8),
)


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Up to 9 nodes, some without an edge, and edges of which some are double and some have no label."""
    names = draw(st.lists(st.sampled_from("abcdefgh") | st.sampled_from(["c_{k-2}", "a longer name"]), unique=True))
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]
    labels = st.sampled_from(["", "x", "sep_conv_3x3", "an operation with a long name"])
    chosen = draw(st.lists(st.tuples(st.sampled_from(pairs), labels), max_size=25)) if pairs else []
    return Graph("any", tuple(names), tuple(Edge(names[i], names[j], label) for (i, j), label in chosen))


def touches(box: Box, x: tuple[float, float], y: tuple[float, float]) -> bool:
    """Whether the rectangle (a line, if it has no width or height) meets the box."""
    return box.left <= max(x) and min(x) <= box.right and box.top <= max(y) and min(y) <= box.bottom


def check(graph: Graph, found: Layout) -> None:
    labels = [(route.edge, route.label) for route in found.routes if route.label is not None]
    assert sorted(route.edge for route in found.routes) == sorted(graph.edges)
    assert set(found.nodes) == set(graph.nodes) and len(labels) == sum(bool(edge.label) for edge in graph.edges)
    boxes = [*found.nodes.values(), *(label for _, label in labels)]
    for index, box in enumerate(boxes):
        assert box.left > 0 and box.right < found.width and box.top > 0.3 and box.bottom < found.height
        for other in boxes[index + 1 :]:
            assert not touches(box, (other.left, other.right), (other.top, other.bottom))
    # A line is (its own boxes, x, y): a route's are its target and, if it leaves it directly, its source.
    lines = [
        ({route.edge.target} if route.branches else {*route.edge[:2]}, (route.start, route.end), (route.y, route.y))
        for route in found.routes
    ]
    for trunk in found.trunks:
        for (x, y), (other_x, other_y) in itertools.pairwise(trunk.corners):
            lines.append(({trunk.source}, (x, other_x), (y, other_y)))
    for own, x, y in lines:
        assert not any(touches(box, x, y) for name, box in found.nodes.items() if name not in own)
    for edge, label in labels:
        assert sum(touches(label, x, y) for _, x, y in lines) == 1, f"{edge}: its own line alone"
    heights = [route.y for route in found.routes if route.branches]
    assert len(set(heights)) == len(heights), "each edge has its own row"
    for route in found.routes:
        source, target = (found.nodes[name] for name in route.edge[:2])
        assert route.end == pytest.approx(target.left) and target.top < route.y < target.bottom
        if not route.branches:
            assert (route.start, route.y) == pytest.approx((source.right, source.y))
            continue
        (corners,) = (trunk.corners for trunk in found.trunks if trunk.source == route.edge.source)
        assert corners[-1][0] == route.start and corners[-2][1] < route.y <= corners[-1][1], "a dot on its trunk"
        from_left = corners[0][0] == pytest.approx(source.left) and source.top < corners[0][1] < source.bottom
        assert from_left or corners[0] == pytest.approx((source.x, source.bottom))


@settings(deadline=None)
@given(random_graphs())
def test_no_box_touches_another_or_a_line_that_is_not_its_own(graph: Graph) -> None:
    check(graph, staircase(graph))
    check(graph, ladder(graph))


@pytest.mark.parametrize("graph", [ONE, FULL, DEEP, DIAMOND, CHAIN, SIXTY], ids=lambda graph: graph.name)
def test_known_graphs_are_laid_out_and_fit_the_page(graph: Graph) -> None:
    found = place(graph)
    check(graph, found)
    assert found.width * 0.75 <= PAGE
    assert place(graph) == found


def test_a_cell_is_a_staircase_with_a_bar_and_a_deep_graph_a_ladder() -> None:
    found = place(DEEP)
    assert depths(DEEP) == {"c_{k-2}": 0, "c_{k-1}": 0, "2": 1, "3": 2, "4": 2, "5": 3, "c_k": 4}
    *stairs, bar = found.nodes.values()
    assert [box.x for box in stairs] == sorted(box.x for box in stairs)
    assert [box.top for box in stairs] == sorted(box.top for box in stairs)
    assert bar.left > max(box.right for box in stairs) and bar.height > 3 * stairs[-1].height
    assert len({box.left for box in place(CHAIN).nodes.values()}) == 1 and place(CHAIN).width < 3


def as_svg(figure: Figure) -> RendererSVG:
    """What measures texts as they are written, without the rounding of pixels."""
    figure.set_dpi(72)
    return RendererSVG(*figure.bbox.size, io.StringIO())


@pytest.mark.parametrize("graph", [DEEP, FULL, SIXTY, DIAMOND], ids=lambda graph: graph.name)
def test_the_figure_has_each_edge_once_and_its_texts_fit_their_boxes(graph: Graph) -> None:
    figure = graph_figure(graph, "a title")
    renderer = as_svg(figure)
    axes = figure.axes[0]
    edges = [text for text in axes.texts if text.get_gid()]
    assert sorted(text.get_gid() for text in edges) == sorted(f"edge-{a}-{b}-{label}" for a, b, label in graph.edges)
    assert all(text.get_gid().endswith("-" + text.get_text()) for text in edges)
    assert figure.get_size_inches()[0] <= PAGE + 1e-6
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(graph.nodes) + sum(bool(edge.label) for edge in graph.edges)
    title, *shown = (text for text in axes.texts if text.get_text())
    assert title.get_text() == "a title"
    for text in shown:
        inside = text.get_window_extent(renderer)
        assert any(box.x0 < inside.x0 and inside.x1 < box.x1 and box.y0 < inside.y0 for box in boxes)


def test_a_wide_graph_is_made_smaller_and_a_long_title_does_not_widen_it() -> None:
    names = ("a b " * 30 + "a", "b a " * 30 + "b")
    figure = graph_figure(Graph("wide", names, (Edge(*names, "x y " * 40 + "x"),)), "title " * 60)
    renderer = as_svg(figure)
    assert figure.get_size_inches()[0] == pytest.approx(PAGE)
    assert all(text.get_window_extent(renderer).x1 < figure.bbox.x1 for text in figure.axes[0].texts)


def test_an_empty_graph_is_a_title() -> None:
    assert [text.get_text() for text in graph_figure(Graph("none", (), ()), "nothing").axes[0].texts] == ["nothing"]


def test_dot_has_each_edge_and_quotes_names() -> None:
    lines = graphs.dot(DEEP, 'a "b"').splitlines()
    assert lines[0] == r'digraph "a \"b\"" {'
    assert '  "2" -> "3" [label="skip_connect"];' in lines
    assert '  "c_{k-2}" -> "2" [label="avg_pool_3x3"];' in lines
    assert sum("label=" in line for line in lines) == 8
    assert sum('-> "c_k";' in line for line in lines) == 4
    assert r'  "\"";' in graphs.dot(Graph("", ('"',), ()), "").splitlines()


def test_a_label_is_coloured_by_its_family() -> None:
    colours = {label: style.label_colours(label) for label in ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")}
    assert colours["sep_conv_3x3"] == colours["sep_conv_5x5"] != colours["dil_conv_3x3"]
    known = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3", "none", "nor_conv_1x1")
    assert len({style.label_colours(label) for label in known}) == len(known)
    letters = random.Random(0)
    assert len({style.label_colours("".join(letters.choices("abcdef", k=5))) for _ in range(200)}) == 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("c_{k-2}", "$c_{k-2}$"),
        ("c_k", "$c_k$"),
        ("c_{k-1} → x_0", "$c_{k-1}$ → $x_0$"),
        ("skip_connect", "skip_connect"),
        ("max_p", "max_p"),
        ("c_{a_b_c}", "c_{a_b_c}"),
        ("$c_k$", r"\$c_k\$"),
        ("a\nb\x00", "a�b�"),
    ],
)
def test_an_index_is_set_as_a_formula_and_all_else_letter_by_letter(text: str, shown: str) -> None:
    assert style.formula(text) == shown
    assert style.text_width(style.formula(text), 10) > 0
