"""How good the found architectures are among all of their space, by a table of sparse networks, each at the pruning
ratio of its run."""

import itertools
import math
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dass_jax.report.experiment import statistics
from dass_jax.report.experiment.data import PERCENTILE, Experiment, Group, finished, groups, keeps, titled
from dass_jax.report.experiment.drawing import Drawing
from dass_jax.report.experiment.rows import Table, probability, pruned
from dass_jax.report.style import INK, colour, literal, tidy
from dass_jax.report.tables import decimal


def table(experiment: Experiment) -> Table:
    """Every method at every ratio, against chance."""
    header = [("pruned", ""), ("column", ""), ("method", ""), ("seeds", ""), ("percentile", "median"), ("lowest", "")]
    header += [("highest", ""), ("mean", ""), ("95 % interval", "±"), ("chance", "p"), ("kept weights", "mean")]
    rows = []
    for (share, column), group in itertools.product(_columns(experiment), groups(experiment)):
        placed = _by_seed(experiment, group, share, column)
        if values := list(placed.values()):
            found, spread = statistics.summary(values), (median(values), min(values), max(values))
            shown = [decimal(each, 1) for each in (*spread, found.mean, found.half)]
            chance = probability(statistics.chance([value / 100 for value in values]))
            place = [pruned(share), column.removeprefix(PERCENTILE), titled(experiment, group), str(found.size)]
            kept = fmean(row.numbers["kept"] for row in finished(experiment, group, share) if row.seed in placed)
            rows.append([*place, *shown, chance, f"{kept:,.0f}"])
    caption = (
        "How many per cent of all cells are worse than the found one, at the ratio for which it was searched. A cell "
        "drawn at random is at 50 in the mean, and as often at any place; p: two-sided, of the hypothesis that the "
        "method draws like that, by the mean (Irwin and Hall's distribution). The interval is Student's. All cells "
        "keep the same share of their weights, so that a larger one keeps more."
    )
    return Table("Found cells among all cells", caption, header, rows)


def tests(experiment: Experiment) -> Table:
    """Differences between the methods in what `table` shows, seed by seed."""
    header = [("pruned", ""), ("column", ""), ("methods", ""), ("seeds", "in both"), ("difference", "mean [points]")]
    header += [("95 % interval", "± [points]"), ("paired t", "p"), ("Wilcoxon", "p")]
    rows = []
    for share, column in _columns(experiment):
        for one, other in itertools.combinations(groups(experiment), 2):
            pair = [_by_seed(experiment, group, share, column) for group in (one, other)]
            found = statistics.compare(*pair)
            if found.difference.size:
                name = f"{titled(experiment, one)} − {titled(experiment, other)}"
                values = [f"{found.difference.mean:+.1f}", decimal(found.difference.half, 1)]
                p = [probability(each) for each in (found.p_t, found.p_wilcoxon)]
                place = [pruned(share), column.removeprefix(PERCENTILE), name]
                rows.append([*place, str(found.difference.size), *values, *p])
    caption = (
        "Differences of the percentiles of runs with equal seeds; p two-sided, not corrected for the number of rows."
    )
    return Table("Paired tests between the places of found cells", caption, header, rows)


def drawings(experiment: Experiment) -> list[Drawing]:
    """What `table` shows: a panel for each ratio, a line for each method, a point for each seed."""
    shown = _columns(experiment)
    if not shown:
        return []
    found = groups(experiment)
    size = (2.2 + 2.4 * len(shown), 1.1 + 0.3 * len(found))
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False).flat
    for axes, (share, column) in zip(panels, shown, strict=True):
        for place, group in enumerate(found):
            _points(axes, place, list(_by_seed(experiment, group, share, column).values()))
        axes.axvline(50, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(-3, 103), ylim=(len(found) - 0.5, -0.5))
        axes.set_yticks(range(len(found)), [literal(titled(experiment, group)) for group in found])
        tidy(axes, f"{pruned(share)} pruned, {literal(column.removeprefix(PERCENTILE))}", "percentile", "")
    caption = (
        "How many per cent of all cells are worse than the found one: a point for each seed, a bar at the median, and "
        "a dotted line where chance has its mean."
    )
    return [Drawing("percentiles", figure, caption)]


def _points(axes: Axes, place: int, values: list[float]) -> None:
    """A line of `drawings`; equal values stay apart."""
    across = [place + 0.25 * ((number + 0.5) / len(values) - 0.5) for number in range(len(values))]
    axes.plot(values, across, "o", color=colour(0), markersize=4.5, alpha=0.6, markeredgewidth=0)
    if values:
        axes.plot([median(values)] * 2, [place - 0.36, place + 0.36], color=colour(1), linewidth=2)


def _columns(experiment: Experiment) -> list[tuple[float, str]]:
    """(pruning ratio, a column of the table for it)."""
    names = [each for each in (experiment.rows[0].numbers if experiment.rows else ()) if each.startswith(PERCENTILE)]

    def belongs(name: str, share: float) -> bool:
        return name.endswith("_dense") if share == 1 else name.endswith(f"_{100 * share:g}")

    return [(share, name) for share in keeps(experiment) for name in names if belongs(name, share)]


def _by_seed(experiment: Experiment, group: Group, share: float, column: str) -> dict[int, float]:
    """Seed → percentile, of the runs that have one."""
    found = {row.seed: row.numbers[column] for row in finished(experiment, group, share)}
    return {seed: value for seed, value in found.items() if not math.isnan(value)}
