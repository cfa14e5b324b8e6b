"""What the figures of an experiment have in common."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dass_jax.report.experiment.data import Experiment, groups, titled
from dass_jax.report.style import colour, literal


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
    figure.legend(handles=[*lines, *extra], loc="outside lower left", ncols=4, fontsize=7.5, frameon=False)


def pruned(ratio: float) -> str:
    """The share of pruned weights in per cent."""
    return f"{round(100 * (1 - ratio), 6):g} %"


def at(experiment: Experiment) -> str:
    """At which pruning ratio something stands that shows one only."""
    return f"{pruned(experiment.keep)} of the weights pruned."
