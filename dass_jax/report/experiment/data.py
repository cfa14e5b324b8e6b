"""An experiment's folder as typed, checked data: its rows, and the epochs of its runs."""

import csv
import io
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.errors import UserError
from dass_jax.report import records
from dass_jax.report.fields import name, number, section


class Row(NamedTuple):
    """A run. `numbers`: the columns of results.csv that hold numbers; NaN for what is empty."""

    run: str
    network: str
    method: str
    keep: float
    seed: int
    status: str
    error: str
    numbers: dict[str, float]


class Experiment(NamedTuple):
    """What the report shows."""

    folder: pathlib.Path
    title: str
    rows: tuple[Row, ...]
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    keep: float
    """Of what shows one pruning ratio only."""
    published: str
    watts: float
    grams_per_kwh: float


Group = tuple[str, str]
"""(network, method): what has a line in a figure and a row in a table."""

NUMBERS = (
    *("keep", "seed", "dense", "sparse", "test_images", "total", "prunable", "kept", "kept_with_bn_bias"),
    *("macs_dense", "macs_nonzero", "nid", "compression", "seconds", "seconds_shared", "co2_g", "latency_ms"),
)


def read(folder: pathlib.Path) -> Experiment:
    """Reads an experiment's folder.

    Raises:
      UserError: naming the file and the field that is damaged or missing.
    """
    file = folder / "experiment.json"
    try:
        about = section(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; allowed: what dass_jax.experiment wrote") from error
    report = section(about.get("report"), f"{file}: report")
    rows = _rows(folder / "results.csv")
    asked = number(report, "keep", f"{file}: report")
    return Experiment(
        folder=folder,
        title=name(about, "title", str(file)),
        rows=rows,
        tables=tuple(report.get("tables", ())),
        figures=tuple(report.get("figures", ())),
        keep=asked or min((row.keep for row in rows), default=math.nan),
        published=name(report, "published", f"{file}: report"),
        watts=number(report, "watts", f"{file}: report"),
        grams_per_kwh=number(report, "grams_per_kwh", f"{file}: report"),
    )


def _rows(file: pathlib.Path) -> tuple[Row, ...]:
    try:
        lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}; allowed: what dass_jax.experiment wrote") from error
    return tuple(_row(line, f"{file}, row {index}") for index, line in enumerate(lines, start=1))


def _row(line: dict[str, Any], origin: str) -> Row:
    numbers = {column: _number(line.get(column), f"{origin}: {column}") for column in NUMBERS}
    for column in ("keep", "seed"):
        if math.isnan(numbers[column]):
            raise UserError(f"{origin}: {column} is missing; allowed: a number")
    texts = [name(line, column, origin) for column in ("run", "network", "method")]
    status = name(line, "status", origin)
    return Row(
        texts[0], texts[1], texts[2], numbers["keep"], int(numbers["seed"]), status, line.get("error") or "", numbers
    )


def _number(text: Any, place: str) -> float:
    """A cell as a number; NaN where it is empty or there is no such column."""
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{place} = {text!r}; allowed: a number, or nothing") from error


def groups(experiment: Experiment) -> tuple[Group, ...]:
    """All of them, in the order of the rows."""
    return tuple(dict.fromkeys((row.network, row.method) for row in experiment.rows))


def titled(experiment: Experiment, group: Group) -> str:
    """The method; where there are several networks, with the network's name."""
    several = len({row.network for row in experiment.rows}) > 1
    return f"{group[1]}, {group[0]}" if several else group[1]


def keeps(experiment: Experiment) -> tuple[float, ...]:
    """The fractions of kept weights, from the largest."""
    return tuple(sorted({row.keep for row in experiment.rows}, reverse=True))


def finished(experiment: Experiment, group: Group, keep: float) -> tuple[Row, ...]:
    """The finished runs of a group at a pruning ratio, by seed."""
    found = (row for row in experiment.rows if ((row.network, row.method), row.keep) == (group, keep))
    return tuple(sorted((row for row in found if row.status == "finished"), key=lambda row: row.seed))


def by_seed(rows: tuple[Row, ...], column: str) -> dict[int, float]:
    """Seed → value of a column."""
    return {row.seed: row.numbers[column] for row in rows}


def column(rows: tuple[Row, ...], title: str) -> list[float]:
    """The values of a column."""
    return [row.numbers[title] for row in rows]


def epochs(experiment: Experiment, wanted: Callable[[Row], bool]) -> tuple[records.Epoch, ...]:
    """The epochs of the finished runs that are wanted, each with its run's seed and, as its method, its group's title.

    Raises:
      UserError: if a run's metrics are damaged.
    """
    found = []
    for row in experiment.rows:
        if row.status == "finished" and wanted(row):
            method = titled(experiment, (row.network, row.method))
            lines = records.read_metrics(experiment.folder / "runs" / row.run / "metrics.jsonl")
            found += [epoch._replace(method=method, seed=row.seed) for epoch in lines]
    return tuple(found)
