"""How far a method can be pruned before its networks lose a point. Source: SCAS (Yeshwanth et al. 2020), Table 1."""

import math
from typing import NamedTuple

from dass_jax.report.experiment import published, statistics
from dass_jax.report.experiment.data import Experiment, Group, column, digits, finished, groups, keeps, measure, titled
from dass_jax.report.experiment.rows import Table, pruned
from dass_jax.report.tables import decimal, in_brackets

POINTS, SHARE = 1.0, 0.01
"""What may be lost: of a metric in per cent so many points, of others this share."""


class Means(NamedTuple):
    """Over the seeds."""

    final: float
    """The task's main metric."""
    kept: float
    """Weights."""
    macs: float
    """Of kept weights."""


class Saving(NamedTuple):
    """The least pruned networks of a group, and the sparsest that are as good but for what may be lost."""

    group: Group
    before: Means
    keep: float
    after: Means


def of(experiment: Experiment, group: Group) -> Saving | None:
    """None without finished runs at the experiment's largest kept fraction."""
    found = {keep: _means(experiment, group, keep) for keep in keeps(experiment)}
    before = next(iter(found.values()))
    if math.isnan(before.final):
        return None
    _, unit, higher = measure(experiment)
    lost = POINTS if unit == "%" else SHARE * abs(before.final)

    def is_as_good(value: float) -> bool:
        return before.final - value <= lost if higher else value - before.final <= lost

    keep = min(keep for keep, means in found.items() if is_as_good(means.final))
    return Saving(group, before, keep, found[keep])


def limit(unit: str) -> str:
    """What may be lost, in words."""
    return f"{POINTS:g} point" if unit == "%" else f"{100 * SHARE:g} %"


def table(experiment: Experiment) -> Table:
    """How far each method can be pruned before it loses a point, and what that saves."""
    found = [saving for group in groups(experiment) if (saving := of(experiment, group)) is not None]
    metric, unit, _ = measure(experiment)
    shown = in_brackets(unit)
    known = experiment.published in published.REDUCTIONS
    header = [("method", ""), (metric, f"least pruned {shown}".strip()), ("pruned", ""), (metric, shown)]
    for title in ("weights", "MACs"):
        header += [
            (title, "before"),
            (title, "after"),
            (title, "fewer [×]"),
            *([("published", "[×]")] if known else []),
        ]
    rows = []
    for saving in found:
        row = [titled(experiment, saving.group), decimal(saving.before.final, digits(experiment))]
        row += [pruned(saving.keep), decimal(saving.after.final, digits(experiment))]
        factors = published.REDUCTIONS.get(experiment.published, {}).get(saving.group[0], (math.nan, math.nan))
        for name, factor in zip(("kept", "macs"), factors, strict=True):
            before, after = getattr(saving.before, name), getattr(saving.after, name)
            row += [decimal(before), decimal(after), decimal(before / after if after else math.nan, 1)]
            row += [decimal(factor, 1)] if known else []
        rows.append(row)
    caption = (
        f"The sparsest networks whose mean {metric} is within {limit(unit)} of the least pruned ones. Weights "
        "are the kept ones, MACs those of kept weights; all are means over the seeds."
    )
    return Table(f"Pruned as far as {limit(unit)} allows", caption, header, rows)


def _means(experiment: Experiment, group: Group, keep: float) -> Means:
    rows = finished(experiment, group, keep)
    return Means(*(statistics.summary(column(rows, name)).mean for name in ("final", "kept", "macs_nonzero")))
