"""The figures of an experiment: the main metric over pruning ratios, over cost and over seeds, and all over epochs."""

import math
import re
from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dass_jax.report import curves
from dass_jax.report.experiment import features, percentiles, published, statistics
from dass_jax.report.experiment.data import (
    LOOKUP,
    Experiment,
    Group,
    by_seed,
    column,
    epochs,
    finished,
    groups,
    keeps,
    measure,
    of_final,
    titled,
)
from dass_jax.report.experiment.drawing import MARKERS, Drawing, at, draw_front, legend, logarithmic, panel
from dass_jax.report.experiment.rows import pruned
from dass_jax.report.style import INK, colour, literal, tidy


def keep(experiment: Experiment) -> list[Drawing]:
    """Mean of each group by pruning ratio, with the mean's 95 % interval."""
    figure, axes = panel()
    ratios, metric = keeps(experiment), measure(experiment).metric
    spread = np.linspace(-0.06, 0.06, len(groups(experiment))) if len(groups(experiment)) > 1 else np.zeros(1)
    for index, group in enumerate(groups(experiment)):
        found = [statistics.summary(column(finished(experiment, group, ratio), "final")) for ratio in ratios]
        place = np.arange(len(ratios)) + spread[index]
        means, halves = np.array([each.mean for each in found]), np.nan_to_num([each.half for each in found])
        axes.errorbar(place, means, halves, color=colour(index), marker="o", markersize=4, capsize=3, linewidth=1.4)
        known = [published.accuracy(experiment.published, group[1], group[0], ratio) for ratio in ratios]
        points = [math.nan if each is None else each.accuracy for each in known]
        axes.plot(place, points, "*", color=colour(index), markersize=9, markerfacecolor="none")
    axes.set_xticks(range(len(ratios)), [pruned(ratio) for ratio in ratios])
    tidy(axes, literal(f"{metric} by pruning ratio"), "weights pruned", literal(of_final(experiment)))
    extra = [Line2D([], [], color=INK, marker="*", linestyle="", markerfacecolor="none", label="published")]
    legend(figure, experiment, extra if published.has_accuracies(experiment.published) else [])
    caption = (
        "Means over the seeds with the 95 % interval of the mean (Student's t); no interval where there is one seed."
    )
    if published.has_accuracies(experiment.published):
        caption += f" {published.SOURCES[experiment.published]}"
    return [Drawing(_file(metric, "by_pruning_ratio"), figure, caption)]


def cost(experiment: Experiment) -> list[Drawing]:
    """What is left of weights and of MACs at each pruning ratio."""
    ratios, drawings = keeps(experiment), []
    for name, label, title in (("kept", "kept weights", "weights"), ("macs_nonzero", "MACs of kept weights", "macs")):
        figure, axes = panel()
        for index, group in enumerate(groups(experiment)):
            means = [statistics.summary(column(finished(experiment, group, ratio), name)).mean for ratio in ratios]
            axes.plot(range(len(ratios)), means, color=colour(index), marker="o", markersize=4, linewidth=1.4)
        axes.set_xticks(range(len(ratios)), [pruned(ratio) for ratio in ratios])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        tidy(axes, f"{label} by pruning ratio", "weights pruned", label)
        legend(figure, experiment, [])
        drawings.append(Drawing(_file(title, "by_pruning_ratio"), figure, "Means over the seeds."))
    return drawings


def learning(experiment: Experiment) -> list[Drawing]:
    """The declared curves over the epochs of each phase of the training."""
    caption = f"{at(experiment)} Means over the seeds in a band of one standard deviation (n − 1)."
    return [
        Drawing(_file("learning", phase, group.title), curves.value_figure(group, phase, total), caption)
        for phase, total, group in _trained(experiment)
    ]


def gap(experiment: Experiment) -> list[Drawing]:
    """The gaps of these curves, where they are declared to have one."""
    drawings = []
    for phase, total, group in _trained(experiment):
        if group.gaps:
            first, second = curves.names(group)
            caption = (
                f"{at(experiment)} {first} less {second}, seed by seed; mean over the seeds in a band of one standard "
                "deviation (n − 1)."
            )
            figure = curves.gap_figure(group, phase, total)
            drawings.append(Drawing(_file("gap", phase, group.title), figure, caption))
    return drawings


def lookup(experiment: Experiment) -> list[Drawing]:
    """What a table of published results says of the architecture that each epoch of a search would give."""
    _, found = epochs(experiment, lambda row: row.keep == experiment.keep)
    caption = (
        f"{at(experiment)} Accuracy by the table of what would be derived after each epoch of the search: means over "
        "the seeds in a band of one standard deviation (n − 1)."
    )
    drawings = []
    for name in experiment.lookups:
        figure, axes = panel()
        for index, group in enumerate(groups(experiment)):
            own = [epoch for epoch in found if epoch.method == titled(experiment, group) and name in epoch.values]
            by_seed = [[epoch for epoch in own if epoch.seed == seed] for seed in dict.fromkeys(e.seed for e in own)]
            # Counted through all phases of the search.
            counted = [epoch._replace(epoch=place) for rows in by_seed for place, epoch in enumerate(rows, start=1)]
            x, mean, std = curves.line(counted, (curves.Curve(name, "", ""),))
            axes.plot(x, mean, color=colour(index), linewidth=1.4)
            axes.fill_between(x, mean - std, mean + std, color=colour(index), alpha=0.15, linewidth=0)
        title = name.removeprefix(LOOKUP)
        tidy(axes, literal(f"accuracy by the table: {title}"), "epoch of the search", literal(f"{title} [%]"))
        legend(figure, experiment, [])
        drawings.append(Drawing(_file("lookup", title), figure, caption))
    return drawings


def latency(experiment: Experiment) -> list[Drawing]:
    """The main metric over the latency of one example or, where none was measured, over the MACs of kept weights."""
    measured = any(not math.isnan(row.numbers["latency_ms"]) for row in experiment.rows)
    name, label, scale = ("latency_ms", "latency of one example [ms]", 1.0)
    note = "Latency as measured."
    if not measured:
        name, label, scale = ("macs_nonzero", "MACs of kept weights, one example [M]", 1e-6)
        note = "No latency was measured: multiply-accumulates of the kept weights stand for it."
    figure = _scatter(experiment, name, label, scale, front=True)
    caption = f"{note} {_POINTS} The grey steps join those that no other group beats in both (Pareto front)."
    return [Drawing(_file(measure(experiment).metric, "latency" if measured else "macs"), figure, caption)]


def parameters(experiment: Experiment) -> list[Drawing]:
    """The main metric over kept weights."""
    figure = _scatter(experiment, "kept", "kept weights", 1.0, front=False)
    return [Drawing(_file(measure(experiment).metric, "parameters"), figure, _POINTS)]


def seeds(experiment: Experiment) -> list[Drawing]:
    """One point for each seed, and mean ± standard deviation beside them."""
    figure, axes = panel()
    for index, group in enumerate(groups(experiment)):
        values = list(by_seed(finished(experiment, group, experiment.keep), "final").values())
        found = statistics.summary(values)
        across = index + 0.12 * (np.arange(len(values)) - (len(values) - 1) / 2) / max(len(values) / 4, 1)
        axes.plot(across, values, "o", color=colour(index), markersize=5, alpha=0.75, markeredgewidth=0)
        std = 0.0 if math.isnan(found.std) else found.std
        axes.errorbar(index + 0.34, found.mean, std, color=INK, marker="_", markersize=12, capsize=3, linewidth=1.2)
    names = [literal(titled(experiment, group)) for group in groups(experiment)]
    axes.set_xticks(range(len(names)), names, rotation=0 if len(names) < 5 else 20, fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.3)
    tidy(axes, "seeds", "", literal(of_final(experiment)))
    caption = f"{at(experiment)} A point for each seed; black: mean ± standard deviation of the sample (n − 1)."
    return [Drawing("seeds", figure, caption)]


FIGURES: dict[str, Callable[[Experiment], list[Drawing]]] = {
    "keep": keep,
    "cost": cost,
    "learning": learning,
    "gap": gap,
    "latency": latency,
    "parameters": parameters,
    "seeds": seeds,
    "lookup": lookup,
    "percentiles": percentiles.drawings,
    "kendall": features.kendall,
    "tsne": features.tsne,
}
"""By the names that `[report] figures` gives them; the last two show what only an experiment that asks for them has."""

_POINTS = (
    "A point for each method and pruning ratio: means over the seeds, bars one standard deviation; the marker says the "
    "ratio."
)


def _trained(experiment: Experiment) -> Iterator[tuple[str, int, curves.Group]]:
    """(phase, its epochs, group) of the training that any run has come through."""
    declared, found = epochs(experiment, lambda row: row.keep == experiment.keep)
    names = tuple(titled(experiment, group) for group in groups(experiment))
    known = [phase.key for phases in declared.values() for phase in phases]
    for key in dict.fromkeys(key for key in known if key[0] == "training"):
        total = max((each.epochs for each in found if each.key == key), default=0)
        for group in curves.groups(declared, found, names, key):
            if group.declared:
                yield key[1], total, group


def _file(*names: str) -> str:
    """A file's name; what some system does not allow in one is left out."""
    return "_".join(re.sub(r"[^\w.-]+", "_", name) for name in names)


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
        draw_front(axes, points, measure(experiment).higher_is_better)
    if points and min(x for x, _ in points) > 0:
        logarithmic(axes)
    title = f"{measure(experiment).metric} and {label.split(' [')[0].split(',')[0]}"
    tidy(axes, literal(title), label, literal(of_final(experiment)))
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
    return statistics.summary(column(rows, name)), statistics.summary(column(rows, "final"))
