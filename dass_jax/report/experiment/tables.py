"""The tables of an experiment, as rows of text: the same in the page, as CSV and as Markdown."""

import csv
import io
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from dass_jax.report.experiment import published, statistics
from dass_jax.report.experiment.data import (
    Experiment,
    Group,
    Row,
    by_seed,
    column,
    finished,
    groups,
    keeps,
    titled,
)
from dass_jax.report.results import decimal

MISSING = "-"


class Table(NamedTuple):
    """Rows of text under (title, unit) headers."""

    title: str
    caption: str
    header: list[tuple[str, str]]
    rows: list[list[str]]


_SPREAD = [("seeds", ""), ("accuracy", "mean [%]"), ("std", "[points]"), ("95 % interval", "± [points]")]
_INTERVAL = (
    "Sparse test accuracy; std is the sample's (n − 1), the interval that of the mean by Student's t. A hyphen: "
    "missing, or not defined by so few runs."
)


def methods(experiment: Experiment) -> Table:
    """All methods at one pruning ratio, with what their networks cost."""
    keep, power = experiment.keep, experiment.watts > 0
    header = [("method", ""), *_SPREAD, *_published_header(experiment, "[%]"), ("accuracy", "dense [%]")]
    header += [("weights", "kept"), *_published_header(experiment, "kept [1000]"), ("MACs", "dense [M]")]
    header += [("MACs", "non-zero [M]"), ("NID", "[%/1000]"), ("time", "[s]"), *([("CO₂", "[g]")] if power else [])]
    rows = []
    for group in groups(experiment):
        found = finished(experiment, group, keep)
        known = _published(experiment, group, keep)
        kept = MISSING if known is None or known.kept_thousands is None else f"{known.kept_thousands:g}"
        shown = known is not None or experiment.published != "none"
        rows.append(
            [
                titled(experiment, group),
                *_spread(statistics.summary(column(found, "sparse"))),
                *([_accuracy(known)] if shown else []),
                _mean(found, "dense", 2),
                _mean(found, "kept"),
                *([kept] if shown else []),
                _mean(found, "macs_dense", 3, 1e-6),
                _mean(found, "macs_nonzero", 3, 1e-6),
                _mean(found, "nid", 3),
                _mean(found, "seconds", 1),
                *([_mean(found, "co2_g", 2)] if power else []),
            ]
        )
    caption = f"{_INTERVAL} The other columns are means over the seeds. Time is what a run would cost alone."
    if power:
        caption += f" CO₂: {experiment.watts:g} W · time · {experiment.grams_per_kwh:g} g/kWh."
    return Table(f"Methods at {_pruned(keep)} of the weights pruned", caption, header, rows)


def keep(experiment: Experiment) -> Table:
    """Every method at every pruning ratio."""
    header = [("pruned", ""), ("method", ""), *_SPREAD, *_published_header(experiment, "[%]")]
    header += [("accuracy", "dense [%]"), ("weights", "kept")]
    rows = []
    for share, group in itertools.product(keeps(experiment), groups(experiment)):
        found = finished(experiment, group, share)
        known = [_accuracy(_published(experiment, group, share))] if experiment.published != "none" else []
        spread = _spread(statistics.summary(column(found, "sparse")))
        last = [_mean(found, "dense", 2), _mean(found, "kept")]
        rows.append([_pruned(share), titled(experiment, group), *spread, *known, *last])
    return Table("Accuracy by pruning ratio", _INTERVAL, header, rows)


def tests(experiment: Experiment) -> Table:
    """Differences between the methods of a network, seed by seed, with their p values."""
    header = [
        ("pruned", ""),
        ("methods", ""),
        ("seeds", "in both"),
        ("difference", "mean [points]"),
        ("std", "[points]"),
    ]
    header += [("95 % interval", "± [points]"), ("paired t", "p"), ("Wilcoxon", "p")]
    header += _published_header(experiment, "[points]")
    rows = []
    for share, (one, other) in itertools.product(keeps(experiment), itertools.combinations(groups(experiment), 2)):
        if one[0] != other[0]:
            continue
        pair = [by_seed(finished(experiment, group, share), "sparse") for group in (one, other)]
        found = statistics.compare(*pair)
        gap = published.gap(experiment.published, one[1], other[1], one[0], share)
        known = [MISSING if gap is None else f"{gap:+.2f}"] if experiment.published != "none" else []
        name = f"{titled(experiment, one)} − {titled(experiment, other)}"
        spread = _spread(found.difference, signed=True)
        rows.append([_pruned(share), name, *spread, probability(found.p_t), probability(found.p_wilcoxon), *known])
    caption = (
        "Differences of sparse test accuracy of runs with equal seeds. p: two-sided, of the hypothesis that there is "
        "no difference, by the paired t-test and by Wilcoxon's signed ranks, which cannot fall below 2^(1 − n) with n "
        "seeds; neither is corrected for the number of rows."
    )
    return Table("Paired tests between methods", caption, header, rows)


def seeds(experiment: Experiment) -> Table:
    """Each seed's accuracy at one pruning ratio."""
    numbers = sorted({row.seed for row in experiment.rows})
    header = [("method", ""), *((f"seed {seed}", "[%]") for seed in numbers), ("mean", "[%]"), ("std", "[points]")]
    rows = []
    for group in groups(experiment):
        found = by_seed(finished(experiment, group, experiment.keep), "sparse")
        each = [decimal(found.get(seed, math.nan), 2) for seed in numbers]
        spread = statistics.summary(list(found.values()))
        rows.append([titled(experiment, group), *each, decimal(spread.mean, 2), decimal(spread.std, 2)])
    title = f"Seeds, at {_pruned(experiment.keep)} of the weights pruned"
    return Table(title, "Sparse test accuracy of each seed; std is the sample's (n − 1).", header, rows)


TABLES: dict[str, Callable[[Experiment], Table]] = {"methods": methods, "keep": keep, "tests": tests, "seeds": seeds}


def to_csv(table: Table) -> str:
    """The table as CSV, each unit behind its title."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([" ".join(filter(None, pair)) for pair in table.header])
    writer.writerows([[cell.replace(",", "") if _is_number(cell) else cell for cell in row] for row in table.rows])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The table as Markdown under its title, with its caption."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = [" ".join(filter(None, pair)) for pair in table.header]
    rule = "|" + "|".join([":---", *["---:"] * (len(head) - 1)]) + "|"
    return "\n".join([f"## {table.title}", "", line(head), rule, *map(line, table.rows), "", table.caption, ""])


def probability(p: float) -> str:
    """A p value with three decimals, `< 0.001` below them."""
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _pruned(keep: float) -> str:
    return MISSING if math.isnan(keep) else f"{round(100 * (1 - keep), 6):g} %"


def _published_header(experiment: Experiment, unit: str) -> list[tuple[str, str]]:
    return [("published", unit)] if experiment.published != "none" else []


def _published(experiment: Experiment, group: Group, keep: float) -> published.Figure | None:
    return published.accuracy(experiment.published, group[1], group[0], keep)


def _accuracy(known: published.Figure | None) -> str:
    return MISSING if known is None else f"≈ {known.accuracy:.1f}" if known.about else f"{known.accuracy:.2f}"


def _spread(found: statistics.Summary, signed: bool = False) -> list[str]:
    mean = f"{found.mean:+.2f}" if signed and not math.isnan(found.mean) else decimal(found.mean, 2)
    return [str(found.size), mean, decimal(found.std, 2), decimal(found.half, 2)]


def _mean(rows: tuple[Row, ...], name: str, digits: int = 0, scale: float = 1.0) -> str:
    return decimal(scale * statistics.summary(column(rows, name)).mean, digits)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).lstrip("+-").isdecimal()
