"""What runs have left of their networks' features: Kendall's τ of each cell, and t-SNE maps of one cell."""

import math
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dass_jax.report.experiment import data, statistics
from dass_jax.report.experiment.data import Experiment, Group
from dass_jax.report.experiment.drawing import Drawing, at, legend, panel
from dass_jax.report.style import colour, literal, tidy

MAP_COLOURS = "tab10"
WHAT = (
    "Kendall's τ-b (×100) between the feature maps of the dense and of the sparse network, by cell: 100 is the same "
    "order of all values, 0 none in common. Mean over {} test images"
)


class Similarity(NamedTuple):
    """Of a group, ×100, by cell: over the seeds, each a mean over the images for which τ is defined."""

    cells: tuple[statistics.Summary, ...]
    overall: statistics.Summary
    """Of the mean over the cells."""


def similarity(experiment: Experiment, group: Group) -> Similarity:
    """Over the finished runs of a group that have left it; empty if there are none."""
    seeds = []
    for row in data.finished(experiment, group, experiment.keep):
        found = data.features(experiment, row)
        if "kendall" in found:
            tau = 100 * found["kendall"]
            defined = ~np.isnan(tau)
            number = defined.sum(0)
            seeds.append(np.where(number > 0, np.where(defined, tau, 0).sum(0) / np.maximum(number, 1), math.nan))
    if not seeds:
        return Similarity((), statistics.summary([]))
    cells = tuple(statistics.summary([seed[cell] for seed in seeds]) for cell in range(len(seeds[0])))
    return Similarity(cells, statistics.summary([float(seed.mean()) for seed in seeds]))


def kendall(experiment: Experiment) -> list[Drawing]:
    """τ over the cells for each group, with a band of one standard deviation over the seeds."""
    figure, axes = panel()
    drawn = 0
    for index, group in enumerate(data.groups(experiment)):
        found = similarity(experiment, group).cells
        drawn += len(found)
        mean = np.array([each.mean for each in found])
        std = np.nan_to_num([each.std for each in found])
        place = np.arange(1, len(found) + 1)
        axes.plot(place, mean, color=colour(index), marker="o", markersize=3.5, linewidth=1.3)
        axes.fill_between(place, mean - std, mean + std, color=colour(index), alpha=0.18, linewidth=0)
    if not drawn:
        return []
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, "dense and sparse feature maps", "cell", "Kendall's τ × 100")
    legend(figure, experiment, [])
    caption = f"{at(experiment)} {what(experiment)}, then over the seeds, in a band of one standard deviation (n − 1)."
    return [Drawing("kendall", figure, caption)]


def what(experiment: Experiment) -> str:
    """`WHAT`, with how many images there are."""
    files = (data.features(experiment, row) for row in experiment.rows if row.status == "finished")
    numbers = sorted({len(found["kendall"]) for found in files if "kendall" in found})
    return WHAT.format(" or ".join(map(str, numbers)) or "the")


def tsne(experiment: Experiment) -> list[Drawing]:
    """A map for each group, of its first seed that has left one."""
    drawings = []
    for number, group in enumerate(data.groups(experiment), start=1):
        for row in data.finished(experiment, group, experiment.keep):
            found = data.features(experiment, row)
            if "embedding" in found:
                cell = found["asked"]["tsne_cell"]
                which = f"cell {cell}" if cell else "the last cell"
                title = f"{data.titled(experiment, group)}, {which}, seed {row.seed}"
                caption = (
                    f"{at(experiment)} t-SNE of the sparse network's features, averaged over the pixels, of "
                    f"{len(found['labels'])} test images; the colour is the class. Only who is near whom has a "
                    "meaning: not distances, sizes of clusters or axes."
                )
                drawings.append(Drawing(f"tsne_{number}", _map(title, found["embedding"], found["labels"]), caption))
                break
    return drawings


def _map(title: str, places: np.ndarray, labels: np.ndarray) -> Figure:
    figure, axes = panel()
    colours = matplotlib.colormaps[MAP_COLOURS]
    classes = sorted(set(labels.tolist()))
    for label in classes:
        x, y = places[labels == label].T
        axes.plot(x, y, ".", color=colours(label % colours.N), markersize=4, markeredgewidth=0)
    tidy(axes, literal(title), "", "")
    axes.set_xticks([])
    axes.set_yticks([])
    if len(classes) <= colours.N:
        handles = [
            Line2D([], [], color=colours(label % colours.N), marker="o", linestyle="", markersize=4, label=str(label))
            for label in classes
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=10, fontsize=7.5, frameon=False)
    return figure
