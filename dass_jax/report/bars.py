"""Sparsity of each layer, and seconds of each phase."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dass_jax.report.results import Layer
from dass_jax.report.style import INK, literal, tidy

_PHASES = ("#8E9AAF", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")


def kept_share(layers: tuple[Layer, ...]) -> np.ndarray:
    """float[layers]: kept weights in per cent of the layer's weights; NaN for a layer without weights."""
    return np.array([100 * layer.kept / layer.weights if layer.weights > 0 else math.nan for layer in layers])


def sparsity_figure(layers: tuple[Layer, ...], title: str, colour: str) -> Figure:
    """A dot for each layer in network order: kept share on a logarithmic axis, which shows 0.1 % beside 50 %."""
    share = kept_share(layers)
    positive = share[share > 0]
    floor = min(0.5 * float(positive.min()), 1.0) if positive.size else 0.1
    figure = Figure(figsize=(8.4, 3.9), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(1, len(layers) + 1)
    axes.plot(place, np.where(share > 0, share, np.nan), "o", color=colour, markersize=3.2, label="layer")
    empty = place[share == 0]
    low = np.full(len(empty), floor * 1.12)
    axes.plot(empty, low, "v", color="#D00000", markersize=5, label="layer with no weight left")
    axes.axhline(_overall(layers), color=INK, linewidth=0.9, linestyle="--", label="all layers together")
    tidy(axes, literal(title), "", "kept weights [%]")
    axes.set_yscale("log")
    axes.set(xlim=(0.3, len(layers) + 0.7), ylim=(floor, 130))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _groups(axes, layers)
    figure.legend(loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


def time_figure(seconds: dict[str, dict[str, float]]) -> Figure:
    """A stacked bar for each method: its phases one after another, in seconds."""
    phases = list(dict.fromkeys(phase for times in seconds.values() for phase in times))
    figure = Figure(figsize=(6.6, 1.5 + 0.36 * len(seconds)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    start = np.zeros(len(seconds))
    for index, phase in enumerate(phases):
        length = np.nan_to_num([times.get(phase, 0.0) for times in seconds.values()])
        colour = _PHASES[index % len(_PHASES)]
        axes.barh(
            range(len(seconds)), length, left=start, height=0.62, color=colour, label=literal(phase), edgecolor="white"
        )
        start = start + length
    axes.set_yticks(range(len(seconds)), [literal(method) for method in seconds])
    axes.invert_yaxis()
    tidy(axes, "time by phase", "time [s]", "")
    axes.grid(False, axis="y")
    figure.legend(loc="outside lower left", ncols=5, fontsize=8, frameon=False, handlelength=1.2)
    return figure


def _overall(layers: tuple[Layer, ...]) -> float:
    """Kept share in per cent of all weights together; NaN if there are none."""
    total = sum(layer.weights for layer in layers)
    return 100 * sum(layer.kept for layer in layers) / total if total > 0 else math.nan


def _groups(axes: Axes, layers: tuple[Layer, ...]) -> None:
    """Bands behind the layers of one part of the network, named by the first part of the path.

    A name that would touch the one before it is left out.
    """
    parts = [layer.path.split("/")[0] for layer in layers]
    starts = [index for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
    ends = [*starts[1:], len(parts)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if number % 2:
            axes.axvspan(start + 0.5, end + 0.5, color="#F0F2F5", zorder=0, linewidth=0)
    middles = [((start + end + 1) / 2, parts[start]) for start, end in zip(starts, ends, strict=True)]
    shown = _apart(middles, len(parts) / 45)  # a name turned upright needs about 1/45 of the axis
    axes.set_xticks([x for x, _ in shown], [literal(part) for _, part in shown], rotation=90, fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    axes.set_xlabel(f"{len(layers)} layers in network order", fontsize=9)


def _apart(names: list[tuple[float, str]], least: float) -> list[tuple[float, str]]:
    """The names (position, text) that stand at least `least` after the last one shown."""
    shown: list[tuple[float, str]] = []
    for position, text in names:
        if not shown or position - shown[-1][0] >= least:
            shown.append((position, text))
    return shown
