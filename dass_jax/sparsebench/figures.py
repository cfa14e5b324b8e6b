"""The figures of a table of sparse networks."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dass_jax.report import style
from dass_jax.sparsebench import analysis
from dass_jax.sparsebench.analysis import Sample
from dass_jax.sparsebench.table import DENSE

_COLOURED = ("number of nor_conv_3x3", "depth")
"""What colours a cell's point: the first that the cells have."""


def said(stage: str) -> str:
    """`erk_10` → `10 %, erk`."""
    distribution, _, percent = stage.rpartition("_")
    return f"{percent} %, {distribution}" if distribution else stage


def drawn(s: Sample) -> Iterator[tuple[str, Figure]]:
    """Names of files, without ending, and their figures."""
    yield "dense_and_sparse", dense_and_sparse(s)
    yield "operations", operations(s)
    yield "predictors", predictors(s)


def dense_and_sparse(s: Sample) -> Figure:
    """A panel for each ratio and distribution, a point for each cell: sparse accuracy over dense accuracy."""
    stages = [stage for stage in s.means if stage != DENSE]
    name = next(name for name in _COLOURED if name in s.predictors)
    figure, panels = _panels(len(stages))
    for axes, stage in zip(panels, stages, strict=True):
        one, other = s.means[DENSE], s.means[stage]
        points = axes.scatter(one, other, c=s.predictors[name], s=9, cmap="viridis", linewidths=0)
        title = f"{said(stage)}: Spearman {analysis.spearman(one, other):.2f}"
        style.tidy(axes, title, "dense accuracy [%]", "sparse accuracy [%]")
    figure.colorbar(points, ax=panels, label=name, ticks=MaxNLocator(integer=True))
    return figure


def operations(s: Sample) -> Figure:
    """A panel for each stage, a line for each operation: the mean accuracy of cells that have it so many times, ± its
    95 % interval."""
    names = [name for name in s.predictors if name.startswith("number of ")]
    figure, panels = _panels(len(s.means))
    for axes, (stage, values) in zip(panels, s.means.items(), strict=True):
        for place, name in enumerate(names):
            _counted(axes, s.predictors[name], values, name.removeprefix("number of "), style.colour(place))
        style.tidy(axes, said(stage), "times in a cell", "accuracy [%]")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    return figure


def _counted(axes: Axes, counts: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    numbers = [number for number in np.unique(counts) if (counts == number).sum() > 2]
    groups = [values[counts == number] for number in numbers]
    half = [1.96 * group.std(ddof=1) / len(group) ** 0.5 for group in groups]
    means = [group.mean() for group in groups]
    axes.errorbar(numbers, means, half, color=colour, linewidth=1.4, marker="o", markersize=3, capsize=2, label=label)


def predictors(s: Sample) -> Figure:
    """Rank correlation of what is known of a cell with its accuracy at each stage."""
    known, stages, values = list(s.predictors), list(s.means), analysis.correlations(s)
    figure = Figure(figsize=(2.8 + 0.8 * len(stages), 0.9 + 0.27 * len(known)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(stages)), [said(stage) for stage in stages], fontsize=8)
    axes.set_yticks(range(len(known)), known, fontsize=8)
    for (row, column), value in np.ndenumerate(values):
        text, ink = f"{value:+.2f}", "white" if abs(value) > 0.6 else style.INK
        axes.text(column, row, "" if np.isnan(value) else text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_title("Spearman's rank correlation with accuracy", fontsize=10, loc="left", color=style.INK)
    return figure


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if number == 4 else min(3, number)
    lines = -(-number // columns)
    figure = Figure(figsize=(3.4 * columns, 3.3 * lines), facecolor="white", layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for spare in grid.flat[number:]:
        spare.set_axis_off()
    return figure, list(grid.flat[:number])
