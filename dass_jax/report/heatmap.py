"""Edge weights over the search: one small panel for each edge of a cell, operations upwards, epochs to the right."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES, Cell, edges
from dass_jax.report.cells import input_name
from dass_jax.report.records import Epoch, of_stage
from dass_jax.report.style import INK, literal

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 1.42, 1.02, 1.05, 0.70, 0.50  # inches; width and height are one panel's
_BETWEEN, _UNDER = 0.16, 0.29  # inches between panels


class History(NamedTuple):
    """Softmax weights of one cell: float[edges, operations, epochs] with NaN for an epoch that has no line.

    `border` is the number of Step 1 epochs if Step 2 follows, else None.
    """

    weights: np.ndarray
    border: int | None


def history(epochs: tuple[Epoch, ...], method: str, cell: str, seed: int | None = None) -> History | None:
    """The weights of a method's cell, Step 2 after Step 1; None if there are none. Of several seeds one is named."""
    first, second = (
        [each for each in of_stage(epochs, method, stage) if cell in each.weights and each.seed == seed]
        for stage in ("step1", "step2")
    )
    offset = first[-1].epoch if first else 0
    columns = {each.epoch: each.weights[cell] for each in first}
    columns |= {each.epoch + offset: each.weights[cell] for each in second}
    if not columns:
        return None
    weights = np.full((*next(iter(columns.values())).shape, max(columns)), np.nan, np.float32)
    for column, values in columns.items():
        weights[:, :, column - 1] = values
    return History(weights, offset if first and second else None)


def operations(found: History) -> tuple[str, ...]:
    """Names of the rows of a panel."""
    return PRIMITIVES if found.weights.shape[1] == len(PRIMITIVES) else OPERATIONS


def heat_figure(found: History, title: str, derived: Cell | None) -> Figure:
    """A panel for each edge: row = the node it enters, column = the input it leaves.

    A triangle at a panel's right side marks the operation that was `derived` for this edge, if any was.
    """
    pairs = edges(_nodes(found.weights.shape[0]))
    rows, columns = pairs[-1][1] - 1, pairs[-1][0] + 1
    width = _LEFT + columns * (_WIDTH + _BETWEEN) + 0.1
    height = _TOP + rows * (_HEIGHT + _UNDER) + _BOTTOM - _UNDER
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.12 / width, 1 - 0.12 / height, literal(title), fontsize=11, weight="bold", va="top", color=INK)
    ends = _ends(found.weights)
    for index, (source, node) in enumerate(pairs):
        x = _LEFT + source * (_WIDTH + _BETWEEN)
        y = height - _TOP - (node - 2) * (_HEIGHT + _UNDER) - _HEIGHT
        axes = figure.add_axes((x / width, y / height, _WIDTH / width, _HEIGHT / height))
        image = _panel(axes, found, index, ends)
        _labels(axes, operations(found) if source == 0 else (), node - 1 == rows, (source, node))
        chosen = [operation for operation, origin in derived[node - 2] if origin == source] if derived else []
        _mark(axes, [operations(found).index(operation) for operation in chosen])
    bar = figure.add_axes(((width - 1.75) / width, 1 - 0.26 / height, 1.6 / width, 0.11 / height))
    scale = figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ends, format="%.3g")
    scale.ax.tick_params(labelsize=7, length=2, pad=1)
    return figure


def _panel(axes: Axes, found: History, edge: int, ends: tuple[float, float]) -> AxesImage:
    epochs = found.weights.shape[2]
    image = axes.imshow(
        found.weights[edge],
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=ends[0],
        vmax=ends[1],
        extent=(0.5, epochs + 0.5, found.weights.shape[1] - 0.5, -0.5),
    )
    axes.set_facecolor("#DDDDDD")  # shows where there is no number
    if found.border is not None:
        axes.axvline(found.border + 0.5, color="white", linewidth=1.8)
        axes.axvline(found.border + 0.5, color="#D00000", linewidth=0.9)
    return image


def _labels(axes: Axes, names: tuple[str, ...], lowest: bool, edge: tuple[int, int]) -> None:
    axes.set_title(f"{input_name(edge[0])} → {edge[1]}", fontsize=8, pad=4, color=INK)
    axes.set_yticks(range(len(names)), names, fontsize=6.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=3, min_n_ticks=1))
    axes.tick_params(length=2, pad=1.5, labelsize=6.8, labelbottom=lowest)
    if lowest:
        axes.set_xlabel("search epoch", fontsize=7.5, labelpad=2)


def _mark(axes: Axes, rows: list[int]) -> None:
    across = axes.get_yaxis_transform()  # x in parts of the panel's width, y in rows
    axes.plot([1.035] * len(rows), rows, "<", color="#D00000", markersize=4, transform=across, clip_on=False)


def _nodes(count: int) -> int:
    return next(nodes for nodes in range(1, count + 1) if len(edges(nodes)) == count)


def _ends(weights: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale, the same for all panels of a figure: the smallest and the largest weight."""
    finite = weights[np.isfinite(weights)]
    return (float(finite.min()), float(finite.max())) if finite.size and finite.min() < finite.max() else (0.0, 1.0)
