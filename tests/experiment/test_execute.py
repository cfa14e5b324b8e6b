"""A tiny experiment: interrupted, continued, with a run that fails; and what is shared is what each would have done.

Its space is a plugin's, whose programs are compiled in no time: an experiment is the same for all spaces.
"""

import csv
import json
import pathlib
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dass_jax import train
from dass_jax.errors import UserError, guarded
from dass_jax.experiment import execute, plan, table
from dass_jax.experiment.__main__ import main
from dass_jax.runtime import shelf
from dass_jax.runtime.progress import Progress
from tests.runs import interrupting, last, metrics, results, timeless, undrawn, workplace

PLUGIN = pathlib.Path(__file__).parents[1] / "a_new_system.py"
CONFIG = f"""
controls = []
plugins = ["{PLUGIN}"]
data = {{ limit = 64, crop_padding = 1 }}
[space]
name = "ladder"
[method]
epochs = 1
prune_epochs = 1
batch_size = 16
alpha_lr = 1e-6
[train]
batch_size = 32
pretrain_epochs = 1
score_epochs = 2
finetune_epochs = 1
[runtime]
devices = 1
"""
EXPERIMENT = """
title = "Tiny"
base = "run.toml"
[axes]
method = ["dass", "darts"]
sparsity.keep = [0.3, 0.5]
[[runs]]
[[runs]]
name = "broken"
sparsity.keep = 0.3
method = "random"
train.batch_size = 1000
[report]
watts = 100
grams_per_kwh = 500
"""
OK = [("dass", "0.3"), ("dass", "0.5"), ("darts", "0.3"), ("darts", "0.5")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with undrawn(), workplace(tmp_path_factory.mktemp("experiment"), CONFIG) as folder:
        (folder / "tiny.toml").write_text(EXPERIMENT, encoding="utf-8")
        yield folder


def rows(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def lines_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "shared"} for line in timeless(metrics(folder))]


@pytest.fixture(scope="module")
def stopped(place: pathlib.Path) -> pathlib.Path:
    """Stopped in the score learning of the first run, in its second epoch."""
    folder = place / "out"
    with interrupting(4, signal.SIGTERM):
        assert guarded(lambda: main([str(place / "tiny.toml"), "--out", str(folder)])) == 143
    return shutil.copytree(folder, place / "stopped")


@pytest.fixture(scope="module")
def done(stopped: pathlib.Path) -> pathlib.Path:
    """The same command until its end, which is code 1: a run has failed."""
    folder = stopped.parent / "out"
    assert guarded(lambda: main([str(stopped.parent / "tiny.toml"), "--out", str(folder)])) == 1
    return folder


def test_an_interrupted_experiment_says_where_it_stands(stopped: pathlib.Path) -> None:
    found = rows(stopped)
    assert [row["status"] for row in found] == ["begun", *["waiting"] * 4] and {row["final"] for row in found} == {""}
    at = last(stopped / "runs" / found[0]["run"]).facts["at"]
    assert (at["phase"], at["epoch"]) == ("scores", 1) and at["step"] > 0 and not (stopped / "errors").exists()


def test_a_run_that_fails_stops_no_other_and_is_tried_again(
    done: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *good, bad = rows(done)
    assert [(row["method"], row["keep"]) for row in good] == OK and {row["status"] for row in good} == {"finished"}
    assert bad["status"] == "failed" and bad["network"] == "broken" and bad["sparse"] == bad["final"] == ""
    assert bad["error"] == "train.batch_size = 1000; allowed: at most 64, the training images"
    before = {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()}
    assert guarded(lambda: main([str(done.parent / "tiny.toml"), "--out", str(done)])) == 1
    assert {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()} == before
    said = capsys.readouterr().err
    assert "5 runs, 4 of them finished" in said and "[1/1] broken-random" in said and f"failed: {bad['run']}: " in said


def test_rows_are_what_the_runs_results_say(done: pathlib.Path) -> None:
    for row in rows(done)[:4]:
        found = results(done / "runs" / row["run"])
        figures = {name: each["accuracy"] for name, each in found["evaluations"].items()}
        assert {name: float(row[name]) for name in ("dense", "sparse")} == figures
        assert float(row["final"]) == figures["sparse"] and row["metric"] == found["task"]["metric"] == "accuracy"
        assert (row["unit"], row["higher_is_better"], row["test_examples"]) == ("%", "True", "360")
        assert int(row["kept"]) == found["parameters"]["kept"]
        assert json.loads(row["architecture"]) == found["architecture"]
        seconds = sum(found["seconds"].values())
        parts = [float(row[f"seconds_{part}"]) for part in ("compile", "search", "training")]
        assert min(parts) >= 0 and sum(parts) == pytest.approx(seconds, abs=0.02)
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.01)
        assert float(row["co2_g"]) == pytest.approx(100 / 1000 * seconds / 3600 * 500, abs=1e-3)
        assert (done / "runs" / row["run"] / "report.html").exists()
    assert (done / "report.html").exists() and "Tiny" in (done / "report.html").read_text(encoding="utf-8")


def test_what_does_not_depend_on_the_pruning_ratio_is_done_once(done: pathlib.Path) -> None:
    runs = {(row["method"], row["keep"]): done / "runs" / row["run"] for row in rows(done)}
    taken = {whose: {line["phase"] for line in metrics(runs[whose]) if line.get("shared")} for whose in OK}
    assert taken["dass", "0.3"] == set() and taken["dass", "0.5"] == {"step1", "pretrain"}
    assert taken["darts", "0.5"] == {"search", "pretrain"}
    shared = {row["run"]: float(row["seconds_shared"]) for row in rows(done)[:4]}
    assert shared[runs["dass", "0.3"].name] == 0 < shared[runs["darts", "0.5"].name]
    names = {path.name.partition("-")[0] for path in (done / "shared").iterdir()}
    assert names == {"step1", "search", "pretrain"}


def test_a_run_with_shared_phases_has_the_bits_of_one_alone(done: pathlib.Path) -> None:
    (run,) = (run for run in plan.load(done.parent / "tiny.toml").runs if run.name.startswith("dass-keep0.5"))
    alone, there = done.parent / "alone", done / "runs" / run.name
    train.perform(run.config, alone, Progress())
    assert timeless(results(alone)) == timeless(results(there))
    assert lines_of(alone) == lines_of(there)
    assert (alone / "architecture.json").read_bytes() == (there / "architecture.json").read_bytes()
    one, other = last(alone), last(there)
    assert one.facts["at"] == other.facts["at"] and list(one.leaves) == list(other.leaves)
    for path, leaf in one.leaves.items():
        assert leaf.tobytes() == other.leaves[path].tobytes(), path


def test_a_damaged_shared_phase_is_done_anew(done: pathlib.Path) -> None:
    place = shutil.copytree(next((done / "shared").iterdir()), done.parent / "damaged")
    assert shelf.take(place) is not None
    for path in place.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert shelf.take(place) is None and not place.exists()


def test_another_folder_is_left_alone(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no experiment's folder; allowed: a new or an empty one"):
        execute.prepare(plan.load(place / "tiny.toml"), tmp_path)


def test_a_latency_entered_by_hand_stays(done: pathlib.Path) -> None:
    found = rows(done)
    found[0]["latency_ms"] = "1.5"
    with (done / "results.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, table.columns(found))
        writer.writeheader()
        writer.writerows(found)
    table.write(plan.load(done.parent / "tiny.toml"), done)
    assert [row["latency_ms"] for row in rows(done)] == ["1.5", "", "", "", ""]


def test_list_names_the_runs_and_does_nothing(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(place / "tiny.toml"), "--list", "--out", str(place / "none")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[4].endswith("broken") and not (place / "none").exists()


def test_duration_in_words() -> None:
    assert [execute.duration(s) for s in (4.4, 100, 3600 * 2 + 300)] == ["4 s", "2 min", "2 h 05 min"]
