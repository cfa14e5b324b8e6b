"""What an experiment averages is of one data set: by its plan, by what its runs began with, and in its report."""

import csv
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from dass_jax import compose
from dass_jax.errors import UserError
from dass_jax.experiment import plan, same_data
from dass_jax.experiment.plan import Plan
from dass_jax.report.experiment import data as shown
from dass_jax.runtime import origin
from dass_jax.runtime.progress import Progress

BASE = "controls = []\ndata = { source = 'one.npz' }\n"
AXES = "seed = [0, 1]\nmethod = ['darts', 'random']\n"


def write(file: pathlib.Path, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (12, 4, 4, 1), np.uint8)
    labels = np.arange(12) % 3
    np.savez(file, train_images=images, train_labels=labels, test_images=images[:6], test_labels=labels[:6])


def planned(folder: pathlib.Path, axes: str = AXES, set: str = "") -> Plan:
    (folder / "base.toml").write_text(BASE, encoding="utf-8")
    (folder / "own.toml").write_text(f"base = 'base.toml'\n[set]\n{set}\n[axes]\n{axes}", encoding="utf-8")
    return plan.load(folder / "own.toml")


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.npz", 0)
    write(tmp_path / "two.npz", 1)
    return tmp_path


def begun(p: Plan, out: pathlib.Path) -> None:
    """Every run's folder, as far as its data are concerned, finished."""
    for run in p.runs:
        own = out / "runs" / run.name
        own.mkdir(parents=True, exist_ok=True)
        record = compose.load_data(run.config).record
        assert record is not None
        origin.write(own, record)
        (own / "results.json").write_text("{}", encoding="utf-8")


def refused(p: Plan, out: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        same_data.check(p, out, Progress())
    message = str(caught.value)
    assert "\n" not in message and message.endswith(same_data.ALLOWED)
    return message


@pytest.mark.parametrize("set", ["", "data.limit = 6", "data.streaming = true"])
def test_the_same_data_pass_and_changed_ones_are_refused(place: pathlib.Path, set: str) -> None:
    out, p = place / "out", planned(place, set=set)
    same_data.check(p, out, Progress())
    begun(p, out)
    same_data.check(p, out, Progress())
    write(place / "one.npz", 2)
    assert f"run {p.runs[0].name} has now other data than it began with: train: images " in refused(p, out)


def test_a_run_of_other_data_than_those_that_it_is_averaged_with_is_refused(place: pathlib.Path) -> None:
    out, p = place / "out", planned(place)
    begun(p, out)
    write(place / "one.npz", 2)
    begun(p._replace(runs=p.runs[2:]), out)
    assert f"run {p.runs[0].name} has now other data than it began with" in refused(p, out)
    write(place / "one.npz", 0)
    assert f"run {p.runs[2].name} has other data than {p.runs[0].name}, with which it is averaged" in refused(p, out)


def test_a_run_that_went_on_with_other_data_is_refused(place: pathlib.Path) -> None:
    out, p = place / "out", planned(place)
    begun(p, out)
    own = out / "runs" / p.runs[1].name
    known = origin.read(own)
    assert known is not None
    origin.write(own, known.record._replace(accepted=(f"{origin.WENT_ON} with other data: x",)))
    assert f"run {p.runs[1].name} has been trained on two data sets: went on with other data: x" in refused(p, out)


def test_what_cannot_be_known_is_said_or_left_to_the_run(
    place: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, p = place / "out", planned(place)
    begun(p, out)
    for run in p.runs[:2]:
        (out / "runs" / run.name / "data.json").unlink()
    (place / "one.npz").write_bytes(b"no data")  # what a run would say by itself
    same_data.check(p, out, Progress())
    said = capsys.readouterr().err
    assert said == f"which data 2 finished runs were trained on is not known, e.g. {p.runs[0].name}\n"


def test_runs_of_several_sources_are_groups_of_their_own(place: pathlib.Path) -> None:
    p = planned(place, "seed = [0, 1]\ndata.source = ['one.npz', 'sub/two.npz']\ndata.limit = [0, 6]\n")
    names = {run.network.split(", ", 2)[-1] for run in p.runs}
    wanted = {f"{source}, limit {limit}" for source in ("one.npz", "two.npz") for limit in (0, 6)}
    assert names == wanted and len({run.network for run in p.runs}) == 4
    assert {run.network for run in planned(place).runs} == {"20 cells, 36 channels"}, "of one source nothing is said"


def test_a_report_averages_no_two_data_sets(place: pathlib.Path) -> None:
    out, p = place / "out", planned(place, "seed = [0, 1]\n", "data.limit = 6")
    begun(p, out)
    columns = ("run", "network", "method", "keep", "seed", "status", "final", "error")
    with (out / "results.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.DictWriter(stream, columns, restval="")
        rows.writeheader()
        for run in p.runs:
            own: dict[str, Any] = {"run": run.name, "network": run.network, "method": run.config.method.name}
            rows.writerow(own | {"keep": 0.01, "seed": run.config.seed, "status": "finished", "final": 1.0})
    about = {"title": "x", "report": {"keep": 0, "published": "none", "watts": 0, "grams_per_kwh": 0}}
    (out / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    read = shown.read(out)
    assert len(read.rows) == 2, "each seed draws its own images of one data set"
    assert [said.partition(", rar")[0] for said in shown.data_said(read)] == [
        "6 of 12 + 6 images, 4×4×1, 3 classes (0, 1, 2)"
    ]
    write(place / "one.npz", 2)
    begun(p._replace(runs=p.runs[1:]), out)
    with pytest.raises(
        UserError, match=rf"run {p.runs[1].name} has other data than {p.runs[0].name}, .*: test, train\)"
    ):
        shown.read(out)
