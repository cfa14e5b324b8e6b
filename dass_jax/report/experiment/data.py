"""An experiment's folder as typed, checked data: its rows, and the epochs of its runs."""

import csv
import io
import json
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError
from dass_jax.report import records
from dass_jax.report.declared import Declared
from dass_jax.report.fields import name, number, section
from dass_jax.report.tables import decimals, in_brackets


class Measure(NamedTuple):
    """The main metric of the evaluations."""

    metric: str
    unit: str
    higher_is_better: bool


class Row(NamedTuple):
    """A run. `numbers`: the columns of results.csv that hold numbers; NaN for what is empty."""

    run: str
    network: str
    method: str
    keep: float
    seed: int
    status: str
    error: str
    measure: Measure | None  # None: it is not evaluated yet
    numbers: dict[str, float]


class Experiment(NamedTuple):
    """What the report shows."""

    folder: pathlib.Path
    title: str
    rows: tuple[Row, ...]
    evaluations: tuple[str, ...]
    """Their columns, in the order of time."""
    lookups: tuple[str, ...]
    """The columns of what a table of published results says of the found architecture, in per cent."""
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    keep: float
    """Of what shows one pruning ratio only."""
    published: str
    watts: float
    grams_per_kwh: float
    country: str
    """In whose electricity codecarbon has measured CO2; empty if it has not."""


Group = tuple[str, str]
"""(network, method): what has a line in a figure and a row in a table."""

LOOKUP, PERCENTILE = "table_", "percentile_"
"""What the names of the columns of published results begin with, and those of how many per cent are worse."""
NUMBERS = (
    *("keep", "seed", "final", "test_examples", "total", "prunable", "kept", "kept_with_bn_bias", "macs_dense"),
    *("macs_nonzero", "nid", "compression", "seconds", "seconds_shared", "co2_g", "latency_ms"),
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
    rows, known = _rows(folder / "results.csv")
    _check_data(folder, rows)
    asked = number(report, "keep", f"{file}: report")
    return Experiment(
        folder=folder,
        title=name(about, "title", str(file)),
        rows=rows,
        evaluations=tuple(each for each in known if not each.startswith((LOOKUP, PERCENTILE))),
        lookups=tuple(each for each in known if each.startswith(LOOKUP)),
        tables=tuple(report.get("tables", ())),
        figures=tuple(report.get("figures", ())),
        keep=asked or min((row.keep for row in rows), default=math.nan),
        published=name(report, "published", f"{file}: report"),
        watts=number(report, "watts", f"{file}: report"),
        grams_per_kwh=number(report, "grams_per_kwh", f"{file}: report"),
        country=str(report.get("country", "")),
    )


def _check_data(folder: pathlib.Path, rows: tuple[Row, ...]) -> None:
    """Raises UserError if finished runs that are averaged have read other data. Of runs that drew their training images
    with other seeds the drawn images differ, and nothing else."""
    first: dict[tuple[str, str, float], tuple[str, dict[str, Any]]] = {}
    for row in rows:
        found = records.fingerprint(folder / "runs" / row.run) if row.status == "finished" else {}
        if not found:
            continue
        name, other = first.setdefault((row.network, row.method, row.keep), (row.run, found))
        drawn = found.get("seed") != other.get("seed")
        one, two = (_comparable(each, drawn) for each in (other, found))
        differing = ", ".join(key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key))
        if differing:
            raise UserError(
                f"run {row.run} has other data than {name}, with which it is averaged (data.json: {differing}); "
                "allowed: runs of one data set"
            )


def data_said(experiment: Experiment) -> tuple[str, ...]:
    """What the runs have read, of several with drawn images that of the first, each once; nothing of old runs."""
    found: dict[str, str] = {}
    for row in experiment.rows:
        said = records.data_said(experiment.folder / "runs" / row.run)
        if said:
            found.setdefault(said.partition(", rarest: ")[0], said)
    return tuple(found.values())


def _comparable(found: dict[str, Any], drawn: bool) -> dict[str, Any]:
    train = found.get("train")
    if not drawn or not isinstance(train, dict):
        return found
    return {**found, "seed": None, "train": {**train, "images": None}}


def _rows(file: pathlib.Path) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows, and the columns between `status` and `final`: evaluations, and what a table says."""
    try:
        lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}; allowed: what dass_jax.experiment wrote") from error
    head = list(lines[0]) if lines else []
    if lines and ("final" not in head or "status" not in head):
        raise UserError(f"{file} has the columns {', '.join(head)}; allowed: status and final among them")
    names = tuple(head[head.index("status") + 1 : head.index("final")]) if lines else ()
    return tuple(_row(line, names, f"{file}, row {index}") for index, line in enumerate(lines, start=1)), names


def _row(line: dict[str, Any], known: tuple[str, ...], origin: str) -> Row:
    numbers = {column: _number(line.get(column), f"{origin}: {column}") for column in (*known, *NUMBERS)}
    if math.isnan(numbers["seed"]):
        raise UserError(f"{origin}: seed is missing; allowed: a number")
    run, network, method, status = (name(line, column, origin) for column in ("run", "network", "method", "status"))
    keep = 1.0 if math.isnan(numbers["keep"]) else numbers["keep"]  # empty: nothing is pruned
    error, measure = line.get("error") or "", _measure(line, origin)
    return Row(run, network, method, keep, int(numbers["seed"]), status, error, measure, numbers)


def _measure(line: dict[str, Any], origin: str) -> Measure | None:
    if not line.get("metric"):
        return None
    higher = (line.get("higher_is_better") or "").lower()
    if higher not in ("true", "false"):
        raise UserError(f"{origin}: higher_is_better = {higher!r}; allowed: true or false")
    return Measure(line["metric"], line.get("unit") or "", higher == "true")


def _number(text: Any, place: str) -> float:
    """A cell as a number; NaN where it is empty or there is no such column."""
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{place} = {text!r}; allowed: a number, or nothing") from error


def measure(experiment: Experiment) -> Measure:
    """What the runs are evaluated by; of runs of several tasks nothing can be said but that."""
    known = {row.measure for row in experiment.rows if row.measure is not None}
    several = Measure("main metric", "", all(each.higher_is_better for each in known))
    return known.pop() if len(known) == 1 else several


def of_final(experiment: Experiment) -> str:
    """What the column `final` holds, with its unit."""
    metric, unit, _ = measure(experiment)
    return f"{metric} of the final network {in_brackets(unit)}".strip()


def digits(experiment: Experiment) -> int:
    """Decimals of the main metric."""
    return decimals(measure(experiment).unit, [row.numbers["final"] for row in experiment.rows])


def earlier(experiment: Experiment) -> tuple[str, ...]:
    """The evaluations but for one that is the last of every run which has it."""

    def differs(row: Row, name: str) -> bool:
        return not math.isnan(row.numbers[name]) and row.numbers[name] != row.numbers["final"]

    return tuple(name for name in experiment.evaluations if any(differs(row, name) for row in experiment.rows))


def co2_source(experiment: Experiment) -> str:
    """How the column CO₂ came about; empty where there is none."""
    if experiment.country:
        return f"measured by codecarbon, electricity of {experiment.country}, at the mean rate of the run"
    return f"{experiment.watts:g} W · time · {experiment.grams_per_kwh:g} g/kWh" if experiment.watts else ""


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


def features(experiment: Experiment, row: Row) -> dict[str, Any]:
    """What a run has left of its network's features, by name (`dass_jax.experiment.features`); empty if nothing.

    Raises:
      UserError: if its file is damaged.
    """
    file = experiment.folder / "runs" / row.run / "features.npz"
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as found:
            arrays: dict[str, Any] = {key: found[key] for key in found.files}
        return arrays | {"asked": json.loads(str(arrays["asked"]))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}; allowed: what dass_jax.experiment wrote") from error


def epochs(experiment: Experiment, wanted: Callable[[Row], bool]) -> tuple[Declared, tuple[records.Epoch, ...]]:
    """What the finished runs that are wanted declare and their main methods' epochs, each with its run's seed; as its
    method each has its group's title.

    Raises:
      UserError: if a run's phases or metrics are damaged.
    """
    declared: Declared = {}
    found = []
    for row in experiment.rows:
        if row.status == "finished" and wanted(row):
            method = titled(experiment, (row.network, row.method))
            own = experiment.folder / "runs" / row.run
            phases = records.read_phases(own)
            lines = records.read_metrics(own / "metrics.jsonl", phases)
            main = next(iter(phases), lines[0].method if lines else "")
            declared.setdefault(method, phases.get(main, ()))
            found += [epoch._replace(method=method, seed=row.seed) for epoch in lines if epoch.method == main]
    return declared, tuple(found)
