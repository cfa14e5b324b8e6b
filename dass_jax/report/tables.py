"""The tables of a run: the final one, also as plain text, that of the weights, and that of all evaluations."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dass_jax.report.results import Outcome, outcomes, total_seconds


class Column(NamedTuple):
    """A column of numbers of a table, with so many decimals."""

    title: str
    unit: str
    value: Callable[[Outcome], float]
    digits: int = 0


class Table(NamedTuple):
    """Rows of text under (title, unit) headers; `main` are the rows to look at first."""

    header: list[tuple[str, str]]
    rows: list[list[str]]
    main: tuple[int, ...]


def table(results: dict[str, Any]) -> str:
    """The final table as plain text, without a newline at its end; `results` is what `results.json` holds.

    Raises:
      UserError: if a field is missing or of the wrong kind.
    """
    found = outcomes(results)
    return text_table(table_of(columns(found), found))


def columns(found: Sequence[Outcome]) -> tuple[Column, ...]:
    """Of the final table: the main metric at each evaluation that any method has, then what the networks cost."""
    units = dict.fromkeys(each.task.unit for each in found)
    nid = Column("NID", f"[{' or '.join(unit or '1' for unit in units)}/1000]", lambda outcome: outcome.nid, 3)
    return (
        *_evaluations(found),
        Column("weights", "kept", lambda outcome: outcome.parameters["kept"]),
        Column("MACs", "dense [M]", lambda outcome: outcome.macs["dense"] / 1e6, 3),
        Column("MACs", "non-zero [M]", lambda outcome: outcome.macs["nonzero"] / 1e6, 3),
        *([nid] if not all(math.isnan(each.nid) for each in found) else []),
        Column("time", "[s]", total_seconds, 1),
    )


def weight_columns(found: Sequence[Outcome]) -> tuple[Column, ...]:
    """Of the table of weights: those that any method has."""
    known = (
        Column("all parameters", "", lambda outcome: outcome.parameters["total"]),
        Column("prunable", "", lambda outcome: outcome.parameters["prunable"]),
        Column("kept", "", lambda outcome: outcome.parameters["kept"]),
        Column("kept + BN + biases", "", lambda outcome: outcome.parameters["kept_with_bn_bias"]),
        Column("the paper's count", "", lambda outcome: outcome.parameters["paper"]),
        Column("compression", "[×]", lambda outcome: outcome.compression, 1),
    )
    return tuple(each for each in known if not all(math.isnan(each.value(outcome)) for outcome in found))


def evaluations_table(found: Sequence[Outcome]) -> Table | None:
    """Every metric of every evaluation; None if there is none but the tasks' main ones."""
    every = [values for each in found for values in each.evaluations.values()]
    metrics = dict.fromkeys(metric for values in every for metric in values)
    if set(metrics) <= {each.task.metric for each in found}:
        return None
    seeds = any(each.seed is not None for each in found)
    places = {metric: decimals("", [values.get(metric, math.nan) for values in every]) for metric in metrics}
    rows = [
        [each.method, *([str(each.seed)] if seeds else []), evaluation]
        + [decimal(values.get(metric, math.nan), places[metric]) for metric in metrics]
        for each in found
        for evaluation, values in each.evaluations.items()
    ]
    titles = ["method", *(["seed"] if seeds else []), "evaluation", *metrics]
    return Table([(title, "") for title in titles], rows, ())


def table_of(columns: Sequence[Column], found: Sequence[Outcome]) -> Table:
    """A row for each method; where there are several seeds, one for each of them and one for mean ± deviation."""
    several = any(each.seed is not None for each in found)
    header = [
        ("method", ""),
        *([("seed", "")] if several else []),
        *((column.title, column.unit) for column in columns),
    ]
    rows: list[list[str]] = []
    main = [] if several else [0]
    for method in dict.fromkeys(each.method for each in found):
        own = [each for each in found if each.method == method]
        for each in own:
            values = [decimal(column.value(each), column.digits) for column in columns]
            rows.append([method, *([str(each.seed)] if several else []), *values])
        if several:
            main.append(len(rows))
            rows.append([method, "mean ± std", *(_spread(column, own) for column in columns)])
    return Table(header, rows, tuple(main))


def text_table(found: Table) -> str:
    """Two header lines (title and unit), a rule and the rows; names to the left, numbers to the right."""
    rows = [[title for title, _ in found.header], [unit for _, unit in found.header], *found.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(rows[0]), line(rows[1]), rule, *map(line, rows[2:])])


def decimal(value: float, digits: int = 0) -> str:
    """`value` with thousands separators and `digits` decimals; NaN is a hyphen."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def decimals(unit: str, values: Sequence[float]) -> int:
    """Decimals that suit a metric: 2 of per cent and of numbers from 10, else 4."""
    return 2 if unit == "%" or max((abs(value) for value in values if not math.isnan(value)), default=0.0) >= 10 else 4


def in_brackets(unit: str) -> str:
    """The unit as headers and axes show it; nothing for a metric that has none."""
    return f"[{unit}]" if unit else ""


def _evaluations(found: Sequence[Outcome]) -> list[Column]:
    known = dict.fromkeys((name, each.task.metric, each.task.unit) for each in found for name in each.evaluations)

    def column(name: str, metric: str, unit: str) -> Column:
        def value(outcome: Outcome) -> float:
            own = outcome.task.metric == metric
            return outcome.evaluations.get(name, {}).get(metric, math.nan) if own else math.nan

        digits = decimals(unit, [value(each) for each in found])
        return Column(metric, " ".join(filter(None, (name, in_brackets(unit)))), value, digits)

    return [column(*each) for each in known]


def _spread(column: Column, found: list[Outcome]) -> str:
    """Mean ± standard deviation of the sample, so with n − 1."""
    values = [column.value(each) for each in found]
    mean, deviation = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else math.nan
    return f"{decimal(float(mean), column.digits)} ± {decimal(float(deviation), column.digits)}"
