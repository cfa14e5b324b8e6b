"""What the figures of an experiment have in common."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dass_jax.report.experiment.data import Experiment, groups, titled
from dass_jax.report.experiment.rows import pruned
from dass_jax.report.experiment.statistics import pareto
from dass_jax.report.style import colour, literal

MARKERS = "osD^v<>P"
LETTERS = 100
"""That stand side by side in a legend."""


class Drawing(NamedTuple):
    """A figure under the name of its file, with its text."""

    name: str
    figure: Figure
    caption: str


def panel() -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(5.6, 3.9), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def legend(figure: Figure, experiment: Experiment, extra: list[Line2D]) -> None:
    """Below the axes: the colour of each group, then `extra`."""
    lines = [
        Line2D([], [], color=colour(index), linewidth=2, label=literal(titled(experiment, group)))
        for index, group in enumerate(groups(experiment))
    ]
    handles = [*lines, *extra]
    longest = max((len(str(line.get_label())) for line in handles), default=0)
    columns = min(4, max(1, LETTERS // (longest + 6)))  # a line's sample and its distance take about six letters
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=7.5, frameon=False)


def logarithmic(axes: Axes) -> None:
    """Across, factors as distances, and numbers as people write them."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_front(axes: Axes, points: Sequence[tuple[float, float]], higher: bool = True) -> None:
    """Grey steps between those of the (cost, value) points that none is better than in both."""
    x, y = zip(*(points[index] for index in pareto(points, higher)), strict=True)
    axes.step(x, y, where="post", color="#999999", linewidth=1.0, zorder=0)


def at(experiment: Experiment) -> str:
    """At which pruning ratio something stands that shows one only."""
    return f"{pruned(experiment.keep)} of the weights pruned."
