"""The drawing of a cell: every edge is there once, leaves its source, and touches nothing else."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch

from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.report import cell_figure
from dass_jax.report.cells import dot


@pytest.mark.parametrize("name", sorted(PUBLISHED))
@pytest.mark.parametrize("kind", Genotype._fields)
def test_cell_figure_draws_each_edge_once_and_nothing_overlaps(name: str, kind: str) -> None:
    cell = getattr(PUBLISHED[name], kind)
    figure = cell_figure(cell, name)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    edges = [text for text in axes.texts if (text.get_gid() or "").startswith("edge-")]
    expected = [f"edge-{source}-{node}-{op}" for node, pairs in enumerate(cell, start=2) for op, source in pairs]
    assert sorted(text.get_gid() for text in edges) == sorted(expected)
    assert all(text.get_gid().endswith("-" + text.get_text()) for text in edges)
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(expected) + len(cell) + 3
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) and figure.bbox.containsy(box.y0)
    lines = [line.get_window_extent(renderer) for line in axes.lines if len(set(line.get_xdata())) == 1]
    labels = [box for box in boxes if any(box.contains(*text.get_window_extent(renderer).min) for text in edges)]
    assert len(labels) == len(edges)
    assert not any(line.overlaps(label) for line in lines for label in labels)
    for text in edges:
        inside = text.get_window_extent(renderer)
        assert any(box.x0 < inside.x0 and inside.x1 < box.x1 and box.y0 < inside.y0 for box in boxes)


def test_cell_figure_takes_each_edge_from_its_source() -> None:
    """The junction of an edge lies under the centre of its source and beside the label of the edge."""
    cell = PUBLISHED["dass_99"].normal
    axes = cell_figure(cell, "").axes[0]
    names = {text.get_text(): text.get_position() for text in axes.texts}
    junctions = {
        (round(x, 6), round(y, 6)) for line in axes.lines if line.get_marker() == "o" for x, y in line.get_xydata()
    }
    labels = {text.get_gid(): text.get_position() for text in axes.texts if text.get_gid()}
    for node, pairs in enumerate(cell, start=2):
        for operation, source in pairs:
            name = ("$c_{k-2}$", "$c_{k-1}$")[source] if source < 2 else str(source)
            y = labels[f"edge-{source}-{node}-{operation}"][1]
            assert (round(names[name][0], 6), round(y, 6)) in junctions


def test_dot_has_each_edge_and_quotes_the_title() -> None:
    lines = dot(PUBLISHED["dass_99"].normal, 'a "b"').splitlines()
    assert lines[0] == r'digraph "a \"b\"" {'
    assert '  "2" -> "3" [label="skip_connect"];' in lines
    assert '  "c_{k-2}" -> "2" [label="avg_pool_3x3"];' in lines
    assert sum("label=" in line for line in lines) == 8
    assert sum('-> "c_k"' in line for line in lines) == 4
