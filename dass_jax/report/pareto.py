"""The main metric over latency and over bytes of the forms of some networks: one page, from what was measured."""

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dass_jax.report import markup, style
from dass_jax.report.experiment.drawing import MARKERS, draw_front, logarithmic
from dass_jax.report.page import write_whole
from dass_jax.report.tables import decimals, in_brackets

BEFORE = "before pruning"
"""The form of a network with all of its weights, whose time and size are those of the faster masked dense one."""


class Point(NamedTuple):
    """One form of one network."""

    value: float
    """Of the main metric."""
    ms: float
    bytes: int
    network: int
    form: str


def build(file: pathlib.Path, runs: Sequence[dict[str, Any]], about: str) -> pathlib.Path:
    """Writes the page; returns its path.

    Args:
      runs: what `python -m dass_jax.latency` has measured of each network, all of one task.
      about: how: machine and repetitions.

    Raises:
      UserError: if it cannot be written.
    """
    with style.settings():
        html = page(runs, about)
    return write_whole(file, html.encode("utf-8", errors="replace"))


def page(runs: Sequence[dict[str, Any]], about: str) -> str:
    """The whole page as HTML."""
    task = runs[0]["task"]
    title = f"{task['metric'][:1].upper()}{task['metric'][1:]}, latency and size"
    parts = [markup.heading(title, 1), markup.paragraph(about)]
    points = list(_points(runs))
    if points:
        figures = [markup.image(figure, name) for name, figure in _figures(points, runs)]
        caption = (
            "Colours are networks, markers are forms, one example at a time. The grey steps join what nothing else "
            "beats in both (Pareto front)."
        )
        parts.append(markup.panels(figures, caption))
    if any(run["result"] is None for run in runs):
        parts.append(markup.paragraph(f"Networks whose {task['metric']} is not known are in the table alone.", "note"))
    header = [("network", ""), ("form", ""), (task["metric"], task["unit"]), ("median", "ms"), ("p90", "ms")]
    header += [("× dense", "faster one"), ("size", "bytes"), ("memory", "MB")]
    parts.append(markup.rows_table(header, _rows(runs)))
    return markup.page(title, "\n".join(parts))


def named(run: dict[str, Any]) -> str:
    """What a network is called: with the share of its weights that is pruned."""
    share = 0 if run["keep"] is None else 100 * (1 - run["keep"])
    return f"{run['network']}, {share:g} % pruned" if share else run["network"]


def _points(runs: Sequence[dict[str, Any]]) -> Iterator[Point]:
    for number, run in enumerate(runs):
        if run["result"] is not None:
            for form, one in run["forms"].items():
                yield Point(run["result"], one["median_ms"], one["bytes"], number, form)
        if run["before"]["result"] is not None:
            one = run["forms"][run["before"]["form"]]
            yield Point(run["before"]["result"], one["median_ms"], one["bytes"], number, BEFORE)


def _figures(points: Sequence[Point], runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    forms, task = list(dict.fromkeys(point.form for point in points)), runs[0]["task"]
    value = style.literal(f"test {task['metric']} {in_brackets(task['unit'])}".strip())
    for name, unit, label in (("ms", 1, "latency of one example [ms]"), ("bytes", 1000, "size on disk [kB]")):
        figure = Figure(figsize=(5.6, 4.4), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        places = [(getattr(point, name) / unit, point.value) for point in points]
        for point, (x, y) in zip(points, places, strict=True):
            marker = MARKERS[forms.index(point.form) % len(MARKERS)]
            axes.plot(x, y, marker, color=style.colour(point.network), markersize=6, markeredgewidth=0)
        draw_front(axes, places, task["higher_is_better"])
        logarithmic(axes)
        title = f"{task['metric']} over {label.split(' [')[0]}"
        style.tidy(axes, style.literal(title), label, value)
        networks = [
            Line2D([], [], color=style.colour(n), linewidth=2, label=style.literal(named(run)))
            for n, run in enumerate(runs)
        ]
        marks = [
            Line2D([], [], color=style.INK, marker=MARKERS[n % len(MARKERS)], linestyle="", markersize=5, label=form)
            for n, form in enumerate(forms)
        ]
        figure.legend(handles=[*networks, *marks], loc="outside lower left", ncols=2, fontsize=7.5, frameon=False)
        yield title, figure


def _rows(runs: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    values = [math.nan if run["result"] is None else run["result"] for run in runs]
    digits = decimals(runs[0]["task"]["unit"], values)
    for run, value in zip(runs, values, strict=True):
        shown = "–" if math.isnan(value) else f"{value:.{digits}f}"
        for form, one in run["forms"].items():
            memory = "–" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.1f}"
            speed = [f"{one[name]:.3f}" for name in ("median_ms", "p90_ms")]
            yield [named(run), form, shown, *speed, f"{one['speedup']:.2f}", f"{one['bytes']:,}", memory]
