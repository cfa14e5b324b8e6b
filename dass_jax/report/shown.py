"""Test images beside their masks and what each network predicts of them, with a legend of the labels.

The files are RUN/shown/*.npz: uint8 images [N, H, W, C], targets and predictions [N, H, W], and JSON "facts" with
method, seed, the number of labels and the names of the first of them. Targets from that number on are no labels.
"""

import io
import json
import pathlib
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dass_jax.errors import UserError
from dass_jax.report import markup, style

NOTHING = "#FFFFFF"
"""The colour of what has no label."""
ARRAYS = ("images", "targets", "predictions")
MOST = 4
"""Networks in a figure."""


class Shown(NamedTuple):
    """Of one network."""

    method: str
    seed: int
    images: np.ndarray
    targets: np.ndarray
    predictions: np.ndarray
    labels: int
    names: tuple[str, ...]


def read(run: pathlib.Path) -> tuple[Shown, ...]:
    """What the run's folder holds of them, by the files' names. Raises UserError for a damaged file."""
    return tuple(_read(file) for file in sorted((run / "shown").glob("*.npz")))


def _read(file: pathlib.Path) -> Shown:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
            facts = json.loads(str(found["facts"]))
            images, targets, predictions = (np.asarray(found[name], np.uint8) for name in ARRAYS)
        if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
            raise ValueError("images are not [N, H, W, 1 or 3]")
        if targets.shape != images.shape[:3] or predictions.shape != targets.shape:
            raise ValueError("targets and predictions are not of the images' size")
        if not 0 < int(facts["labels"]) <= 256:
            raise ValueError(f"{facts['labels']} labels")
        names = tuple(map(str, facts["names"]))
        return Shown(
            str(facts["method"]), int(facts["seed"]), images, targets, predictions, int(facts["labels"]), names
        )
    except Exception as error:  # a damaged file can make zipfile and NumPy raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{str(file)!r} cannot be read: {reason}; allowed: one that a run has left") from error


def colours(labels: int) -> np.ndarray:
    """uint8 [256, 3]: of each label, and of all that are none."""
    found = np.empty((256, 3))
    found[:] = to_rgb(NOTHING)
    # Of these maps, which are lists of colours; not every map has one.
    maps = [matplotlib.colormaps[name].colors for name in ("tab20", "tab20b", "tab20c")]  # type: ignore[attr-defined]
    own = np.concatenate([each[::2] for each in maps] + [each[1::2] for each in maps])
    found[:labels] = own[np.arange(min(labels, 256)) % len(own)]
    return np.rint(255 * found).astype(np.uint8)


def html(found: tuple[Shown, ...], methods: tuple[str, ...], several: bool) -> str:
    """The section; empty without files.

    Args:
      methods: in the order of the page.
      several: whether the run has several seeds, which are then named.
    """
    order = [each for method in methods for each in found if each.method == method][:MOST]
    if not order:
        return ""
    names = [each.method + (f", seed {each.seed}" if several else "") for each in order]
    caption = "Test images, their masks, and the label that each network predicts for each pixel. White has no label."
    figure = _figure(order, names)
    return markup.heading("Predictions") + markup.wide(
        markup.image(figure, f"{len(order[0].images)} test images with masks and predictions of {', '.join(names)}"),
        caption,
    )


def _figure(order: list[Shown], names: list[str]) -> Figure:
    first, rows = order[0], len(order[0].images)
    palette, height, width = colours(first.labels), *first.images.shape[1:3]
    columns = [("image", np.broadcast_to(first.images, (*first.images.shape[:3], 3)))]
    columns += [
        ("mask", palette[first.targets]),
        *zip(names, (palette[each.predictions] for each in order), strict=True),
    ]
    cell = 1.6
    lines = -(-(first.labels + 1) // 6)
    size = cell * len(columns), cell * height / width * rows + 0.3 + 0.22 * lines
    figure = Figure(figsize=size, layout="constrained")
    grid = np.asarray(figure.subplots(rows, len(columns), squeeze=False))
    for column, (title, pictures) in enumerate(columns):
        grid[0, column].set_title(style.literal(title), fontsize=8, color=style.INK)
        for row, axes in enumerate(grid[:, column]):
            axes.imshow(pictures[row], interpolation="nearest")
            axes.set_axis_off()
    told = [first.names[k] if k < len(first.names) else str(k) for k in range(first.labels)]
    patches = [Patch(facecolor=palette[k] / 255, label=style.literal(name)) for k, name in enumerate(told)]
    patches.append(Patch(facecolor=NOTHING, edgecolor=style.INK, linewidth=0.5, label="no label"))
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure
