"""Accuracy over latency and over bytes of the forms of some networks: one page, from what was measured."""

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dass_jax.report import markup, style
from dass_jax.report.experiment.drawing import MARKERS, draw_front, logarithmic
from dass_jax.report.page import write_whole

HEADER = (
    ("network", ""),
    ("form", ""),
    ("accuracy", "%"),
    ("median", "ms"),
    ("p90", "ms"),
    ("× dense", "faster one"),
    ("size", "bytes"),
    ("memory", "MB"),
)


BEFORE = "before pruning"
"""The form of a network with all of its weights, whose time and size are those of the faster masked dense one."""


class Point(NamedTuple):
    """One form of one network."""

    accuracy: float
    ms: float
    bytes: int
    network: int
    form: str


def build(file: pathlib.Path, runs: Sequence[dict[str, Any]], about: str) -> pathlib.Path:
    """Writes the page; returns its path.

    Args:
      runs: what `python -m dass_jax.latency` has measured of each network.
      about: how: machine and repetitions.

    Raises:
      UserError: if it cannot be written.
    """
    with style.settings():
        html = page(runs, about)
    return write_whole(file, html.encode("utf-8", errors="replace"))


def page(runs: Sequence[dict[str, Any]], about: str) -> str:
    """The whole page as HTML."""
    title = "Accuracy, latency and size"
    parts = [markup.heading(title, 1), markup.paragraph(about)]
    points = list(_points(runs))
    if points:
        figures = [markup.image(figure, name) for name, figure in _figures(points, runs)]
        caption = (
            "Colours are networks, markers are forms, one image at a time. The grey steps join what nothing else beats "
            "in both (Pareto front)."
        )
        parts.append(markup.panels(figures, caption))
    if any(run["accuracy"] is None for run in runs):
        parts.append(markup.paragraph("Networks whose accuracy is not known are in the table alone.", "note"))
    parts.append(markup.rows_table(HEADER, _rows(runs)))
    return markup.page(title, "\n".join(parts))


def named(run: dict[str, Any]) -> str:
    """What a network is called: with the share of its weights that is pruned."""
    share = 100 * (1 - run["keep"])
    return f"{run['network']}, {share:g} % pruned" if share else run["network"]


def _points(runs: Sequence[dict[str, Any]]) -> Iterator[Point]:
    for number, run in enumerate(runs):
        if run["accuracy"] is not None:
            for form, one in run["forms"].items():
                yield Point(run["accuracy"], one["median_ms"], one["bytes"], number, form)
        if run["before"]["accuracy"] is not None:
            one = run["forms"][run["before"]["form"]]
            yield Point(run["before"]["accuracy"], one["median_ms"], one["bytes"], number, BEFORE)


def _figures(points: Sequence[Point], runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    forms = list(dict.fromkeys(point.form for point in points))
    for name, unit, label in (("ms", 1, "latency of one image [ms]"), ("bytes", 1000, "size on disk [kB]")):
        figure = Figure(figsize=(5.6, 4.4), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        places = [(getattr(point, name) / unit, point.accuracy) for point in points]
        for point, (x, y) in zip(points, places, strict=True):
            marker = MARKERS[forms.index(point.form) % len(MARKERS)]
            axes.plot(x, y, marker, color=style.colour(point.network), markersize=6, markeredgewidth=0)
        draw_front(axes, places)
        logarithmic(axes)
        style.tidy(axes, f"accuracy over {label.split(' [')[0]}", label, "test accuracy [%]")
        networks = [
            Line2D([], [], color=style.colour(n), linewidth=2, label=style.literal(named(run)))
            for n, run in enumerate(runs)
        ]
        marks = [
            Line2D([], [], color=style.INK, marker=MARKERS[n % len(MARKERS)], linestyle="", markersize=5, label=form)
            for n, form in enumerate(forms)
        ]
        figure.legend(handles=[*networks, *marks], loc="outside lower left", ncols=2, fontsize=7.5, frameon=False)
        yield f"accuracy over {label}", figure


def _rows(runs: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for run in runs:
        accuracy = "–" if run["accuracy"] is None or math.isnan(run["accuracy"]) else f"{run['accuracy']:.2f}"
        for form, one in run["forms"].items():
            memory = "–" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.1f}"
            speed = [f"{one[name]:.3f}" for name in ("median_ms", "p90_ms")]
            yield [named(run), form, accuracy, *speed, f"{one['speedup']:.2f}", f"{one['bytes']:,}", memory]
