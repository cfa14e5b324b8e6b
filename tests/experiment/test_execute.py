"""A tiny experiment: interrupted, continued, with a run that fails; and what is shared is what each would have done."""

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
from dass_jax.runtime import folder, records
from dass_jax.runtime.progress import Progress
from tests.runs import CONFIG, interrupting, last, metrics, results, timeless, workplace

EXPERIMENT = """
title = "Tiny"
base = "run.toml"
[axes]
method = ["dass", "darts_sparse"]
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
OK = [("dass", "0.3"), ("dass", "0.5"), ("darts_sparse", "0.3"), ("darts_sparse", "0.5")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with workplace(tmp_path_factory.mktemp("experiment"), "controls = []\n" + CONFIG) as folder:
        (folder / "tiny.toml").write_text(EXPERIMENT, encoding="utf-8")
        yield folder


def rows(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def lines_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "shared"} for line in timeless(metrics(folder))]


@pytest.fixture(scope="module")
def stopped(place: pathlib.Path) -> pathlib.Path:
    """Stopped in the score learning of the first run, after its first step."""
    folder = place / "out"
    with interrupting(7, signal.SIGTERM):
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
    assert [row["status"] for row in found] == ["begun", *["waiting"] * 4] and {row["sparse"] for row in found} == {""}
    assert not (stopped / "errors").exists() and (stopped / "runs" / found[0]["run"] / "pauses").is_dir()


def test_an_experiment_in_use_is_refused(stopped: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with folder.claimed(stopped):
        assert guarded(lambda: main([str(stopped.parent / "tiny.toml"), "--out", str(stopped)])) == 2
    assert capsys.readouterr().err == (
        f"error: --out = {str(stopped)!r} is in use by another process; "
        "allowed: to wait for its end, or another folder\n"
    )


def test_a_run_that_fails_stops_no_other_and_is_tried_again(
    done: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *good, bad = rows(done)
    assert [(row["method"], row["keep"]) for row in good] == OK and {row["status"] for row in good} == {"finished"}
    assert bad["status"] == "failed" and bad["network"] == "broken" and bad["sparse"] == ""
    assert bad["error"] == "train.batch_size = 1000; allowed: at most 64, the training images"
    before = {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()}
    assert guarded(lambda: main([str(done.parent / "tiny.toml"), "--out", str(done)])) == 1
    assert {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()} == before
    said = capsys.readouterr().err
    assert "5 runs, 4 of them finished" in said and "[1/1] broken-random" in said and f"failed: {bad['run']}: " in said


def test_rows_are_what_the_runs_results_say(done: pathlib.Path) -> None:
    for row in rows(done)[:4]:
        found = results(done / "runs" / row["run"])
        assert float(row["sparse"]) == found["accuracy"]["sparse"] and float(row["dense"]) == found["accuracy"]["dense"]
        assert int(row["kept"]) == found["parameters"]["kept"] and json.loads(row["genotype"]) == found["genotype"]
        seconds = sum(found["seconds"].values())
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.01)
        assert float(row["co2_g"]) == pytest.approx(100 / 1000 * seconds / 3600 * 500, abs=1e-3)
        assert (done / "runs" / row["run"] / "report.html").exists()
    assert (done / "report.html").exists() and "Tiny" in (done / "report.html").read_text(encoding="utf-8")


def test_what_does_not_depend_on_the_pruning_ratio_is_done_once(done: pathlib.Path) -> None:
    runs = {(row["method"], row["keep"]): done / "runs" / row["run"] for row in rows(done)}
    taken = {whose: {line["stage"] for line in metrics(runs[whose]) if line.get("shared")} for whose in OK}
    assert taken["dass", "0.3"] == set() and taken["dass", "0.5"] == {"step1", "pretrain"}
    assert taken["darts_sparse", "0.5"] == {"step1", "pretrain"}
    shared = {row["run"]: float(row["seconds_shared"]) for row in rows(done)[:4]}
    assert shared[runs["dass", "0.3"].name] == 0 < shared[runs["darts_sparse", "0.5"].name]
    names = {path.name.partition("-")[0] for path in (done / "shared").iterdir()}
    assert names == {"step1", "pretrain"}


def test_a_run_with_shared_stages_has_the_bits_of_one_alone(done: pathlib.Path) -> None:
    (run,) = (run for run in plan.load(done.parent / "tiny.toml").runs if run.name.startswith("dass-keep0.5"))
    alone, there = done.parent / "alone", done / "runs" / run.name
    train.perform(run.config, alone, Progress())
    assert timeless(results(alone)) == timeless(results(there))
    assert lines_of(alone) == lines_of(there)
    assert (alone / "genotype.json").read_bytes() == (there / "genotype.json").read_bytes()
    one, other = last(alone), last(there)
    assert one.step == other.step and list(one.leaves) == list(other.leaves)
    for path, leaf in one.leaves.items():
        assert leaf.tobytes() == other.leaves[path].tobytes(), path


def test_a_damaged_shared_stage_is_done_anew(done: pathlib.Path) -> None:
    from dass_jax.runtime import shelf

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
        writer = csv.DictWriter(stream, table.COLUMNS)
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


def test_a_search_stops_at_skips_and_goes_on_with_what_comes_next(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "skips", lambda cell: 2)
    file = place / "stop.toml"
    file.write_text('base = "run.toml"\n[set]\nsearch.stop_at_skips = 2\nsearch.epochs = 2\n')
    (run,) = plan.load(file).runs
    folder = place / "skips"
    with interrupting(1, signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        train.perform(run.config, folder, Progress())
    assert last(folder).facts["at"]["stopped"] is True
    with interrupting(1, signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        train.perform(run.config, folder, Progress())
    found = [(line["stage"], line["epoch"], line["epochs"], line.get("stopped")) for line in metrics(folder)]
    assert found == [("step1", 1, 2, True), ("step2", 1, 2, None)]
    assert "step1: ended by search.stop_at_skips after epoch 1" in capsys.readouterr().err
