"""Learning curves: loss, accuracy and generalisation gap over the epochs of one stage, a line for each method.

Solid is what the weights were trained on, dashed what they were not: the upper level's half of the training set in
the search stages (step1, step2), the test set in the training stages (pretrain, scores, finetune). Of several seeds
the line is the mean, in a band of one standard deviation (n − 1) to either side.
"""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dass_jax.report.records import SEARCH, Epoch, of_stage
from dass_jax.report.results import decimal
from dass_jax.report.style import colour, literal, tidy


class Line(NamedTuple):
    """float[n] values at int[n] epochs; NaN is a value that was computed and is not a number. `deviation` float[n] is
    that of the seeds, 0 where there is only one."""

    epoch: np.ndarray
    value: np.ndarray
    deviation: np.ndarray


class Series(NamedTuple):
    """One method's curves of one quantity; `seen` and `unseen` may have been measured in different epochs."""

    method: str
    colour: str
    seen: Line
    unseen: Line


def names(stage: str) -> tuple[str, str]:
    """What the solid and the dashed line are called in `stage`."""
    return ("train", "validation") if stage in SEARCH else ("train", "test")


def series(epochs: tuple[Epoch, ...], methods: tuple[str, ...], stage: str, quantity: str) -> list[Series]:
    """The curves of `quantity` (loss, accuracy or cosine), of the methods that have epochs in `stage`."""
    searching = stage in SEARCH
    keys = ("lower_" + quantity, "upper_" + quantity) if searching else (quantity, "test_" + quantity)
    return _named(epochs, methods, stage, keys)


def _named(epochs: tuple[Epoch, ...], methods: tuple[str, ...], stage: str, keys: tuple[str, str]) -> list[Series]:
    found = []
    for index, method in enumerate(methods):
        rows = of_stage(epochs, method, stage)
        if rows:
            found.append(Series(method, colour(index), *(_line(rows, key) for key in keys)))
    return found


def gaps(epochs: tuple[Epoch, ...], methods: tuple[str, ...], stage: str) -> list[Series]:
    """As `seen`, the accuracy on seen less that on unseen images, seed by seed, in points; `unseen` is empty."""
    seen, unseen = ("lower_accuracy", "upper_accuracy") if stage in SEARCH else ("accuracy", "test_accuracy")
    differences = tuple(
        each._replace(values={"gap": each.values[seen] - each.values[unseen]})
        for each in epochs
        if each.values.keys() >= {seen, unseen}
    )
    return _named(differences, methods, stage, ("gap", ""))


def of_cells(epochs: tuple[Epoch, ...], methods: tuple[str, ...], stage: str, quantity: str) -> list[Series]:
    """A search's `quantity` (skips, entropy): the normal cell's as `seen`, the reduction cell's as `unseen`."""
    found = _named(epochs, methods, stage, (f"{quantity}_normal", f"{quantity}_reduce"))
    return [each for each in found if each.seen.epoch.size]


def both(each: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs in which seen and unseen images were both measured, int[n], and the two values, float[n] each."""
    epoch, first, second = np.intersect1d(each.seen.epoch, each.unseen.epoch, return_indices=True)
    return epoch, each.seen.value[first], each.unseen.value[second]


def value_figure(curves: list[Series], stage: str, quantity: str, epochs: int) -> Figure:
    """Loss or accuracy over `epochs`; the first method's gap is shaded or, of several seeds, each line's deviation."""
    figure, axes = _panel()
    if not has_bands(curves):
        axes.fill_between(*both(curves[0]), color=curves[0].colour, alpha=0.13, linewidth=0)
    for index, each in reversed(list(enumerate(curves))):  # the main method on top
        for line, dashes in ((each.seen, "-"), (each.unseen, "--")):
            _band(axes, line, each.colour)
            axes.plot(line.epoch, line.value, dashes, color=each.colour, linewidth=_width(index), **_dots(line.epoch))
    _finish(figure, axes, curves, epochs, _styles(curves, stage))
    tidy(axes, f"{stage}: {quantity}", "epoch", "accuracy [%]" if quantity == "accuracy" else "loss (cross-entropy)")
    return figure


def gap_figure(curves: list[Series], stage: str, epochs: int) -> Figure:
    """Accuracy on seen minus accuracy on unseen images, in points, over `epochs`; `curves` are those of `gaps`."""
    figure, axes = _panel()
    axes.axhline(0, color="#555555", linewidth=0.8)
    for index, each in reversed(list(enumerate(curves))):
        _band(axes, each.seen, each.colour)
        epoch = each.seen.epoch
        axes.plot(epoch, each.seen.value, color=each.colour, linewidth=_width(index), **_dots(epoch))
    _finish(figure, axes, curves, epochs, [])
    tidy(axes, f"{stage}: generalisation gap", "epoch", "accuracy difference [points]")
    return figure


def cosine_figure(curves: list[Series], stage: str, epochs: int) -> Figure:
    """How far the direction that α follows turns away from its first-order part; known of the upper level only."""
    figure, axes = _panel()
    axes.axhline(1, color="#555555", linewidth=0.8)
    for index, each in reversed(list(enumerate(curves))):
        line = each.unseen
        _band(axes, line, each.colour)
        axes.plot(line.epoch, line.value, color=each.colour, linewidth=_width(index), **_dots(line.epoch))
    _finish(figure, axes, curves, epochs, [])
    tidy(axes, f"{stage}: α's gradient against first order", "epoch", "cosine")
    return figure


def cells_figure(curves: list[Series], stage: str, quantity: str, epochs: int) -> Figure:
    """Skip connections, or entropy in nats, of both cells; `curves` are those of `of_cells`."""
    figure, axes = _panel()
    for index, each in reversed(list(enumerate(curves))):
        for line, dashes in ((each.seen, "-"), (each.unseen, "--")):
            _band(axes, line, each.colour)
            axes.plot(line.epoch, line.value, dashes, color=each.colour, linewidth=_width(index), **_dots(line.epoch))
    normal = Line2D([], [], color="#555555", label="normal")
    reduction = Line2D([], [], color="#555555", linestyle="--", label="reduction")
    _finish(figure, axes, curves, epochs, [normal, reduction])
    unit = "skip connections" if quantity == "skips" else "entropy [nats]"
    tidy(axes, f"{stage}: {quantity} of the cells", "epoch", unit)
    axes.set_ylim(bottom=0)
    return figure


def has_gap(curves: list[Series]) -> bool:
    """Whether any epoch was measured on both seen and unseen images."""
    return any(both(each)[0].size for each in curves)


def has_bands(curves: list[Series]) -> bool:
    """Whether the seeds of any epoch differ."""
    return any(line.deviation.any() for each in curves for line in (each.seen, each.unseen))


def last_epoch(each: Series) -> tuple[str, ...]:
    """Method, last epoch with both accuracies, these on seen and on unseen images, and their gap.

    Without such an epoch: the last epoch, and hyphens for what is missing.
    """
    epoch, seen, unseen = both(each)
    if epoch.size:
        values = (seen[-1], unseen[-1], seen[-1] - unseen[-1])
        return each.method, str(epoch[-1]), *(decimal(float(value), 2) for value in values)
    if each.seen.epoch.size:
        return each.method, str(each.seen.epoch[-1]), decimal(float(each.seen.value[-1]), 2), "-", "-"
    return each.method, "-", "-", "-", "-"


def _line(rows: list[Epoch], key: str) -> Line:
    measured: dict[int, list[float]] = {}
    for row in rows:
        if key in row.values:
            measured.setdefault(row.epoch, []).append(row.values[key])
    values = measured.values()
    return Line(
        np.array(list(measured), int),
        np.array([np.mean(seeds) for seeds in values], float),
        np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values], float),
    )


def _band(axes: Axes, line: Line, colour: str) -> None:
    """One standard deviation to either side of a line."""
    if line.deviation.any():
        low, high = line.value - line.deviation, line.value + line.deviation
        axes.fill_between(line.epoch, low, high, color=colour, alpha=0.1, linewidth=0)


def _width(index: int) -> float:
    """Of a curve in points: the main method, number 0, stands out."""
    return 1.6 if index == 0 else 1.0


def _styles(curves: list[Series], stage: str) -> list[Line2D | Patch]:
    """Legend entries of the line styles; only what was measured is named."""
    seen, unseen = names(stage)
    solid = Line2D([], [], color="#555555", label=seen)
    dashed = Line2D([], [], color="#555555", linestyle="--", label=unseen)
    lines: list[Line2D | Patch] = [solid, dashed] if has_gap(curves) else [solid]
    if has_bands(curves):
        return [*lines, Patch(color="#555555", alpha=0.2, label="± std of seeds")]
    return [*lines, Patch(color=curves[0].colour, alpha=0.2, label="gap")] if has_gap(curves) else lines


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.3), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _dots(epoch: np.ndarray) -> dict[str, Any]:
    """Dots on short curves: a single epoch has no line, and gaps on both sides would hide one."""
    return {"marker": "o", "markersize": 2.5} if len(epoch) <= 30 else {}


def _finish(figure: Figure, axes: Axes, curves: list[Series], epochs: int, extra: list[Line2D | Patch]) -> None:
    """The x axis spans the whole stage, so that an unfinished one shows what is missing; the legend stands below."""
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    lines = [Line2D([], [], color=each.colour, linewidth=2, label=literal(each.method)) for each in curves]
    handles = [*lines, *extra]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=7.5, frameon=False, columnspacing=1)
