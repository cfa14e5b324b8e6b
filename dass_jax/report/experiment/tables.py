"""The tables of an experiment."""

import itertools
import math
from collections.abc import Callable

from dass_jax.report import curves
from dass_jax.report.experiment import features, percentiles, published, savings, statistics
from dass_jax.report.experiment.data import (
    LOOKUP,
    Experiment,
    Group,
    Row,
    by_seed,
    co2_source,
    column,
    digits,
    earlier,
    finished,
    groups,
    keeps,
    measure,
    titled,
)
from dass_jax.report.experiment.rows import MISSING, Table, probability, pruned
from dass_jax.report.tables import decimal, in_brackets

_INTERVAL = (
    "std is the sample's (n − 1), the interval that of the mean by Student's t. A hyphen: missing, or not defined by "
    "so few runs."
)


def methods(experiment: Experiment) -> Table:
    """All methods at one pruning ratio, with what their networks cost."""
    keep, power, unit = experiment.keep, co2_source(experiment), measure(experiment).unit
    nid = [("NID", f"[{unit or 1}/1000]")] if _known(experiment, "nid") else []
    header = [("method", ""), *_spread_header(experiment), *_published_header(experiment, "[%]")]
    header += [*_earlier_header(experiment), ("weights", "kept"), *_published_header(experiment, "kept [1000]")]
    header += [("MACs", "dense [M]"), ("MACs", "non-zero [M]"), *nid, ("time", "[s]")]
    header += [("CO₂", "[g]")] if power else []
    rows = []
    for group in groups(experiment):
        found = finished(experiment, group, keep)
        known = _published(experiment, group, keep)
        kept = MISSING if known is None or known.kept_thousands is None else f"{known.kept_thousands:g}"
        shown = known is not None or published.has_accuracies(experiment.published)
        rows.append(
            [
                titled(experiment, group),
                *_spread(experiment, statistics.summary(column(found, "final"))),
                *([_accuracy(known)] if shown else []),
                *_earlier(experiment, found),
                _mean(found, "kept"),
                *([kept] if shown else []),
                _mean(found, "macs_dense", 3, 1e-6),
                _mean(found, "macs_nonzero", 3, 1e-6),
                *([_mean(found, "nid", 3)] if nid else []),
                _mean(found, "seconds", 1),
                *([_mean(found, "co2_g", 2)] if power else []),
            ]
        )
    caption = f"{_about(experiment)} The other columns are means over the seeds. Time is what a run would cost alone."
    if power:
        caption += f" CO₂: {power}."
    return Table(f"Methods at {pruned(keep)} of the weights pruned", caption, header, rows)


def keep(experiment: Experiment) -> Table:
    """Every method at every pruning ratio."""
    header = [("pruned", ""), ("method", ""), *_spread_header(experiment), *_published_header(experiment, "[%]")]
    header += [*_earlier_header(experiment), ("weights", "kept")]
    rows, compared = [], published.has_accuracies(experiment.published)
    for share, group in itertools.product(keeps(experiment), groups(experiment)):
        found = finished(experiment, group, share)
        known = [_accuracy(_published(experiment, group, share))] if compared else []
        spread = _spread(experiment, statistics.summary(column(found, "final")))
        last = [*_earlier(experiment, found), _mean(found, "kept")]
        rows.append([pruned(share), titled(experiment, group), *spread, *known, *last])
    title = f"{_capital(measure(experiment).metric)} by pruning ratio"
    return Table(title, _about(experiment), header, rows)


def tests(experiment: Experiment) -> Table:
    """Differences between the methods of a network, seed by seed, with their p values; where each network has one
    method, as rows have that are named for what is compared, between the networks."""
    metric, unit, higher = measure(experiment)
    points = in_brackets(curves.points(unit))
    header = [("pruned", ""), ("methods", ""), ("seeds", "in both"), ("difference", f"mean {points}".strip())]
    header += [("std", points), ("95 % interval", f"± {points}".strip()), ("paired t", "p"), ("Wilcoxon", "p")]
    header += _published_header(experiment, "[points]")
    rows = []
    named = len({network for network, _ in groups(experiment)}) == len(groups(experiment))
    for share, (one, other) in itertools.product(keeps(experiment), itertools.combinations(groups(experiment), 2)):
        if one[0] != other[0] and not (named and _both_at(experiment, share, one, other)):
            continue
        pair = [by_seed(finished(experiment, group, share), "final") for group in (one, other)]
        found = statistics.compare(*pair)
        gap = published.gap(experiment.published, one[1], other[1], one[0], share)
        known = [MISSING if gap is None else f"{gap:+.2f}"] if published.has_accuracies(experiment.published) else []
        name = f"{titled(experiment, one)} − {titled(experiment, other)}"
        spread = _spread(experiment, found.difference, signed=True)
        rows.append([pruned(share), name, *spread, probability(found.p_t), probability(found.p_wilcoxon), *known])
    caption = (
        f"Differences in the final network's {metric} ({_better(higher)}) of runs with equal seeds. p: two-sided, of "
        "the hypothesis that there is no difference, by the paired t-test and by Wilcoxon's signed ranks, which cannot "
        "fall below 2^(1 − n) with n seeds; neither is corrected for the number of rows."
    )
    return Table("Paired tests between methods", caption, header, rows)


def _both_at(experiment: Experiment, share: float, *two: Group) -> bool:
    """Whether the experiment has runs of both groups at a pruning ratio."""
    there = {(row.network, row.method) for row in experiment.rows if row.keep == share}
    return there.issuperset(two)


def seeds(experiment: Experiment) -> Table:
    """Each seed's value at one pruning ratio."""
    numbers = sorted({row.seed for row in experiment.rows})
    metric, unit, _ = measure(experiment)
    shown, places = in_brackets(unit), digits(experiment)
    header = [("method", ""), *((f"seed {seed}", shown) for seed in numbers)]
    header += [("mean", shown), ("std", in_brackets(curves.points(unit)))]
    rows = []
    for group in groups(experiment):
        found = by_seed(finished(experiment, group, experiment.keep), "final")
        each = [decimal(found.get(seed, math.nan), places) for seed in numbers]
        spread = statistics.summary(list(found.values()))
        rows.append([titled(experiment, group), *each, decimal(spread.mean, places), decimal(spread.std, places)])
    title = f"Seeds, at {pruned(experiment.keep)} of the weights pruned"
    caption = f"{_capital(metric)} of each seed's final network; std is the sample's (n − 1)."
    return Table(title, caption, header, rows)


def lookup(experiment: Experiment) -> Table:
    """What a table of published results says of the architectures that were found."""
    header = [("method", ""), ("seeds", ""), *((name.removeprefix(LOOKUP), "[%]") for name in experiment.lookups)]
    rows = []
    for group in groups(experiment) if experiment.lookups else ():
        own = finished(experiment, group, experiment.keep)
        spread = [statistics.summary(column(own, name)) for name in experiment.lookups]
        cells = [f"{decimal(each.mean, 2)} ± {decimal(each.half, 2)}" for each in spread]
        rows.append([titled(experiment, group), str(len(own)), *cells])
    caption = (
        "Means over the seeds ± half of the mean's 95 % interval (Student's t). Nothing of it was used by a search."
    )
    return Table("What the table of published results says", caption, header, rows)


def kendall(experiment: Experiment) -> Table:
    """How alike the feature maps of dense and sparse networks are: a row for each cell, and one for their mean."""
    found = [features.similarity(experiment, group) for group in groups(experiment)]
    header = [("cell", "")]
    for group in groups(experiment):
        header += [(titled(experiment, group), "τ × 100"), ("std", "")]
    cells = max((len(each.cells) for each in found), default=0)
    none = statistics.summary([])
    by_cell = [[each.cells[cell] if cell < len(each.cells) else none for each in found] for cell in range(cells)]
    rows = [
        [name, *(decimal(value, 1) for each in line for value in (each.mean, each.std))]
        for name, line in zip(
            [*(str(cell + 1) for cell in range(cells)), "mean"],
            [*by_cell, [each.overall for each in found]],
            strict=True,
        )
    ]
    caption = f"{features.what(experiment)}, then over the seeds; std is the sample's (n − 1)."
    title = f"Likeness of dense and sparse feature maps, at {pruned(experiment.keep)} of the weights pruned"
    return Table(title, caption, header, rows)


TABLES: dict[str, Callable[[Experiment], Table]] = {
    "methods": methods,
    "keep": keep,
    "tests": tests,
    "seeds": seeds,
    "lookup": lookup,
    "percentiles": percentiles.table,
    "percentile_tests": percentiles.tests,
    "drop": savings.table,
    "kendall": kendall,
}
"""By the names that `[report] tables` gives them; the last shows what only an experiment that asks for it has."""


def _published_header(experiment: Experiment, unit: str) -> list[tuple[str, str]]:
    return [("published", unit)] if published.has_accuracies(experiment.published) else []


def _published(experiment: Experiment, group: Group, keep: float) -> published.Figure | None:
    return published.accuracy(experiment.published, group[1], group[0], keep)


def _accuracy(known: published.Figure | None) -> str:
    return MISSING if known is None else f"≈ {known.accuracy:.1f}" if known.about else f"{known.accuracy:.2f}"


def _about(experiment: Experiment) -> str:
    metric, _, higher = measure(experiment)
    return f"{_capital(metric)} of the final network on test examples ({_better(higher)}); {_INTERVAL}"


def _better(higher: bool) -> str:
    return f"{'higher' if higher else 'lower'} is better"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spread_header(experiment: Experiment) -> list[tuple[str, str]]:
    metric, unit, _ = measure(experiment)
    points = in_brackets(curves.points(unit))
    mean = (metric, f"mean {in_brackets(unit)}".strip())
    return [("seeds", ""), mean, ("std", points), ("95 % interval", f"± {points}".strip())]


def _spread(experiment: Experiment, found: statistics.Summary, signed: bool = False) -> list[str]:
    places = digits(experiment)
    mean = f"{found.mean:+.{places}f}" if signed and not math.isnan(found.mean) else decimal(found.mean, places)
    return [str(found.size), mean, decimal(found.std, places), decimal(found.half, places)]


def _earlier_header(experiment: Experiment) -> list[tuple[str, str]]:
    metric, unit, _ = measure(experiment)
    return [(metric, f"{name} {in_brackets(unit)}".strip()) for name in earlier(experiment)]


def _earlier(experiment: Experiment, rows: tuple[Row, ...]) -> list[str]:
    return [_mean(rows, name, digits(experiment)) for name in earlier(experiment)]


def _known(experiment: Experiment, title: str) -> bool:
    return not all(math.isnan(row.numbers[title]) for row in experiment.rows)


def _mean(rows: tuple[Row, ...], name: str, digits: int = 0, scale: float = 1.0) -> str:
    return decimal(scale * statistics.summary(column(rows, name)).mean, digits)
