"""CO2 by codecarbon, for which a module of the same shape stands in: what is added up, and what is said without it."""

import csv
import json
import pathlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dass_jax.errors import UserError
from dass_jax.experiment import carbon, execute, plan, table
from dass_jax.report.experiment import data, page, tables
from dass_jax.runtime.progress import Progress
from tests.report.test_report_experiment import written

TEXT = 'base = "run.toml"\n[report]\ncountry = "DEU"\n'


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """codecarbon, by which everything takes 20 s, 0.01 kWh and 0.004 kg of CO2; what its trackers were asked for."""
    asked: list[dict[str, Any]] = []

    class Tracker:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def start(self) -> None:
            asked[-1]["started"] = True

        def stop(self) -> None:
            self.final_emissions_data = SimpleNamespace(duration=20.0, energy_consumed=0.01, emissions=0.004)

    source = SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}, "FRA": {}})
    top, inner = ModuleType("codecarbon"), ModuleType("codecarbon.input")
    vars(top)["OfflineEmissionsTracker"], vars(inner)["DataSource"] = Tracker, lambda: source
    monkeypatch.setitem(sys.modules, "codecarbon", top)
    monkeypatch.setitem(sys.modules, "codecarbon.input", inner)
    return asked


@pytest.fixture
def planned(tmp_path: pathlib.Path) -> plan.Plan:
    (tmp_path / "run.toml").write_text('[method]\nname = "random"\n', encoding="utf-8")
    (tmp_path / "new.toml").write_text(TEXT, encoding="utf-8")
    return plan.load(tmp_path / "new.toml")


def own_folder(path: pathlib.Path) -> pathlib.Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text("", encoding="utf-8")
    return path


def test_several_calls_add_up_and_an_interrupted_one_counts(
    meter: list[dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    own = own_folder(tmp_path / "run")
    assert carbon.grams(own, 60.0) is None
    with carbon.metered("DEU", own):
        pass
    with pytest.raises(KeyboardInterrupt), carbon.metered("DEU", own):
        raise KeyboardInterrupt
    assert carbon.read(own) == pytest.approx({"seconds": 40.0, "kwh": 0.02, "grams": 8.0})
    assert carbon.grams(own, 60.0) == pytest.approx(12.0), "at the mean rate, 0.2 g a second"
    assert [(each["country_iso_code"], each["save_to_file"], each["started"]) for each in meter] == [
        ("DEU", False, True)
    ] * 2


def test_a_run_that_was_refused_gets_no_folder_by_it(meter: list[dict[str, Any]], tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError), carbon.metered("DEU", tmp_path / "none"):
        raise UserError("refused; allowed: others")
    assert meter and not (tmp_path / "none").exists()


def test_nothing_is_measured_that_is_not_asked_for(meter: list[dict[str, Any]], tmp_path: pathlib.Path) -> None:
    own = own_folder(tmp_path / "run")
    with carbon.metered("", own):
        pass
    assert not meter and not (own / carbon.FILE).exists()


def test_a_missing_package_is_named_before_anything_is_done(
    planned: plan.Plan, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    monkeypatch.setitem(sys.modules, "codecarbon.input", None)
    with pytest.raises(UserError) as caught:
        execute.carry_out(planned, tmp_path / "out", Progress())
    assert "report.country = 'DEU' needs the package codecarbon; allowed: after pip install 'dass_jax[co2]', or" in str(
        caught.value
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("meter")
def test_an_unknown_country_is_refused() -> None:
    carbon.check("FRA")
    with pytest.raises(UserError, match=r"report\.country = 'FRE' \(did you mean 'FRA'\?\); allowed: a code of three"):
        carbon.check("FRE")


def test_a_row_has_the_grams_of_all_its_seconds(planned: plan.Plan, tmp_path: pathlib.Path) -> None:
    (run,) = planned.runs
    own = own_folder(tmp_path / "out" / "runs" / run.name)
    (own / carbon.FILE).write_text(json.dumps({"seconds": 40.0, "kwh": 0.02, "grams": 8.0}))
    (own / "metrics.jsonl").write_text(json.dumps({"shared": True, "seconds": 10}) + "\n")
    task = {"metric": "miss", "unit": "ticks", "higher_is_better": False, "examples": 100}
    results: dict[str, Any] = {"task": task, "evaluations": {"rough": {"miss": 9.0}, "shiny": {"miss": 8.0}}}
    results |= {"parameters": dict.fromkeys(("total", "prunable", "kept", "kept_with_bn_bias"), 7)}
    results |= {"macs": {"dense": 5, "nonzero": 4}, "nid": None, "compression": 2.0, "architecture": None}
    results |= {"seconds": {"compile": 5.0, "rub": 45.0}, "table": {"cifar10-test": {"value": 93.5, "rank": 7}}}
    (own / "results.json").write_text(json.dumps(results))
    (own / "phases.json").write_text(json.dumps({"methods": {"random": [{"chain": "training", "name": "rub"}]}}))
    row = table.row_of(run, tmp_path / "out", planned.report)
    assert (row["co2_g"], row["seconds_shared"]) == (10.0, 10.0), "0.2 g/s over 50 s, of which 10 were taken over"
    wanted = {
        "table_cifar10-test": 93.5,
        "rough": 9.0,
        "shiny": 8.0,
        "final": 8.0,
        "metric": "miss",
        "unit": "ticks",
        "higher_is_better": False,
    }
    wanted |= {"test_examples": 100, "nid": "", "seconds_compile": 5.0, "seconds_search": 0.0, "seconds_training": 45.0}
    assert wanted.items() <= row.items(), "whatever the task and the recipe"
    columns = table.columns([{"run": "waiting"}, row])
    assert columns[columns.index("status") + 1 : columns.index("final")] == ["table_cifar10-test", "rough", "shiny"]


def test_the_report_says_how_the_figure_came_about(tmp_path: pathlib.Path) -> None:
    folder = written(tmp_path / "out", country="DEU")
    file = folder / "results.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows([*({**row, "co2_g": "12"} for row in rows[:2]), *rows[2:]])
    read = data.read(folder)
    assert data.co2_source(read).startswith("measured by codecarbon, electricity of DEU")
    assert tables.methods(read).header[-1] == ("CO₂", "[g]")
    # 3,600 s each, of which 600 were taken over from another run: 10 of 12 g were spent.
    assert page._grams_spent(list(read.rows[:2])) == pytest.approx(20.0)
