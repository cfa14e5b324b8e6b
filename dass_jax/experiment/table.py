"""`results.csv`: one row for each run of an experiment, rewritten whole after each."""

import csv
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dass_jax import architectures, compose
from dass_jax.config import Config
from dass_jax.errors import UserError
from dass_jax.experiment import carbon
from dass_jax.experiment.plan import Plan, Planned, Report
from dass_jax.runtime import folder
from dass_jax.spaces.lookup import PERCENTILE, PREFIX, Lookup

FIRST = ("run", "network", "method", "keep", "seed", "status")
REST = (
    *("final", "metric", "unit", "higher_is_better", "test_examples"),
    *("total", "prunable", "kept", "kept_with_bn_bias", "macs_dense", "macs_nonzero", "nid", "compression"),
    *("seconds_compile", "seconds_search", "seconds_training"),
    *("seconds", "seconds_shared", "co2_g", "latency_ms", "architecture", "error"),
)
"""Between the two what a table of published results says of the architecture, each value and how many per cent of the
table's architectures are worse, and a column for each evaluation of the
recipes (dense, sparse), with the task's main metric; `final` is the last of them. Seconds are what the run would cost
alone, `seconds_shared` the part of them that another run of the experiment has spent; CO2 in grams, of `seconds`;
latency of one image in milliseconds, where it was measured."""


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """All columns of some rows."""
    named = {*FIRST, *REST}
    return [*FIRST, *dict.fromkeys(name for row in rows for name in row if name not in named), *REST]


def write(plan: Plan, path: pathlib.Path) -> list[dict[str, Any]]:
    """Rewrites `path`/results.csv from the run folders; returns its rows. A latency entered there by hand stays."""
    file = path / "results.csv"
    before = {row["run"]: row.get("latency_ms") or "" for row in _read(file)}
    rows = [row_of(run, path, plan.report, before.get(run.name, "")) for run in plan.runs]
    rows = by_tables(plan, rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder.write_text(file, text.getvalue())
    return rows


def _read(file: pathlib.Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row.get("run")]


def row_of(run: Planned, path: pathlib.Path, report: Report, latency: str = "") -> dict[str, Any]:
    """The row of a run of the experiment in `path`; a column without a value is left out."""
    config, own, error = run.config, path / "runs" / run.name, error_file(path, run.name)
    row: dict[str, Any] = {"run": run.name, "network": run.network, "method": config.method.name}
    row |= {"keep": run.keep, "seed": config.seed, "latency_ms": latency}
    failed = error.exists()
    if failed:  # of a finished run: of what the report needs beside it
        row["error"] = error.read_text(encoding="utf-8").partition("\n")[0]
    if not (own / "results.json").exists():
        row["status"] = "failed" if failed else "begun" if folder.has_begun(own) else "waiting"
        return row
    row["status"] = "finished"
    found = json.loads((own / "results.json").read_text(encoding="utf-8"))
    task, metric = found["task"], found["task"]["metric"]
    results = {name: figures[metric] for name, figures in found["evaluations"].items()}
    row |= _tabled(found.get("table", {}))
    row |= {**results, "final": list(results.values())[-1], "metric": metric, "unit": task["unit"]}
    row |= {"higher_is_better": task["higher_is_better"], "test_examples": task["examples"]}
    row |= {name: found["parameters"][name] for name in ("total", "prunable", "kept", "kept_with_bn_bias")}
    row |= {f"macs_{name}": found["macs"][name] for name in ("dense", "nonzero")}
    row |= {name: "" if found[name] is None else found[name] for name in ("nid", "compression")}
    row |= {f"seconds_{part}": round(value, 2) for part, value in seconds_of(own, found["seconds"]).items()}
    row["seconds"] = round(sum(found["seconds"].values()), 2)
    row["seconds_shared"] = round(shared_seconds(own / "metrics.jsonl"), 2)
    co2 = grams(row["seconds"], report) if report.watts else carbon.grams(own, row["seconds"])
    if co2 is not None:
        row["co2_g"] = round(co2, 3)
    row["latency_ms"] = latency_of(own, latency)
    row["architecture"] = json.dumps(found["architecture"], separators=(",", ":")) if found["architecture"] else ""
    return row


def _tabled(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of what a table says of an architecture, a `lookup.Entry` as a mapping for each of its own."""
    found: dict[str, Any] = {}
    for prefix, member in ((PREFIX, "value"), (PERCENTILE, "percentile")):
        # Older runs have no percentiles.
        known = {name: entry.get(member) for name, entry in entries.items()}
        found |= {prefix + name: value for name, value in known.items() if value is not None}
    return found


def by_tables(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what the runs' tables say of the architectures now: a table of `sparsebench` grows after a run. A
    table that can no longer be read leaves what the run itself has noted."""
    configs = {run.config.space: run.config for run in plan.runs}
    tables = {space: _table(config) for space, config in configs.items()}

    def now(table: Lookup | None, row: dict[str, Any]) -> dict[str, Any]:
        if table is None or not row.get("architecture"):
            return row
        entries = table.entries(architectures.from_json(json.loads(row["architecture"])))
        return row | _tabled({name: entry._asdict() for name, entry in entries.items()})

    return [now(tables[run.config.space], row) for run, row in zip(plan.runs, rows, strict=True)]


def _table(config: Config) -> Lookup | None:
    """The table that a run names, if it can be read."""
    try:
        return compose.lookup(config)
    except UserError:
        return None


def seconds_of(own: pathlib.Path, seconds: dict[str, float]) -> dict[str, float]:
    """A run's seconds of compiling, searching and training, as its phases are declared."""
    found = {"compile": seconds["compile"], "search": 0.0, "training": 0.0}
    (declared,) = json.loads((own / "phases.json").read_text(encoding="utf-8"))["methods"].values()
    for name, chain in {phase["name"]: phase["chain"] for phase in declared}.items():
        # What checks a search's scores are trainings too.
        found["search" if chain == "search" else "training"] += seconds.get(name, 0.0)
    return found


def latency_of(own: pathlib.Path, otherwise: str) -> Any:
    """Milliseconds of the fastest form, as `python -m dass_jax.latency --record` has left them in a run's folder."""
    file = own / "latency.json"
    if not file.exists():
        return otherwise
    forms = json.loads(file.read_text(encoding="utf-8"))["forms"]
    return min(one["median_ms"] for one in forms.values())


def error_file(path: pathlib.Path, name: str) -> pathlib.Path:
    """Where the error of a run is left: outside its folder, which it may never have got."""
    return path / "errors" / f"{name}.txt"


def shared_seconds(metrics: pathlib.Path) -> float:
    """Seconds of the epochs that were taken over from another run."""
    lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    return float(sum(line["seconds"] for line in lines if line.get("shared")))


def grams(seconds: float, report: Report) -> float:
    """CO2 of so many seconds at the machine's power: kWh = W · s / 3.6e6."""
    return report.watts * seconds / 3.6e6 * report.grams_per_kwh
