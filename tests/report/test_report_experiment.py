"""The report of an experiment: its statistics against closed forms and scipy, its tables from a folder written here."""

import csv
import json
import math
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from dass_jax.errors import UserError
from dass_jax.report import experiment
from dass_jax.report.__main__ import main
from dass_jax.report.experiment import data, figures, percentiles, published, rows, savings, statistics, tables
from tests.report.folders import PHASES, Page, training_epoch

ACCURACY = {
    ("dass", 0.1): [80.0, 82.0, 84.0],
    ("dass", 0.01): [70.0, 71.0, 75.0],
    ("darts_sparse", 0.1): [79.0, 80.0, 81.0],
    ("darts_sparse", 0.01): [65.0, 64.0, None],
}
"""(method, keep) → sparse accuracy of the seeds 0, 1, 2; None: the run has failed."""
HEADER = ["run", "network", "method", "keep", "seed", "status", "dense", "sparse", "final", "metric", "unit"]
HEADER += ["higher_is_better", "test_examples", "total", "prunable", "kept", "kept_with_bn_bias", "macs_dense"]
HEADER += ["macs_nonzero", "nid", "compression", "seconds_compile", "seconds_search", "seconds_training", "seconds"]
HEADER += ["seconds_shared", "co2_g", "latency_ms", "architecture", "error"]


def written(folder: pathlib.Path, latency: str = "", **report: Any) -> pathlib.Path:
    """An experiment's folder of twelve runs, of which one has failed and none trained but in finetune."""
    about = {"tables": list(tables.TABLES), "figures": list(figures.FIGURES), "keep": 0.0, "published": "cifar10"}
    about |= {"watts": 0.0, "grams_per_kwh": 0.0} | report
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps({"title": "<Orderings>", "report": about}))
    rows = []
    for (method, keep), values in ACCURACY.items():
        for seed, sparse in enumerate(values):
            run = f"{method}-{keep}-{seed}"
            row = dict.fromkeys(HEADER, "") | {"run": run, "network": "2 cells, 4 channels", "method": method}
            row |= {"keep": keep, "seed": seed, "status": "failed", "error": "no memory"}
            if sparse is not None:
                kept = round(10000 * keep) + (100 if method == "dass" else 0)
                row |= {"status": "finished", "dense": 90.0, "sparse": sparse, "final": sparse, "metric": "accuracy"}
                row |= {"unit": "%", "higher_is_better": True, "kept": kept, "macs_dense": 2e6}
                row |= {"macs_nonzero": 200 * kept, "nid": 1.5, "seconds": 3600, "seconds_shared": 600, "error": ""}
                row["latency_ms"] = latency
                own = folder / "runs" / run
                own.mkdir(parents=True)
                lines = [training_epoch(method, "finetune", epoch, test_accuracy=50.0 + seed) for epoch in (1, 2)]
                lines.append(training_epoch("random", "finetune", 1, test_accuracy=0.0))  # a control
                (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
                phases = {method: PHASES["methods"]["dass"], "random": PHASES["methods"]["random"]}
                (own / "phases.json").write_text(json.dumps({"methods": phases}))
            rows.append(row)
    with (folder / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def read(tmp_path: pathlib.Path) -> data.Experiment:
    return data.read(written(tmp_path / "out"))


def test_the_published_figures_are_the_papers() -> None:
    assert published.accuracy("cifar10", "dass", "20 cells, 36 channels", 0.01).accuracy == 89.06
    assert published.accuracy("cifar10", "dass", "Large", 0.01) == published.Figure(95.31, 105.5)
    assert published.accuracy("cifar10", "dass", "ResNet-18", 0.01) is None
    assert published.accuracy("none", "dass", "Small", 0.01) is None
    gaps = [published.gap("cifar10", "dass", "darts_sparse", "Small", keep) for keep in (0.1, 0.05, 0.01, 0.2)]
    assert gaps == [1.57, 1.04, 7.81, None]
    assert published.gap("cifar10", "darts_sparse", "dass", "Small", 0.01) == -7.81
    small, dense = (published.accuracy("cifar10", method, "Small", 0.01) for method in ("dass", "darts_sparse"))
    assert small.accuracy - dense.accuracy == pytest.approx(gaps[2])


def test_the_methods_table_stands_at_the_smallest_keep_with_published_figures(read: data.Experiment) -> None:
    found = tables.methods(read)
    assert found.title == "Methods at 99 % of the weights pruned"
    dass, darts = found.rows
    half = stats.t.ppf(0.975, 2) * math.sqrt(7) / math.sqrt(3)
    assert dass[:6] == ["dass", "3", "72.00", f"{math.sqrt(7):.2f}", f"{half:.2f}", "89.06"]
    assert dass[6:] == ["90.00", "200", "17", "2.000", "0.040", "1.500", "3,600.0"]
    assert darts[:6] == ["darts_sparse", "2", "64.50", "0.71", "6.35", "81.25"] and darts[8] == "-"
    assert len(found.header) == len(dass) and ("published", "[%]") in found.header


def test_the_table_of_pruning_ratios_shows_what_is_missing(tmp_path: pathlib.Path) -> None:
    found = tables.keep(data.read(written(tmp_path / "out")))
    assert [row[:4] for row in found.rows] == [
        ["90 %", "dass", "3", "82.00"],
        ["90 %", "darts_sparse", "3", "80.00"],
        ["99 %", "dass", "3", "72.00"],
        ["99 %", "darts_sparse", "2", "64.50"],
    ]
    assert [row[6] for row in found.rows] == ["-", "-", "89.06", "81.25"]


def test_the_table_of_tests_has_each_pair_at_each_ratio(read: data.Experiment) -> None:
    at_90, at_99 = tables.tests(read).rows
    wanted = statistics.compare({0: 80.0, 1: 82.0, 2: 84.0}, {0: 79.0, 1: 80.0, 2: 81.0})
    assert at_90[:4] == ["90 %", "dass − darts_sparse", "3", "+2.00"]
    assert at_90[6:] == [f"{wanted.p_t:.3f}", "0.250", "+1.57"]
    assert at_99[2:4] == ["2", "+6.00"] and at_99[-1] == "+7.81"


def test_the_table_of_seeds_has_a_hyphen_for_the_failed_one(read: data.Experiment) -> None:
    found = tables.seeds(read)
    assert [title for title, _ in found.header] == ["method", "seed 0", "seed 1", "seed 2", "mean", "std"]
    assert found.rows[1] == ["darts_sparse", "65.00", "64.00", "-", "64.50", "0.71"]


def test_without_published_figures_and_power_their_columns_are_not_there(tmp_path: pathlib.Path) -> None:
    plain = data.read(written(tmp_path / "plain", published="none"))
    for table in (tables.methods(plain), tables.keep(plain), tables.tests(plain)):
        assert all(title not in ("published", "CO₂") for title, _ in table.header)
        assert {len(row) for row in table.rows} == {len(table.header)}
    power = tables.methods(data.read(written(tmp_path / "power", watts=65, grams_per_kwh=475)))
    assert power.header[-1] == ("CO₂", "[g]") and "65 W · time · 475 g/kWh" in power.caption


def test_csv_and_markdown_hold_the_table() -> None:
    table = rows.Table("T", "c", [("method", ""), ("time", "[s]")], [["a|b, c", "3,600.0"]])
    assert list(csv.reader(rows.to_csv(table).splitlines())) == [["method", "time [s]"], ["a|b, c", "3600.0"]]
    assert "| method | time [s] |\n|:---|---:|\n| a\\|b, c | 3,600.0 |" in rows.to_markdown(table)


def test_the_page_the_tables_and_the_figures_are_written(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "out", watts=65, grams_per_kwh=475)
    assert main([str(folder)]) == 0 and capsys.readouterr().out.strip() == str(folder / "report.html")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "This experiment is unfinished" in page.words and "no memory" in page.words and "<Orderings>" in page.words
    assert "9.17 h spent on them; each alone 11.00 h" in page.words
    assert f"{65 * 9.1666667 / 1000 * 475:.1f} g of the time spent" in page.words
    there = set(tables.TABLES) - {"lookup", "percentiles", "percentile_tests"}  # they would have no rows
    assert {path.name for path in (folder / "tables").iterdir()} == {f"{n}.{e}" for n in there for e in ("csv", "md")}
    names = {"accuracy_by_pruning_ratio", "learning_finetune_loss", "learning_finetune_accuracy"}
    names |= {"gap_finetune_accuracy", "accuracy_macs"}
    drawn = {path.stem: path for path in (folder / "figures").iterdir()}
    names |= {"weights_by_pruning_ratio", "macs_by_pruning_ratio"}
    assert set(drawn) == names | {"accuracy_parameters", "seeds"}
    for path in drawn.values():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert sum(tag == "img" for tag, _ in page.tags) == len(drawn)
    assert "No latency was measured" in page.words


def test_a_measured_latency_takes_the_place_of_macs(tmp_path: pathlib.Path) -> None:
    (drawing,) = figures.latency(data.read(written(tmp_path / "out", latency="1.25")))
    assert drawing.name == "accuracy_latency" and drawing.caption.startswith("Latency as measured.")
    places = {line.get_xdata()[0] for line in drawing.figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert places == {1.25}


def test_the_gap_is_the_mean_over_seeds_of_train_less_test(read: data.Experiment) -> None:
    (drawing,) = figures.gap(read)
    lines = [
        line for line in drawing.figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_color() != "#555555"
    ]
    # Training accuracy is 60; test accuracy 50, 51, 52 of three seeds of dass, and 50, 51 of darts_sparse.
    assert sorted(line.get_ydata().tolist() for line in lines) == [[9.0, 9.0], [9.5, 9.5]]
    assert len(drawing.figure.axes[0].collections) == 2, "a band for each"


def rewritten(folder: pathlib.Path, change: Callable[[dict[str, str]], dict[str, str]]) -> data.Experiment:
    """An experiment of which each row of results.csv is changed."""
    file = folder / "results.csv"
    with file.open(newline="") as stream:
        rows = [change(row) for row in csv.DictReader(stream)]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return data.read(folder)


def test_rows_with_a_name_for_each_method_are_compared_with_one_another(
    read: data.Experiment, tmp_path: pathlib.Path
) -> None:
    def named(row: dict[str, str]) -> dict[str, str]:
        return row | {"network": row["method"] + "'s own"}

    own = rewritten(written(tmp_path / "named"), named)
    before, found = tables.tests(read).rows, tables.tests(own).rows
    assert [row[0] for row in found] == ["90 %", "99 %"]
    assert found[0][1] == "dass, dass's own − darts_sparse, darts_sparse's own"
    assert [row[2:5] for row in found] == [row[2:5] for row in before], "the numbers are those of one network"

    def apart(row: dict[str, str]) -> dict[str, str]:
        """Each method at a ratio of its own."""
        return named(row) | {"keep": "0.5" if row["method"] == "dass" else row["keep"]}

    assert tables.tests(rewritten(written(tmp_path / "apart"), apart)).rows == []


def in_decibels(row: dict[str, str]) -> dict[str, str]:
    """Columns of another task: three evaluations, of which the last is `glass`; less is better; nothing is pruned."""
    cut = list(row).index("dense")
    before, after = dict(list(row.items())[:cut]), dict(list(row.items())[cut + 2 :])
    done = row["status"] == "finished"
    values = (
        {"cask": "0.5", "bottle": "0.25", "glass": row["final"]} if done else dict.fromkeys(("cask", "bottle", "glass"))
    )
    of_task = {"metric": "murk", "unit": "dB", "higher_is_better": "False"} if done else {}
    return before | {"keep": ""} | values | after | of_task | {"nid": ""}


def test_how_far_a_method_can_be_pruned_before_it_loses_a_point(tmp_path: pathlib.Path) -> None:
    def nearly(row: dict[str, str]) -> dict[str, str]:
        """DASS loses exactly a point, DARTS a little more."""
        loses = {"dass": "81.0", "darts_sparse": "78.99"}[row["method"]]
        sparse = row["keep"] == "0.01" and row["status"] == "finished"
        return row | ({"final": loses} if sparse else {}) | {"network": "SMASH"}

    read = rewritten(written(tmp_path / "out", published="scas_cifar10"), nearly)
    found = savings.table(read)
    assert found.title == "Pruned as far as 1 point allows"
    dass, darts = found.rows
    # Kept weights are 1,000 and 100, of DASS 100 more; MACs of kept weights 200 for each.
    assert dass == ["dass", "82.00", "99 %", "81.00", "1,100", "200", "5.5", "9.1", "220,000", "40,000", "5.5", "9.8"]
    assert darts[:8] == ["darts_sparse", "80.00", "90 %", "80.00", "1,000", "1,000", "1.0", "9.1"]
    assert darts[8:] == ["200,000", "200,000", "1.0", "9.8"]
    assert len(found.header) == len(dass)
    for drawing, wanted in zip(figures.cost(read), ([1100, 200], [220_000, 40_000]), strict=True):
        assert list(drawing.figure.axes[0].lines[0].get_ydata()) == wanted
    assert all(title != "published" for title, _ in tables.methods(read).header), "accuracies are DASS'"


def test_what_a_table_of_published_results_says(tmp_path: pathlib.Path) -> None:
    def looked_up(row: dict[str, str]) -> dict[str, str]:
        cut = list(row).index("dense")
        before, after = dict(list(row.items())[:cut]), dict(list(row.items())[cut:])
        value = str(90 + int(row["seed"])) if row["status"] == "finished" else ""
        return before | {"table_c10_test": value} | after

    read = rewritten(written(tmp_path / "out"), looked_up)
    assert read.evaluations == ("dense", "sparse") and read.lookups == ("table_c10_test",)
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert tables.lookup(read).rows[0] == ["dass", "3", f"91.00 ± {half:.2f}"]
    assert tables.lookup(read).rows[1][:2] == ["darts_sparse", "2"]
    assert ("c10_test", "[%]") in tables.lookup(read).header
    for row in read.rows:
        file = read.folder / "runs" / row.run / "metrics.jsonl"
        if row.status == "finished":  # of two epochs; of the first run one alone
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for line in lines[: 1 if row.seed == 0 else 2]:
                line["table_c10_test"] = 50.0 + row.seed + line["epoch"]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (drawing,) = figures.lookup(read)
    assert drawing.name == "lookup_c10_test"
    assert [list(line.get_ydata()) for line in drawing.figure.axes[0].lines] == [[52.0, 53.5], [51.5, 53.0]]


def test_found_cells_have_their_places_among_all_cells(tmp_path: pathlib.Path) -> None:
    def placed(row: dict[str, str]) -> dict[str, str]:
        """At 90 % pruned DASS' cells are at 97, 98 and 99; at other ratios, and by other columns, at 1."""
        cut = list(row).index("dense")
        before, after = dict(list(row.items())[:cut]), dict(list(row.items())[cut:])
        best = 97 + int(row["seed"]) if row["method"] == "dass" else 50 - int(row["seed"])
        own = {"percentile_test_erk_10": str(best), "percentile_test_erk_1": "1", "percentile_test_dense": "1"}
        return before | (own if row["status"] == "finished" else dict.fromkeys(own, "")) | after

    read = rewritten(written(tmp_path / "out"), placed)
    assert read.evaluations == ("dense", "sparse") and read.lookups == ()
    found = percentiles.table(read)
    assert [row[:4] for row in found.rows[:2]] == [
        ["90 %", "test_erk_10", "dass", "3"],
        ["90 %", "test_erk_10", "darts_sparse", "3"],
    ]
    assert found.rows[0][4:8] == ["98.0", "97.0", "99.0", "98.0"] and found.rows[0][9] == "< 0.001"
    assert float(found.rows[1][9]) > 0.9, "49 in the mean"
    kept = [row.numbers["kept"] for row in read.rows if row.method == "dass" and row.keep == 0.1]
    assert found.rows[0][10] == f"{sum(kept) / 3:,.0f}" and len(kept) == 3
    assert {row[1] for row in found.rows if row[0] == "99 %"} == {"test_erk_1"}
    assert {len(row) for row in found.rows} == {len(found.header)}
    tests = percentiles.tests(read)
    assert tests.rows[0][2:5] == ["dass − darts_sparse", "3", "+49.0"] and tests.rows[0][6] == "< 0.001"
    assert {len(row) for row in tests.rows} == {len(tests.header)}
    (drawing,) = percentiles.drawings(read)
    dots = [axes.lines[0].get_xdata().tolist() for axes in drawing.figure.axes]
    assert [sorted(each) for each in dots] == [[97, 98, 99], [1, 1, 1]], "DASS at 90 and 99 %"
    assert [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()] == ["dass", "darts_sparse"]
    none = data.read(written(tmp_path / "none"))
    assert percentiles.table(none).rows == [] and percentiles.drawings(none) == []


def test_another_task_has_its_own_names_everywhere(tmp_path: pathlib.Path) -> None:
    read = rewritten(written(tmp_path / "out", published="none"), in_decibels)
    assert read.evaluations == ("cask", "bottle", "glass") and data.earlier(read) == ("cask", "bottle")
    assert data.measure(read) == data.Measure("murk", "dB", False) and {row.keep for row in read.rows} == {1.0}
    found = tables.methods(read)
    assert found.header[:7] == [
        ("method", ""),
        ("seeds", ""),
        ("murk", "mean [dB]"),
        ("std", "[dB]"),
        ("95 % interval", "± [dB]"),
        ("murk", "cask [dB]"),
        ("murk", "bottle [dB]"),
    ]
    assert not any(title == "NID" for title, _ in found.header) and "(lower is better)" in found.caption
    for table in (found, tables.keep(read), tables.tests(read), tables.seeds(read)):
        assert {len(row) for row in table.rows} == {len(table.header)}
        shown = f"{table.title} {table.caption} {table.header}".lower()
        assert "accuracy" not in shown and "%]" not in shown
    drawings = [figures.keep(read)[0], figures.latency(read)[0], figures.parameters(read)[0], figures.seeds(read)[0]]
    assert [each.name for each in drawings] == ["murk_by_pruning_ratio", "murk_macs", "murk_parameters", "seeds"]
    assert {each.figure.axes[0].get_ylabel() for each in drawings} == {"murk of the final network [dB]"}


def test_runs_of_several_tasks_are_not_called_by_one_of_them(tmp_path: pathlib.Path) -> None:
    names = iter(["loss", "loss", *["murk"] * 10])
    read = rewritten(written(tmp_path / "out"), lambda row: row | {"metric": row["metric"] and next(names)})
    assert data.measure(read) == data.Measure("main metric", "", True)


def test_an_experiment_without_a_finished_run_has_a_page(tmp_path: pathlib.Path) -> None:
    folder = written(tmp_path / "out")
    text = (folder / "results.csv").read_text().replace("finished", "waiting")
    (folder / "results.csv").write_text(text)
    assert "12, of which 0 are finished" in Page(experiment.build(folder).read_text(encoding="utf-8")).words


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("experiment.json", "{", "", "experiment.json cannot be read"),
        ("experiment.json", '"keep": 0.0', '"keep": "a"', "report: keep = 'a'; allowed: a number"),
        ("experiment.json", '"seeds"', '"sed"', "report.tables: 'sed' is unknown (did you mean 'seeds'?)"),
        ("results.csv", "80.0", "high", "results.csv, row 1: sparse = 'high'; allowed: a number, or nothing"),
        ("results.csv", ",0.1,0,", ",0.1,,", "results.csv, row 1: seed is missing; allowed: a number"),
        ("results.csv", "True", "yes", "results.csv, row 1: higher_is_better = 'yes'; allowed: true or false"),
        ("results.csv", "final", "last", "allowed: status and final among them"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: pathlib.Path, name: str, old: str, new: str, message: str) -> None:
    folder = written(tmp_path / "out")
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        experiment.build(folder)
    assert message in str(caught.value)
