"""The figures of an experiment: accuracy over pruning ratios, over epochs, over cost and over seeds."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dass_jax.report import curves
from dass_jax.report.experiment import features, published, statistics
from dass_jax.report.experiment.data import (
    Experiment,
    Group,
    by_seed,
    column,
    epochs,
    finished,
    groups,
    keeps,
    titled,
)
from dass_jax.report.experiment.drawing import MARKERS, Drawing, at, draw_front, legend, logarithmic, panel, pruned
from dass_jax.report.records import TRAINING
from dass_jax.report.style import INK, colour, literal, tidy


def keep(experiment: Experiment) -> list[Drawing]:
    """Mean sparse accuracy of each group by pruning ratio, with the mean's 95 % interval."""
    figure, axes = panel()
    ratios = keeps(experiment)
    spread = np.linspace(-0.06, 0.06, len(groups(experiment))) if len(groups(experiment)) > 1 else np.zeros(1)
    for index, group in enumerate(groups(experiment)):
        found = [statistics.summary(column(finished(experiment, group, ratio), "sparse")) for ratio in ratios]
        place = np.arange(len(ratios)) + spread[index]
        means, halves = np.array([each.mean for each in found]), np.nan_to_num([each.half for each in found])
        axes.errorbar(place, means, halves, color=colour(index), marker="o", markersize=4, capsize=3, linewidth=1.4)
        known = [published.accuracy(experiment.published, group[1], group[0], ratio) for ratio in ratios]
        points = [math.nan if each is None else each.accuracy for each in known]
        axes.plot(place, points, "*", color=colour(index), markersize=9, markerfacecolor="none")
    axes.set_xticks(range(len(ratios)), [pruned(ratio) for ratio in ratios])
    tidy(axes, "accuracy by pruning ratio", "weights pruned", "sparse test accuracy [%]")
    extra = [Line2D([], [], color=INK, marker="*", linestyle="", markerfacecolor="none", label="published")]
    legend(figure, experiment, extra if experiment.published != "none" else [])
    caption = (
        "Means over the seeds with the 95 % interval of the mean (Student's t); no interval where there is one seed."
    )
    if experiment.published != "none":
        caption += f" {published.SOURCE}"
    return [Drawing("accuracy_by_pruning_ratio", figure, caption)]


def learning(experiment: Experiment) -> list[Drawing]:
    """Accuracy on training and test images over the epochs of each stage of the training."""
    caption = (
        f"{at(experiment)} Solid: training images as they are trained on, dashed: test images; means over the seeds "
        "in a band of one standard deviation (n − 1)."
    )
    return _by_stage(experiment, "learning", caption, _accuracies)


def gap(experiment: Experiment) -> list[Drawing]:
    """Generalisation gap over the epochs of each stage of the training."""
    caption = (
        f"{at(experiment)} Accuracy on the training images less that on the test images, seed by seed; mean over the "
        "seeds in a band of one standard deviation (n − 1)."
    )
    return _by_stage(experiment, "generalisation_gap", caption, _gaps)


def latency(experiment: Experiment) -> list[Drawing]:
    """Sparse accuracy over the latency of one image or, where none was measured, over the MACs of kept weights."""
    measured = any(not math.isnan(row.numbers["latency_ms"]) for row in experiment.rows)
    name, label, scale = ("latency_ms", "latency of one image [ms]", 1.0)
    note = "Latency as measured."
    if not measured:
        name, label, scale = ("macs_nonzero", "MACs of kept weights, one image [M]", 1e-6)
        note = "No latency was measured: multiply-accumulates of the kept weights stand for it."
    figure = _scatter(experiment, name, label, scale, front=True)
    caption = f"{note} {_POINTS} The grey steps join those that no other group beats in both (Pareto front)."
    return [Drawing("accuracy_latency" if measured else "accuracy_macs", figure, caption)]


def parameters(experiment: Experiment) -> list[Drawing]:
    """Sparse accuracy over kept weights."""
    figure = _scatter(experiment, "kept", "kept weights", 1.0, front=False)
    return [Drawing("accuracy_parameters", figure, _POINTS)]


def seeds(experiment: Experiment) -> list[Drawing]:
    """One point for each seed, and mean ± standard deviation beside them."""
    figure, axes = panel()
    for index, group in enumerate(groups(experiment)):
        values = list(by_seed(finished(experiment, group, experiment.keep), "sparse").values())
        found = statistics.summary(values)
        across = index + 0.12 * (np.arange(len(values)) - (len(values) - 1) / 2) / max(len(values) / 4, 1)
        axes.plot(across, values, "o", color=colour(index), markersize=5, alpha=0.75, markeredgewidth=0)
        std = 0.0 if math.isnan(found.std) else found.std
        axes.errorbar(index + 0.34, found.mean, std, color=INK, marker="_", markersize=12, capsize=3, linewidth=1.2)
    names = [literal(titled(experiment, group)) for group in groups(experiment)]
    axes.set_xticks(range(len(names)), names, rotation=0 if len(names) < 5 else 20, fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.3)
    tidy(axes, "seeds", "", "sparse test accuracy [%]")
    caption = f"{at(experiment)} A point for each seed; black: mean ± standard deviation of the sample (n − 1)."
    return [Drawing("seeds", figure, caption)]


FIGURES: dict[str, Callable[[Experiment], list[Drawing]]] = {
    "keep": keep,
    "learning": learning,
    "gap": gap,
    "latency": latency,
    "parameters": parameters,
    "seeds": seeds,
    "kendall": features.kendall,
    "tsne": features.tsne,
}
"""By the names that `[report] figures` gives them; the last two show what only an experiment that asks for them has."""

_POINTS = (
    "A point for each method and pruning ratio: means over the seeds, bars one standard deviation; the marker says the "
    "ratio."
)


def _accuracies(found: tuple[curves.Epoch, ...], names: tuple[str, ...], stage: str, total: int) -> Figure | None:
    lines = curves.series(found, names, stage, "accuracy")
    return curves.value_figure(lines, stage, "accuracy", total) if lines else None


def _gaps(found: tuple[curves.Epoch, ...], names: tuple[str, ...], stage: str, total: int) -> Figure | None:
    lines = curves.gaps(found, names, stage)
    return curves.gap_figure(lines, stage, total) if lines else None


def _by_stage(experiment: Experiment, name: str, caption: str, draw: Callable[..., Figure | None]) -> list[Drawing]:
    """A drawing for each stage of the training that any run has come through."""
    found = epochs(experiment, lambda row: row.keep == experiment.keep)
    names = tuple(titled(experiment, group) for group in groups(experiment))
    drawings = []
    for stage in TRAINING:
        total = max((each.epochs for each in found if each.stage == stage), default=0)
        figure = draw(found, names, stage, total) if total else None
        if figure is not None:
            drawings.append(Drawing(f"{name}_{stage}", figure, caption))
    return drawings


def _scatter(experiment: Experiment, name: str, label: str, scale: float, front: bool) -> Figure:
    figure, axes = panel()
    points: list[tuple[float, float]] = []
    for index, group in enumerate(groups(experiment)):
        for number, ratio in enumerate(keeps(experiment)):
            x, y = _place(experiment, group, ratio, name)
            if math.isnan(x.mean) or math.isnan(y.mean):
                continue
            bars = [0.0 if math.isnan(each.std) else each.std for each in (y, x)]
            marker = MARKERS[number % len(MARKERS)]
            axes.errorbar(
                scale * x.mean,
                y.mean,
                bars[0],
                scale * bars[1],
                color=colour(index),
                marker=marker,
                markersize=5,
                linewidth=0.8,
                capsize=2,
            )
            points.append((scale * x.mean, y.mean))
    if front and points:
        draw_front(axes, points)
    if points and min(x for x, _ in points) > 0:
        logarithmic(axes)
    tidy(axes, f"accuracy and {label.split(' [')[0].split(',')[0]}", label, "sparse test accuracy [%]")
    ratios = [
        Line2D(
            [], [], color=INK, marker=MARKERS[number % len(MARKERS)], linestyle="", markersize=5, label=pruned(ratio)
        )
        for number, ratio in enumerate(keeps(experiment))
    ]
    legend(figure, experiment, ratios)
    return figure


def _place(
    experiment: Experiment, group: Group, ratio: float, name: str
) -> tuple[statistics.Summary, statistics.Summary]:
    rows = finished(experiment, group, ratio)
    return statistics.summary(column(rows, name)), statistics.summary(column(rows, "sparse"))
