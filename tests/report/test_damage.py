"""What the report says about a run folder that is damaged, missing or cannot be written to: one line."""

import json
import os
import pathlib

import pytest

from dass_jax.errors import UserError, guarded
from dass_jax.report import build
from dass_jax.report.__main__ import main
from tests.report.folders import TASK, final, phase, search_epoch, write

LINES = [search_epoch("step1", 1, 2), search_epoch("step1", 2, 2)]


def damage(run: pathlib.Path, name: str, text: str | None) -> None:
    (run / name).unlink() if text is None else (run / name).write_text(text)


GOOD = json.dumps(LINES[0])


def graph(**changes: object) -> str:
    one = {"name": "g", "nodes": ["a", "b"], "edges": []} | changes
    return json.dumps({"architecture": {}, "graphs": [one]})


def declared(**changes: object) -> str:
    return json.dumps({"methods": {"dass": [phase("search", "step1", "") | changes]}})


def matrix(rows: list, name: str = "normal", **changes: object) -> str:
    return json.dumps(LINES[0] | {"matrices": {name: rows}} | changes)


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
            "results.json: random: evaluations is missing",
        ),
        ("results.json", json.dumps(final() | {"task": TASK | {"metric": ""}}), "task: metric = ''; allowed: a name"),
        (
            "results.json",
            json.dumps(final() | {"task": TASK | {"higher_is_better": 1}}),
            "task: higher_is_better = 1; allowed: true or false",
        ),
        (
            "results.json",
            json.dumps(final() | {"evaluations": {"dense": {"accuracy": "much"}}}),
            "evaluations: dense: accuracy = 'much'; allowed: a number or null",
        ),
        ("results.json", json.dumps(final() | {"evaluations": [1.0]}), "evaluations = [1.0]; allowed: an object"),
        (
            "results.json",
            json.dumps(final() | {"chosen": {"normal": [[1]]}}),
            "chosen: normal: [1]; allowed: a list of",
        ),
        ("architecture.json", "{}", "architecture.json: architecture is missing; present: nothing"),
        ("architecture.json", '{"architecture": 3}', "architecture.json: architecture = 3; allowed: an object"),
        (
            "architecture.json",
            graph(nodes="ab"),
            "architecture.json: graphs[0]: nodes = 'ab'; allowed: a list of texts",
        ),
        ("architecture.json", graph(nodes=["a", "a"]), "nodes = ['a', 'a']; allowed: names that differ"),
        (
            "architecture.json",
            graph(edges=[["a", "b"]]),
            "graphs[0]: edges[0] = ['a', 'b']; allowed: [source, target, op",
        ),
        ("architecture.json", graph(edges=[["b", "a", ""]]), "edges[0] = ['b', 'a', '']; allowed: [source, target, op"),
        ("architecture.json", graph(edges=[["a", "z", ""]]), "edges[0] = ['a', 'z', '']; allowed: [source, target, op"),
        ("environment.json", "\x00", "environment.json is damaged"),
        ("phases.json", "[]", "phases.json = []; allowed: an object"),
        ("phases.json", "{}", "phases.json: methods is missing"),
        ("phases.json", '{"methods": {"a": {}}}', "phases.json: a = {}; allowed: a list"),
        ("phases.json", '{"methods": {"a": [{"chain": "search"}]}}', "phases.json: a[0]: name is missing"),
        ("phases.json", declared(curves=[{}]), "phases.json: dass[0]: curves[0]: metric is missing"),
        (
            "phases.json",
            declared(curves=[{"metric": "m", "style": "dash"}]),
            "style = 'dash' (did you mean 'dashed'?); allowed: solid, dashed, dotted",
        ),
        ("phases.json", declared(curves=[{"metric": "m", "gap": 1}]), "curves[0]: gap = 1; allowed: true or false"),
        ("phases.json", declared(curves=[{"metric": "m", "unit": 1}]), "curves[0]: unit = 1; allowed: a text"),
        ("phases.json", declared(matrices={"m": {"rows": ["a"]}}), "matrices: m: columns is missing"),
        ("phases.json", declared(matrices={"m": {"rows": [1], "columns": []}}), "rows = [1]; allowed: a list of texts"),
        (
            "phases.json",
            declared(matrices={"m": {"rows": ["a", "b"], "columns": ["c"], "grid": [[0, 0], [0, 0]]}}),
            "grid = [[0, 0], [0, 0]]; allowed: a place of its own for each of 2 rows",
        ),
        (
            "phases.json",
            declared(matrices={"m": {"rows": ["a"], "columns": ["c"], "grid": [[0, -1]]}}),
            "grid: [0, -1]; allowed: a list of pairs of whole numbers from 0",
        ),
        ("metrics.jsonl", f'{GOOD}\n{{"method"\n{GOOD}\n', "metrics.jsonl, line 2 is damaged"),
        ("metrics.jsonl", f"{GOOD}\n7", "metrics.jsonl, line 2 = 7; allowed: an object"),
        (
            "metrics.jsonl",
            GOOD.replace('"phase"', '"stage"'),
            "line 1: phase is missing; present: method, chain, stage,",
        ),
        (
            "metrics.jsonl",
            GOOD.replace('"epoch": 1', '"epoch": 0'),
            "line 1: epoch = 0; allowed: a whole number from 1",
        ),
        ("metrics.jsonl", GOOD.replace('"epoch": 1', '"epoch": 3'), "line 1: epoch = 3; allowed: 1 to 2"),
        ("metrics.jsonl", json.dumps(LINES[0] | {"lower_loss": True}), "line 1: lower_loss = True; allowed: a number"),
        (
            "metrics.jsonl",
            json.dumps(LINES[0] | {"lower_loss": "low"}),
            "line 1: lower_loss = 'low'; allowed: a number",
        ),
        ("metrics.jsonl", json.dumps(LINES[0] | {"matrices": [1]}), "line 1: matrices = [1]; allowed: an object"),
        (
            "metrics.jsonl",
            matrix([[1.0], [1.0, 2.0]]),
            "line 1: matrices: normal = [[1.0], [1.0, 2.0]]; allowed: rows of",
        ),
        ("metrics.jsonl", matrix([]), "matrices: normal = []; allowed: rows of equally many numbers"),
        ("metrics.jsonl", matrix([[]]), "matrices: normal = [[]]; allowed: rows of equally many numbers"),
        ("metrics.jsonl", matrix([["a"]]), "matrices: normal = 'a'; allowed: a number or null"),
        (
            "metrics.jsonl",
            matrix([[1.0] * 8] * 3),
            "dass step1 epoch 1: matrices: normal has shape (3, 8); allowed: (5, 8), as phases.json declares",
        ),
        (
            "metrics.jsonl",
            f"{matrix([[1.0] * 2], 'new')}\n{matrix([[1.0] * 3], 'new', epoch=2)}",
            "dass step1 epoch 2: matrices: new has shape (1, 3); allowed: (1, 2), as in the epochs before",
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
