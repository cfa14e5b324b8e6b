"""Matrices over the epochs: one small panel for each row of the matrix, its columns upwards, epochs to the right."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from dass_jax.report.declared import Declared, Key, Matrix, phase
from dass_jax.report.records import Epoch, of_phase
from dass_jax.report.style import INK, formula, literal, text_width

MOST = 60
"""Panels of a figure; of a matrix of more rows the first are drawn."""

_WIDTH, _HEIGHT, _HIGHEST, _TOP, _BOTTOM = 1.42, 1.02, 5.0, 0.70, 0.50  # inches; the first three are a panel's
_BETWEEN, _UNDER, _ROW = 0.16, 0.29, 0.115  # inches between panels, and those that a column's name needs
_IN_LINE, _LABEL_SIZE = 5, 6.8


class History(NamedTuple):
    """A matrix over the phases of a method: float[rows, columns, epochs], NaN for an epoch that has no line.

    `borders`: the number of epochs before each phase but the first.
    """

    name: str
    matrix: Matrix
    values: np.ndarray
    borders: tuple[int, ...]


def histories(
    declared: Declared, epochs: tuple[Epoch, ...], method: str, keys: tuple[Key, ...], seed: int | None = None
) -> list[History]:
    """The matrices of a method, those of a later phase behind those of the same name and labels of the phases before;
    of several seeds one is named."""
    found: dict[tuple[str, tuple[str, ...], tuple[str, ...]], tuple[Matrix, list[dict[int, np.ndarray]]]] = {}
    for key in keys:
        rows = [each for each in of_phase(epochs, method, key) if each.seed == seed]
        known = phase(declared, method, key).matrices
        for name in dict.fromkeys(name for row in rows for name in row.matrices):
            columns = {row.epoch: row.matrices[name] for row in rows if name in row.matrices}
            matrix = known.get(name) or _numbered(name, next(iter(columns.values())))
            found.setdefault((name, matrix.rows, matrix.columns), (matrix, []))[1].append(columns)
    return [_joined(name, matrix, phases) for (name, _, _), (matrix, phases) in found.items()]


def heat_figure(found: History, title: str, chosen: tuple[tuple[int, int], ...] = ()) -> Figure:
    """A panel for each row of the matrix, where its grid says or one after the other.

    A triangle at a panel's right side marks each (row, column) that was `chosen`.
    """
    rows, columns = found.matrix.rows[:MOST], found.matrix.columns
    places = _places(found.matrix.grid, len(rows))
    names, across, down = _every(columns), 1 + max(x for _, x in places), 1 + max(y for y, _ in places)
    tall = min(max(_HEIGHT, _ROW * len(columns)), _HIGHEST)
    left = max(text_width(text, _LABEL_SIZE) for _, text in names) + 0.2
    width = left + across * (_WIDTH + _BETWEEN) + 0.1
    width = max(width, text_width(literal(title), 11, bold=True) + 2.1)
    height = _TOP + down * (tall + _UNDER) + _BOTTOM - _UNDER
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.12 / width, 1 - 0.12 / height, literal(title), fontsize=11, weight="bold", va="top", color=INK)
    ends = _ends(found.values)
    for row, (y, x) in enumerate(places):
        low = height - _TOP - y * (tall + _UNDER) - tall
        corner = ((left + x * (_WIDTH + _BETWEEN)) / width, low / height)
        axes = figure.add_axes((*corner, _WIDTH / width, tall / height))
        image = _panel(axes, found, row, ends)
        first, lowest = (x == min(b for a, b in places if a == y)), (y == max(a for a, b in places if b == x))
        _labels(axes, rows[row], names if first else [], lowest)
        _mark(axes, [column for index, column in chosen if index == row])
    bar = figure.add_axes(((width - 1.75) / width, 1 - 0.26 / height, 1.6 / width, 0.11 / height))
    scale = figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ends, format="%.3g")
    scale.ax.tick_params(labelsize=7, length=2, pad=1)
    return figure


def _numbered(name: str, found: np.ndarray) -> Matrix:
    rows, columns = (tuple(map(str, range(size))) for size in found.shape)
    return Matrix(name, rows, columns, "value")


def _joined(name: str, matrix: Matrix, phases: list[dict[int, np.ndarray]]) -> History:
    columns: dict[int, np.ndarray] = {}
    borders = []
    for each in phases:
        before = max(columns, default=0)
        borders.append(before)
        columns |= {epoch + before: values for epoch, values in each.items()}
    values = np.full((len(matrix.rows), len(matrix.columns), max(columns)), np.nan, np.float32)
    for epoch, found in columns.items():
        values[:, :, epoch - 1] = found
    return History(name, matrix, values, tuple(borders[1:]))


def _places(grid: tuple[tuple[int, int], ...] | None, count: int) -> list[tuple[int, int]]:
    """(row, column) of each panel, without rows and columns that hold none."""
    if grid is None:
        return [divmod(index, _IN_LINE) for index in range(count)]
    rows, columns = (sorted(set(each)) for each in zip(*grid[:count], strict=True))
    return [(rows.index(row), columns.index(column)) for row, column in grid[:count]]


def _every(columns: tuple[str, ...]) -> list[tuple[int, str]]:
    """The columns' names, as many as have room."""
    step = max(math.ceil(len(columns) * _ROW / _HIGHEST), 1)
    return [(index, _cut(columns[index], _LABEL_SIZE, 2.2)) for index in range(0, len(columns), step)]


def _cut(text: str, size: float, most: float) -> str:
    """A name that is wider than so many inches loses its end."""
    shown, text = formula(text[:80]), text[:80]
    while text and text_width(shown, size) > most:
        text = text[:-1]
        shown = formula(text) + "…"
    return shown


def _panel(axes: Axes, found: History, row: int, ends: tuple[float, float]) -> AxesImage:
    _, columns, epochs = found.values.shape
    image = axes.imshow(
        found.values[row],
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=ends[0],
        vmax=ends[1],
        extent=(0.5, epochs + 0.5, columns - 0.5, -0.5),
    )
    axes.set_facecolor("#DDDDDD")  # shows where there is no number
    for border in found.borders:
        axes.axvline(border + 0.5, color="white", linewidth=1.8)
        axes.axvline(border + 0.5, color="#D00000", linewidth=0.9)
    return image


def _labels(axes: Axes, title: str, names: list[tuple[int, str]], lowest: bool) -> None:
    axes.set_title(_cut(title, 8, _WIDTH), fontsize=8, pad=4, color=INK)
    axes.set_yticks([index for index, _ in names], [text for _, text in names], fontsize=_LABEL_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=3, min_n_ticks=1))
    axes.tick_params(length=2, pad=1.5, labelsize=_LABEL_SIZE, labelbottom=lowest)
    if lowest:
        axes.set_xlabel("epoch", fontsize=7.5, labelpad=2)


def _mark(axes: Axes, columns: list[int]) -> None:
    across = axes.get_yaxis_transform()  # x in parts of the panel's width, y in columns of the matrix
    axes.plot([1.035] * len(columns), columns, "<", color="#D00000", markersize=4, transform=across, clip_on=False)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale, the same for all panels of a figure: the smallest and the largest value."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size and finite.min() < finite.max() else (0.0, 1.0)
