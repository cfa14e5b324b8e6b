"""The report from run folders written here: what it shows, and what it says about a damaged folder."""

import base64
import html.parser
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from dass_jax.architectures.darts import Genotype, to_json
from dass_jax.errors import UserError, guarded
from dass_jax.report import bars, build, curves, heatmap, records, results, table
from dass_jax.report.__main__ import main

SMALL = Genotype(
    normal=((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2), ("dil_conv_5x5", 0))),
    reduce=((("avg_pool_3x3", 1), ("skip_connect", 0)), (("sep_conv_5x5", 1), ("dil_conv_3x3", 2))),
)
"""Two nodes, so five edges."""


def search_epoch(stage: str, epoch: int, epochs: int, **changes: object) -> dict:
    """Weight of edge e, operation o is (epoch + e/10 + o/100)/10, so that every cell of the heat map is known."""
    rows = [[(epoch + edge / 10 + operation / 100) / 10 for operation in range(8)] for edge in range(5)]
    values = {"lower_loss": 2.0, "lower_accuracy": 30.0 + epoch, "upper_loss": 2.5, "upper_accuracy": 25.0}
    head = {"method": "dass", "stage": stage, "epoch": epoch, "epochs": epochs, "seconds": 1.5}
    return head | values | {"edge_weights": {"normal": rows, "reduce": rows}} | changes


def training_epoch(method: str, stage: str, epoch: int, **changes: object) -> dict:
    head = {"method": method, "stage": stage, "epoch": epoch, "epochs": 2, "seconds": 0.25}
    return head | {"loss": 1.0, "accuracy": 60.0, "test_loss": 1.5, "test_accuracy": 51.25} | changes


def outcome(method: str, sparse: float, **changes: object) -> dict:
    layers = [{"path": f"cells_{index // 2}/op<{index}>/weight", "weights": 1000, "kept": index} for index in range(4)]
    return {
        "method": method,
        "seed": 7,
        "keep": 0.05,
        "genotype": to_json(SMALL),
        "accuracy": {"dense": 71.234, "sparse": sparse, "test_images": 12345},
        "parameters": {"total": 65432, "prunable": 54321, "kept": 2716, "kept_with_bn_bias": 3999, "paper": 2750},
        "macs": {"dense": 9876543, "nonzero": 456789},
        "nid": 23.456,
        "compression": 24.09,
        "seconds": {"compile": 10.0, "search": 20.5, "pretrain": 30.0, "prune": 4.0, "finetune": 50.25},
        "layers": layers,
    } | changes


def final() -> dict:
    control = outcome("random", 55.5, seconds={"compile": 1.0, "pretrain": 2.0, "prune": None, "finetune": 3.0})
    return outcome("dass", 66.785) | {"controls": {"random": control}}


def write(run: pathlib.Path, lines: list[dict], finished: bool = True) -> pathlib.Path:
    run.mkdir(exist_ok=True)
    (run / "config.toml").write_text('keep = 0.05\nname = "<script>alert(1)</script>"\n')
    (run / "environment.json").write_text(json.dumps({"versions": {"jax": "1.2.3"}, "commit": "a&b", "seed": 7}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (run / "genotype.json").write_text(json.dumps(to_json(SMALL)))
        (run / "results.json").write_text(json.dumps(final()))
    return run


LINES = [
    search_epoch("step1", 1, 2),
    search_epoch("step1", 2, 2, upper_loss=math.nan),
    search_epoch("step2", 1, 1),
    training_epoch("dass", "pretrain", 1),
    training_epoch("dass", "finetune", 1, test_loss=None, test_accuracy=None),
    training_epoch("dass", "finetune", 2),
    training_epoch("random", "finetune", 1),
]


class Page(html.parser.HTMLParser):
    """Collects what a report holds, and fails on an element that is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += " " + data


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


def test_page_escapes_text(report: str) -> None:
    assert "<title>Run run &lt;1&gt;</title>" in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert "op&lt;2&gt;" in report and "op<2>" not in report


def test_page_draws_every_stage_and_control(report: str) -> None:
    alts = " | ".join(attributes["alt"] for tag, attributes in Page(report).tags if tag == "img")
    assert alts.count("Graph of the") == 4  # two cells of the main method and of the control
    assert "Curves of accuracy over 2 epochs of dass, random" in alts
    assert alts.count("Heat map") == 2
    assert alts.count("Kept share of the 4 layers") == 2


def test_a_cosine_is_drawn_where_it_was_recorded(tmp_path: pathlib.Path) -> None:
    lines = [search_epoch("step1", 1, 1, upper_cosine=0.5), search_epoch("step2", 1, 1)]
    page = Page(build(write(tmp_path / "run", lines, finished=False)).read_text(encoding="utf-8"))
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert [alt for alt in alts if "Cosine" in alt] == [
        "Cosine between α's gradient and its first-order part over 1 epochs of dass"
    ]
    assert page.words.count("The cosine is between the gradient that α follows and its first-order part") == 1


def test_unfinished_run(tmp_path: pathlib.Path) -> None:
    run = write(tmp_path / "run", LINES[:1], finished=False)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"method": "dass", "sta')
    words = Page(build(run).read_text(encoding="utf-8")).words
    assert "This run is unfinished" in words
    assert "Last epoch done: dass, step1, epoch 1 of 2." in words
    assert "No cell has been derived yet" in words
    assert "sparse accuracy divided" not in words


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
    data = final() | {"nid": math.nan, "accuracy": {"dense": None, "sparse": np.float32(50), "test_images": 1}}
    assert table(data).splitlines()[3].split() == ["dass", "-", "50.00", "2,716", "9.877", "0.457", "-", "114.8"]


def test_history_puts_step_2_after_step_1(tmp_path: pathlib.Path) -> None:
    epochs = records.read_metrics(write(tmp_path, LINES) / "metrics.jsonl")
    found = heatmap.history(epochs, "dass", "normal")
    assert found is not None and found.weights.shape == (5, 8, 3) and found.border == 2
    np.testing.assert_allclose(found.weights[3, 4], [(epoch + 0.3 + 0.04) / 10 for epoch in (1, 2, 1)], rtol=1e-6)
    assert heatmap.history(epochs, "random", "normal") is None
    figure = heatmap.heat_figure(found, "normal", SMALL.normal)
    marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "<" and len(line.get_xdata())]
    assert len(marks) == 4
    assert len(figure.axes) == 5 + 1  # a panel for each edge and the colour scale


def test_curves_leave_out_what_was_not_measured_and_keep_nan(tmp_path: pathlib.Path) -> None:
    epochs = records.read_metrics(write(tmp_path, LINES) / "metrics.jsonl")
    tuned = curves.series(epochs, ("dass", "random"), "finetune", "accuracy")
    assert [each.method for each in tuned] == ["dass", "random"]
    assert tuned[0].seen.epoch.tolist() == [1, 2] and tuned[0].unseen.epoch.tolist() == [2]
    assert curves.last_epoch(tuned[0]) == ("dass", "2", "60.00", "51.25", "8.75")
    loss = curves.series(epochs, ("dass",), "step1", "loss")[0]
    assert loss.unseen.value[0] == 2.5 and math.isnan(loss.unseen.value[1])


def test_epoch_done_again_after_a_restart_counts_once(tmp_path: pathlib.Path) -> None:
    again = training_epoch("dass", "finetune", 2, accuracy=99.0)
    epochs = records.read_metrics(write(tmp_path, [*LINES, again]) / "metrics.jsonl")
    tuned = curves.series(epochs, ("dass",), "finetune", "accuracy")[0]
    assert tuned.seen.value.tolist() == [60.0, 99.0]


@pytest.mark.parametrize("count", [1, 3, 400])
def test_sparsity_of_many_layers(count: int) -> None:
    layers = tuple(results.Layer(f"cells_{index // 20}/op/weight", 200, index % 7) for index in range(count))
    assert bars.kept_share(layers).tolist() == pytest.approx([0.5 * (index % 7) for index in range(count)])
    axes = bars.sparsity_figure(layers, "layers", "#000000").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        f"cells_{part}" for part in range((count + 19) // 20)
    ]
    empty = next(line for line in axes.lines if line.get_marker() == "v")
    assert len(empty.get_xdata()) == (count + 6) // 7


def test_odd_values_do_not_break_the_page(tmp_path: pathlib.Path) -> None:
    """Dollar signs (a formula to matplotlib), layers without weights, NaN and null wherever a number may stand."""
    none = [[math.nan] * 7] * 5
    lines = [search_epoch("step1", 1, 1, method="$a_{<$", seconds=None, edge_weights={"normal": none, "reduce": none})]
    lines += [training_epoch("$a_{<$", "scores", 1, loss=math.inf, accuracy=math.nan, test_loss=None)]
    layers = [{"path": "$x_$/<", "weights": 0, "kept": 0}, {"path": "y$", "weights": 5, "kept": 0}]
    data = outcome("$a_{<$", math.nan, layers=layers, seconds={}, nid=None, compression=math.inf, seed=None)
    run = write(tmp_path / "run", lines)
    (run / "results.json").write_text(json.dumps(data))
    words = Page(build(run).read_text(encoding="utf-8")).words
    assert "$a_{<$" in words and "All 2 layers" in words


def damage(run: pathlib.Path, name: str, text: str | None) -> None:
    (run / name).unlink() if text is None else (run / name).write_text(text)


GOOD = json.dumps(LINES[0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", None, "is not a run folder: it has no metrics.jsonl"),
        ("config.toml", None, "is not a run folder: it has no config.toml"),
        ("config.toml", "a = = 1", "config.toml is damaged"),
        ("results.json", '{"method": ', "results.json is damaged"),
        ("results.json", "[]", "results.json = []; allowed: an object"),
        (
            "results.json",
            json.dumps(final() | {"nid": "high"}),
            "results.json: nid = 'high'; allowed: a number or null",
        ),
        ("results.json", json.dumps(final() | {"macs": {"dense": 1}}), "results.json: macs: nonzero is missing"),
        (
            "results.json",
            json.dumps(final() | {"controls": {"random": {}}}),
            "results.json: random: genotype is missing",
        ),
        ("genotype.json", '{"normal": []}', "genotype.json: normal = []"),
        ("environment.json", "\x00", "environment.json is damaged"),
        ("metrics.jsonl", f'{GOOD}\n{{"method"\n{GOOD}\n', "metrics.jsonl, line 2 is damaged"),
        ("metrics.jsonl", f"{GOOD}\n7", "metrics.jsonl, line 2 = 7; allowed: an object"),
        ("metrics.jsonl", GOOD.replace("step1", "step3"), "line 1: stage 'step3' (did you mean 'step"),
        (
            "metrics.jsonl",
            GOOD.replace('"epoch": 1', '"epoch": 0'),
            "line 1: epoch = 0; allowed: a whole number from 1",
        ),
        ("metrics.jsonl", GOOD.replace('"epoch": 1', '"epoch": 3'), "line 1: epoch = 3; allowed: 1 to 2"),
        ("metrics.jsonl", json.dumps(LINES[0] | {"lower_loss": True}), "line 1: lower_loss = True; allowed: a number"),
        ("metrics.jsonl", json.dumps(LINES[0] | {"edge_weights": {"normal": [[1.0] * 8] * 3}}), "normal has 3 rows"),
        ("metrics.jsonl", json.dumps(LINES[0] | {"edge_weights": {"reduce": [[1.0] * 6] * 5}}), "rows of 6 numbers"),
        (
            "metrics.jsonl",
            f"{GOOD}\n" + json.dumps(LINES[1] | {"edge_weights": {"normal": [[1.0] * 8] * 9}}),
            "dass step1 epoch 2: edge_weights of the normal cell have shape (9, 8); allowed: (5, 8)",
        ),
    ],
)
def test_damaged_folder_is_one_error_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, message: str
) -> None:
    damage(write(tmp_path / "run", LINES), name, text)
    assert guarded(lambda: main([str(tmp_path / "run")])) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert not (tmp_path / "run" / "report.html").exists()


def test_missing_folder(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: main([str(tmp_path / "none")])) == 2
    assert "does not exist" in capsys.readouterr().err


def test_failed_write_leaves_the_old_report(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", [], finished=False)
    (run / "report.html").write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"report\.html cannot be written: No space left on device"):
        build(run)
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob("*.part"))


def test_report_starts_without_jax() -> None:
    code = "import sys, dass_jax.report; sys.exit('jax' in sys.modules)"
    root = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_thousand_epochs_open_in_seconds(tmp_path: pathlib.Path) -> None:
    """Of the paper's shapes: 14 edges a cell, and a method's 70 epochs of search and 930 of training."""
    weights = np.full((14, 8), 0.125).tolist()
    lines = [search_epoch("step1", n + 1, 70, edge_weights={"normal": weights, "reduce": weights}) for n in range(70)]
    lines += [training_epoch("dass", "pretrain", n + 1, epochs=930) for n in range(930)]
    start = time.monotonic()
    page = build(write(tmp_path / "long", lines))
    assert time.monotonic() - start < 20 and page.stat().st_size < 2_000_000
