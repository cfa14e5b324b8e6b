"""Learning curves: the metrics of one phase over its epochs, a figure for each group, a colour for each method.

What has no declaration has a figure of its own. Of several seeds a line is the mean, in a band of one standard
deviation (n − 1) to either side.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dass_jax.report.declared import STYLES, Curve, Declared, Key, phase
from dass_jax.report.records import Epoch, of_phase
from dass_jax.report.style import colour, literal, tidy
from dass_jax.report.tables import decimal, decimals, in_brackets


class Line(NamedTuple):
    """float[n] values at int[n] epochs; NaN is a value that was computed and is not a number. `deviation` float[n] is
    that of the seeds, 0 where there is only one."""

    epoch: np.ndarray
    value: np.ndarray
    deviation: np.ndarray


class Series(NamedTuple):
    """A line of one method; `number` is the method's place."""

    method: str
    number: int
    curve: Curve
    line: Line


class Gap(NamedTuple):
    """Of a method the two lines of a group, which may have been measured in different epochs, and the first less the
    second, seed by seed."""

    first: Series
    second: Series
    difference: Series


class Group(NamedTuple):
    """What is drawn together."""

    title: str
    declared: bool
    unit: str
    series: tuple[Series, ...]
    gaps: tuple[Gap, ...]
    """Of the methods of which any epoch has both lines; empty for a group that declares none."""


def groups(declared: Declared, epochs: tuple[Epoch, ...], methods: tuple[str, ...], key: Key) -> list[Group]:
    """The figures of a phase: declared ones first, each in the order of the declarations, then the other metrics."""
    found: dict[tuple[bool, str], list[tuple[int, str, list[Epoch], list[Curve]]]] = {}
    for number, method in enumerate(methods):
        rows = of_phase(epochs, method, key)
        known, hidden = phase(declared, method, key).curves, phase(declared, method, key).hidden
        measured = dict.fromkeys(metric for row in rows for metric in row.values)
        named = {*hidden, *(each.metric for each in known)}
        extra = [Curve(metric, metric, metric) for metric in measured if metric not in named]
        for unknown, curves in ((False, known), (True, extra)):
            for title in dict.fromkeys(each.group for each in curves):
                own = [each for each in curves if each.group == title]
                if any(each.metric in measured for each in own):
                    found.setdefault((unknown, title), []).append((number, method, rows, own))
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    return [_group(title, not unknown, members) for (unknown, title), members in ordered]


def value_figure(group: Group, title: str, epochs: int) -> Figure:
    """All lines over `epochs`; the first method's gap is shaded or, of several seeds, each line's deviation."""
    figure, axes = _panel()
    shaded = group.gaps[0] if group.gaps and not has_bands(group) else None
    if shaded:
        epoch, first, second = _both(shaded)
        axes.fill_between(epoch, first, second, color=colour(shaded.first.number), alpha=0.13, linewidth=0)
    for each in reversed(group.series):  # the main method on top
        _draw(axes, each, STYLES[each.curve.style])
    _finish(figure, axes, group.series, epochs, _styles(group, shaded))
    tidy(axes, literal(f"{title}: {group.title}"), "epoch", literal(f"{group.title} {in_brackets(group.unit)}".strip()))
    return figure


def gap_figure(group: Group, title: str, epochs: int) -> Figure:
    """The first line less the second over `epochs`."""
    figure, axes = _panel()
    axes.axhline(0, color="#555555", linewidth=0.8)
    differences = tuple(each.difference for each in group.gaps)
    for each in reversed(differences):
        _draw(axes, each, "-")
    _finish(figure, axes, differences, epochs, [])
    label = f"{group.title} difference {in_brackets(points(group.unit))}".strip()
    tidy(axes, literal(f"{title}: gap of {group.title}"), "epoch", literal(label))
    return figure


def points(unit: str) -> str:
    """The unit of differences."""
    return "points" if unit == "%" else unit


def names(group: Group) -> tuple[str, str]:
    """The lines of which the gap is the difference."""
    return group.gaps[0].first.curve.line, group.gaps[0].second.curve.line


def has_bands(group: Group) -> bool:
    """Whether the seeds of any epoch differ."""
    return any(each.line.deviation.any() for each in group.series)


def last_epochs(group: Group) -> list[tuple[str, ...]]:
    """For each method of the gaps: method, last epoch with both lines, their values, and the gap."""
    rows = []
    for each in group.gaps:
        epoch, first, second = _both(each)
        digits = decimals(group.unit, [*first, *second])
        values = (first[-1], second[-1], first[-1] - second[-1])
        rows.append((each.first.method, str(epoch[-1]), *(decimal(float(value), digits) for value in values)))
    return rows


def _group(title: str, declared: bool, members: list[tuple[int, str, list[Epoch], list[Curve]]]) -> Group:
    series, gaps = [], []
    for number, method, rows, curves in members:
        own = [Series(method, number, curve, line(rows, (curve,))) for curve in curves]
        series += [each for each in own if each.line.epoch.size]
        if curves[0].gap and len(curves) == 2 and curves[0].unit == curves[1].unit:
            difference = own[0]._replace(line=line(rows, (curves[0], curves[1])))
            if difference.line.epoch.size:
                gaps.append(Gap(own[0], own[1], difference))
    units = dict.fromkeys(each.curve.unit for each in series if each.curve.unit)
    return Group(title, declared, ", ".join(units), tuple(series), tuple(gaps))


def _both(gap: Gap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs in which both lines were measured, int[n], and the two values, float[n] each."""
    lines = gap.first.line, gap.second.line
    epoch, first, second = np.intersect1d(lines[0].epoch, lines[1].epoch, return_indices=True)
    return epoch, lines[0].value[first], lines[1].value[second]


def line(rows: list[Epoch], curves: tuple[Curve, ...]) -> Line:
    """Means over the seeds. Of one curve or, seed by seed, of the first less the second."""
    measured: dict[int, list[float]] = {}
    for row in rows:
        if all(curve.metric in row.values for curve in curves):
            first, *others = (row.values[curve.metric] for curve in curves)
            measured.setdefault(row.epoch, []).append(first - sum(others))
    values = measured.values()
    return Line(
        np.array(list(measured), int),
        np.array([np.mean(seeds) for seeds in values], float),
        np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values], float),
    )


def _draw(axes: Axes, series: Series, dashes: str) -> None:
    """A line, in a band of one standard deviation to either side; dots on short ones, as a single epoch has no line and
    gaps on both sides would hide one."""
    line, ink = series.line, colour(series.number)
    if line.deviation.any():
        low, high = line.value - line.deviation, line.value + line.deviation
        axes.fill_between(line.epoch, low, high, color=ink, alpha=0.1, linewidth=0)
    dots: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(line.epoch) <= 30 else {}
    width = 1.6 if series.number == 0 else 1.0  # the main method stands out
    axes.plot(line.epoch, line.value, dashes, color=ink, linewidth=width, **dots)


def _styles(group: Group, shaded: Gap | None) -> list[Line2D | Patch]:
    """Legend entries of the lines' names; a line without a name, or called as its figure, needs none."""
    known = dict.fromkeys((each.curve.line, each.curve.style) for each in group.series)
    lines: list[Line2D | Patch] = [
        Line2D([], [], color="#555555", linestyle=STYLES[style], label=literal(line)) for line, style in known
    ]
    if len(known) == 1 and next(iter(known))[0] in (group.title, ""):
        lines = []
    if has_bands(group):
        return [*lines, Patch(color="#555555", alpha=0.2, label="± std of seeds")]
    return [*lines, Patch(color=colour(shaded.first.number), alpha=0.2, label="gap")] if shaded else lines


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.3), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, series: tuple[Series, ...], epochs: int, extra: list[Line2D | Patch]) -> None:
    """The x axis spans the whole phase, so that an unfinished one shows what is missing; the legend stands below."""
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    colours = dict.fromkeys((each.number, each.method) for each in series)
    lines = [Line2D([], [], color=colour(number), linewidth=2, label=literal(method)) for number, method in colours]
    handles = [*lines, *extra]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=7.5, frameon=False, columnspacing=1)
