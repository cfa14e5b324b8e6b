"""The report from run folders written here: what it shows, and what it says about a damaged folder."""

import base64
import json
import math
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import dass_jax.report as report_package
from dass_jax.architectures.family import Edge, Graph
from dass_jax.report import build, curves, heatmap, learning, records, table
from tests.report.folders import (
    Page,
    architecture,
    final,
    matrix,
    outcome,
    phase,
    search_epoch,
    training_epoch,
    write,
)

LINES = [
    search_epoch("step1", 1, 2),
    search_epoch("step1", 2, 2, upper_loss=math.nan),
    search_epoch("step2", 1, 1),
    training_epoch("dass", "pretrain", 1),
    training_epoch("dass", "finetune", 1, test_loss=None, test_accuracy=None),
    training_epoch("dass", "finetune", 2),
    training_epoch("random", "finetune", 1),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write(tmp_path_factory.mktemp("runs") / "run <1>", LINES)
    assert build(run) == run / "report.html"
    assert not list(run.glob("*.part"))
    return (run / "report.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(report: str) -> None:
    page = Page(report)
    assert report.startswith("<!DOCTYPE html>")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import", report)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    for source in sources:
        root = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
        assert root.tag.endswith("svg")


NUMBERS = (
    "71.23 66.78 55.50 2,716 9.877 0.457 23.456 114.8 6.0 65,432 54,321 3,999 2,750 24.1 12,345 "
    "1.2.3 versions.jax a&b 0.300 51.25 8.75"
)


@pytest.mark.parametrize("text", NUMBERS.split())
def test_page_shows_the_number(report: str, text: str) -> None:
    assert text in Page(report).words


def test_page_shows_what_is_kept(report: str) -> None:
    assert "0.05 (5 % of the prunable weights)" in Page(report).words


def test_page_says_how_weights_are_shared_out_where_it_is_not_per_layer(tmp_path: pathlib.Path) -> None:
    for name, said in (("erk", True), ("layer", False)):
        run = write(tmp_path / name, [], finished=False)
        (run / "config.toml").write_text(f'keep = 0.05\n[sparsity]\ndistribution = "{name}"\n')
        page = Page(build(run).read_text(encoding="utf-8")).words
        assert ("shared out by erk" in page) == said and "shared out by layer" not in page


def test_page_escapes_text(report: str) -> None:
    assert "<title>Run run &lt;1&gt;</title>" in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert "op&lt;2&gt;" in report and "op<2>" not in report


def test_page_draws_every_phase_and_control(report: str) -> None:
    alts = " | ".join(Page(report).alts)
    assert alts.count("Graph of the") == 4  # two cells of the main method and of the control
    assert "Curves of accuracy over 2 epochs of dass, random" in alts and "Gap of accuracy" in alts
    assert alts.count("Heat map") == 2
    assert alts.count("Kept share of the 4 layers") == 2


def test_unfinished_run(tmp_path: pathlib.Path) -> None:
    run = write(tmp_path / "run", LINES[:1], finished=False)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"method": "dass", "sta')
    words = Page(build(run).read_text(encoding="utf-8")).words
    assert "This run is unfinished" in words
    assert "Last epoch done: dass, step1, epoch 1 of 2." in words
    assert "No architecture has been found yet" in words
    assert "in the order of time" not in words


@pytest.mark.parametrize("starts", [1, 2])
def test_what_held_at_several_starts_is_shown(tmp_path: pathlib.Path, starts: int) -> None:
    run = write(tmp_path / "run", [], finished=False)
    found = {"jax": "3", "starts": {str(n): {"lines": 2 * n, "jax": str(n)} for n in range(1, starts + 1)}}
    (run / "environment.json").write_text(json.dumps(found), encoding="utf-8")
    text = build(run).read_text(encoding="utf-8")
    assert ("starts.1.jax" in text, "starts.2.lines" in text) == (starts == 2, starts == 2)


def test_run_without_an_epoch(tmp_path: pathlib.Path) -> None:
    words = Page(build(write(tmp_path / "run", [], finished=False)).read_text(encoding="utf-8")).words
    assert "No epoch is done." in words


def test_table_is_aligned_with_the_main_method_first() -> None:
    lines = table(final()).splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["dass", "random"]
    assert lines[3].split() == ["dass", "71.23", "66.78", "2,716", "9.877", "0.457", "23.456", "114.8"]
    assert lines[4].split()[-1] == "6.0"
    ends = [[match.end() for match in re.finditer(r"\S+", line)][1:] for line in lines[2:]]
    assert ends[0] == ends[1] == ends[2]  # the rule and both rows end each column at the same place
    assert lines[1].split("  ")[-1].strip() == "[s]" and len(lines[1]) == len(lines[3])


def test_table_shows_a_hyphen_for_what_is_not_a_number() -> None:
    values = {"dense": {"accuracy": None}, "sparse": {"accuracy": np.float32(50)}}
    data = final() | {"nid": math.nan, "evaluations": values}
    assert table(data).splitlines()[3].split() == ["dass", "-", "50.00", "2,716", "9.877", "0.457", "-", "114.8"]


def read(tmp_path: pathlib.Path, lines: list[dict]) -> records.Run:
    return records.read(write(tmp_path / "run", lines, finished=False))


def test_the_history_of_a_matrix_goes_on_in_the_next_phase(tmp_path: pathlib.Path) -> None:
    run = read(tmp_path, LINES)
    found = heatmap.histories(run.declared, run.epochs, "dass", records.keys(run))
    assert [(each.name, each.values.shape, each.borders) for each in found] == [
        ("normal", (5, 8, 3), (2,)),
        ("reduce", (5, 8, 3), (2,)),
    ]
    np.testing.assert_allclose(found[0].values[3, 4], [(epoch + 0.3 + 0.04) / 10 for epoch in (1, 2, 1)], rtol=1e-6)
    assert heatmap.histories(run.declared, run.epochs, "random", records.keys(run)) == []
    figure = heatmap.heat_figure(found[0], "normal", ((0, 4), (1, 3), (4, 1), (2, 7)))
    *panels, _ = figure.axes  # the last is the colour scale
    lines = [(axes, line) for axes in panels for line in axes.lines]
    marks = {
        (axes.get_title(), y) for axes, line in lines if line.get_marker() == "<" for y in np.asarray(line.get_ydata())
    }
    assert marks == {("$c_{k-2}$ → 2", 4), ("$c_{k-1}$ → 2", 3), ("2 → 3", 1), ("$c_{k-2}$ → 3", 7)}
    borders = {(axes.get_title(), *line.get_xdata()) for axes, line in lines if line.get_color() == "#D00000"}
    assert {(axes.get_title(), 2.5, 2.5) for axes in panels} <= borders
    # The grid of the declaration: two panels above three, columns below one another.
    corners = [tuple(np.round(axes.get_position().min, 6)) for axes in panels]
    assert [sorted({y for _, y in corners}, reverse=True).index(y) for _, y in corners] == [0, 0, 1, 1, 1]
    assert [sorted({x for x, _ in corners}).index(x) for x, _ in corners] == [0, 1, 0, 1, 2]


def test_curves_leave_out_what_was_not_measured_and_keep_nan(tmp_path: pathlib.Path) -> None:
    run = read(tmp_path, LINES)
    methods = records.methods(run)
    loss, tuned = curves.groups(run.declared, run.epochs, methods, ("training", "finetune"))
    assert [(each.title, each.unit, each.declared) for each in (loss, tuned)] == [
        ("loss", "nats", True),
        ("accuracy", "%", True),
    ]
    lines = {(each.method, each.curve.line): each.line.epoch.tolist() for each in tuned.series}
    assert lines == {
        ("dass", "train"): [1, 2],
        ("dass", "test"): [2],
        ("random", "train"): [1],
        ("random", "test"): [1],
    }
    assert not loss.gaps and [each.difference.line.value.tolist() for each in tuned.gaps] == [[8.75], [8.75]]
    assert curves.last_epochs(tuned) == [
        ("dass", "2", "60.00", "51.25", "8.75"),
        ("random", "1", "60.00", "51.25", "8.75"),
    ]
    loss = curves.groups(run.declared, run.epochs, methods, ("search", "step1"))[0]
    assert loss.series[1].line.value[0] == 2.5 and math.isnan(loss.series[1].line.value[1])


def test_epoch_done_again_after_a_restart_counts_once(tmp_path: pathlib.Path) -> None:
    again = training_epoch("dass", "finetune", 2, accuracy=99.0)
    run = read(tmp_path, [*LINES, again])
    tuned = curves.groups(run.declared, run.epochs, ("dass",), ("training", "finetune"))[1]
    assert tuned.series[0].line.value.tolist() == [60.0, 99.0]


def test_a_search_that_was_ended_early_is_said_to_be(tmp_path: pathlib.Path) -> None:
    none = dict.fromkeys(("lower_loss", "upper_loss", "lower_accuracy", "upper_accuracy", "matrices"))
    run = read(tmp_path, [search_epoch("step1", 1, 3, stopped=True, **none)])
    assert "No metric was recorded. dass ended early, after epoch 1." in learning.learning(run)


ODD = Graph("$", ("$x_$", "\x00", "<"), (Edge("$x_$", "\x00", '\x01$ "]'), Edge("\x00", "<", "_{")))


def test_odd_values_do_not_break_the_page(tmp_path: pathlib.Path) -> None:
    """Dollar signs (a formula to matplotlib), layers without weights, NaN and null wherever a number may stand."""
    none = [[math.nan] * 8] * 5
    lines = [search_epoch("step1", 1, 1, method="$a_{<$", seconds=None, matrices={"normal$": none, "reduce": none})]
    lines += [training_epoch("$a_{<$", "scores", 1, loss=math.inf, accuracy=math.nan, test_loss=None)]
    lines += [training_epoch("$a_{<$", "x$y_$\x01\ud800", 1, **{"$\x02": 1.0, "_": 2.0})]
    layers = [{"path": "$x_$/<", "weights": 0, "kept": 0}, {"path": "y$", "weights": 5, "kept": 0}]
    data = outcome("$a_{<$", math.nan, layers=layers, nid=None, compression=math.inf, seed=None)
    data |= {"seconds": {"x$y_$": 1.0, "_": 2.0}} | architecture(ODD)
    run = write(tmp_path / "run", lines)
    (run / "results.json").write_text(json.dumps(data))
    (run / "architecture.json").write_text(json.dumps(architecture(ODD)))
    page = Page(build(run).read_text(encoding="utf-8"))
    assert "$a_{<$" in page.words and "All 2 layers" in page.words
    for _, attributes in page.tags:
        if "src" in attributes:
            ElementTree.fromstring(base64.b64decode(attributes["src"].partition(",")[2]))


def test_the_report_knows_no_system_by_name() -> None:
    names = re.compile(r"step1|step2|finetune|pretrain|\"normal\"|\"reduce\"|skips_|genotype|conv|_pool")
    files = sorted(pathlib.Path(report_package.__path__[0]).rglob("*.py"))
    assert len(files) > 20
    found = [
        f"{file.name}: {line}" for file in files for line in file.read_text("utf-8").splitlines() if names.search(line)
    ]
    assert found == []


def test_report_starts_without_jax() -> None:
    code = "import sys, dass_jax.report; sys.exit('jax' in sys.modules)"
    root = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_thousand_epochs_open_in_seconds(tmp_path: pathlib.Path) -> None:
    """Of the paper's shapes: 14 edges a cell, and a method's 70 epochs of search and 930 of training."""
    edges = [(source, node) for node in range(4) for source in range(node + 2)]
    labels = {
        "rows": [f"{source} → {node}" for source, node in edges],
        "grid": [[node, source] for source, node in edges],
    }
    phases = {"methods": {"dass": [phase("search", "step1", ""), phase("training", "pretrain", "")]}}
    phases["methods"]["dass"][0]["matrices"] = {cell: matrix(cell) | labels for cell in ("normal", "reduce")}
    weights = np.full((14, 8), 0.125).tolist()
    lines = [search_epoch("step1", n + 1, 70, matrices={"normal": weights, "reduce": weights}) for n in range(70)]
    lines += [training_epoch("dass", "pretrain", n + 1, epochs=930) for n in range(930)]
    start = time.monotonic()
    page = build(write(tmp_path / "long", lines, phases=phases))
    assert time.monotonic() - start < 20 and page.stat().st_size < 2_000_000
