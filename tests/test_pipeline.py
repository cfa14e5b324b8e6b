"""A whole run of all three methods, and the same run killed twice: the same files, bit for bit."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from dass_jax import compose, config_io, sparsity, train, variables
from dass_jax.architectures import darts as genotype
from dass_jax.errors import UserError
from dass_jax.nn.layers import one_device
from dass_jax.runtime import records
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS
from tests.runs import CONFIG, Finished, arguments, command, interrupted, last, metrics, results, timeless, workplace

METHODS = ("dass", "darts_sparse", "random")
STAGES = {"search": ("step1", "step2"), "training": ("pretrain", "scores", "finetune")}
EPOCHS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with workplace(tmp_path_factory.mktemp("runs"), CONFIG) as folder:
        yield folder


def killed(folder: pathlib.Path, lines: int) -> None:
    """The command in a process of its own, killed as soon as metrics.jsonl has so many lines."""
    root = pathlib.Path(train.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    argv = [sys.executable, "-m", "dass_jax.train", *arguments(folder)]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while (folder / "metrics.jsonl").read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, "the process ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    return command(place / "whole")


@pytest.fixture(scope="module")
def stopped(whole: Finished) -> Finished:
    """The same run, interrupted in the middle of the search."""
    return interrupted(whole.folder.parent / "stopped", 3)


@pytest.fixture(scope="module")
def resumed(stopped: Finished) -> Finished:
    """The interrupted run, gone on with, killed in the middle of the training, and gone on with to the end."""
    folder = shutil.copytree(stopped.folder, stopped.folder.parent / "resumed")
    killed(folder, 5)
    assert not (folder / "results.json").exists() and len(metrics(folder)) < 10
    return command(folder)


def test_a_run_leaves_every_file_of_its_folder(whole: Finished) -> None:
    assert whole.code == 0, whole.err
    folder = whole.folder
    names = {"config.toml", "environment.json", "metrics.jsonl", "genotype.json", "results.json", "report.html", "lock"}
    assert {path.name for path in folder.iterdir()} == names | {"events", "checkpoints", "networks"}
    assert config_io.load(folder / "config.toml") == config_io.load(folder.parent / "run.toml")
    assert tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["search"]["epochs"] == EPOCHS
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["seed"] == 0 and environment["jax"] == jax.__version__ and len(environment["devices"]) == 1
    assert genotype.to_json(genotype.load(str(folder / "genotype.json"))) == results(folder)["genotype"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!") and "</html>" in page and all(method in page for method in METHODS)
    assert [path.stat().st_size > 0 for path in (folder / "events").iterdir()] == [True]
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [24, 25, 26]


def test_results_hold_every_figure_for_each_method(whole: Finished) -> None:
    found = results(whole.folder)
    controls = found.pop("controls")
    assert found["method"] == "dass" and tuple(controls) == METHODS[1:]
    for method, part in {"dass": found, **controls}.items():
        assert set(part) == set(found) and part["method"] == method
        assert (part["seed"], part["keep"]) == (0, 0.3)
        assert set(part["accuracy"]) == {"dense", "sparse", "test_images"} and part["accuracy"]["test_images"] == 360
        counts = part["parameters"]
        assert set(counts) == {"total", "prunable", "kept", "kept_with_bn_bias", "paper"}
        assert 0 < counts["kept"] < counts["prunable"] < counts["total"]
        assert counts["kept_with_bn_bias"] == counts["kept"] + counts["total"] - counts["prunable"]
        # The masks themselves say the same as the formula.
        assert sum(layer["kept"] for layer in part["layers"]) == counts["kept"]
        assert sum(layer["weights"] for layer in part["layers"]) == counts["prunable"]
        assert 0 < part["macs"]["nonzero"] < part["macs"]["dense"]
        assert set(part["seconds"]) == {"compile", "search", "pretrain", "prune", "finetune"}
        assert all(value >= 0 for value in part["seconds"].values()) and part["seconds"]["pretrain"] > 0
        assert part["nid"] == pytest.approx(part["accuracy"]["sparse"] / counts["kept"] * 1000, abs=1e-3)
        genotype.from_json(part["genotype"])
    assert controls["random"]["seconds"]["search"] == 0 < controls["darts_sparse"]["seconds"]["search"]


def test_the_table_is_printed_without_a_gap(whole: Finished) -> None:
    lines = whole.out.splitlines()
    assert all(line.strip() for line in lines)
    assert [line.split()[0] for line in lines[-5:-2]] == list(METHODS)
    assert lines[-2:] == [f"run folder: {whole.folder}", f"report: {whole.folder / 'report.html'}"]
    assert not [line for line in whole.err.splitlines() if not line.strip() or "Traceback" in line]


def test_every_epoch_has_exactly_one_line_of_metrics(whole: Finished) -> None:
    expected = []
    for method in METHODS:
        chains = {"dass": {"step1": EPOCHS, "step2": EPOCHS}, "darts_sparse": {"step1": 2 * EPOCHS}, "random": {}}
        epochs = {**chains[method], **dict.fromkeys(STAGES["training"], EPOCHS)}
        expected += [(method, stage, e + 1, count) for stage, count in epochs.items() for e in range(count)]
    found = metrics(whole.folder)
    assert [(x["method"], x["stage"], x["epoch"], x["epochs"]) for x in found] == expected
    for line in found:
        searching = line["stage"] in STAGES["search"]
        wanted = {"lower_loss", "upper_loss", "edge_weights"} if searching else {"loss", "accuracy", "test_accuracy"}
        assert wanted <= set(line)
        assert all(np.isfinite(value) for value in line.values() if isinstance(value, float))
        if searching:
            sums = [sum(edge) for edges in line["edge_weights"].values() for edge in edges]
            assert sums == pytest.approx([1] * len(sums), abs=1e-4)


def test_the_accuracy_is_that_of_the_last_checkpoint_on_the_whole_test_split(whole: Finished) -> None:
    reported = results(whole.folder)["controls"]["random"]
    leaves = {path: leaf for path, leaf in last(whole.folder).leaves.items() if path.startswith(".variables")}
    v = variables.unflatten({"/".join(re.findall(r"\['(.*?)'\]", path)): leaf for path, leaf in leaves.items()})
    s = compose.setting(config_io.load(whole.folder / "config.toml"))
    model = compose.model(s, genotype.from_json(reported["genotype"]), auxiliary=False, average=one_device)
    images = ((s.dataset.test.images / 255 - s.dataset.mean) / s.dataset.std).astype(np.float32).transpose(3, 1, 2, 0)
    weights = sparsity.apply_masks(v[PARAMS], v[MASKS])
    logits = np.asarray(jax.jit(lambda x: model.apply(weights, v[BATCH_STATS], x, False)[0])(images), np.float64)
    labels = s.dataset.test.labels
    assert reported["accuracy"]["sparse"] == round(100 * (logits.argmax(-1) == labels).sum() / 360, 4)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(360), labels]
    assert metrics(whole.folder)[-1]["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_ctrl_c_says_how_to_go_on(stopped: Finished) -> None:
    assert stopped.code == 130 and stopped.out == ""
    assert "interrupted: the same command goes on from the last checkpoint" in stopped.err.splitlines()[-1]
    assert len(metrics(stopped.folder)) == 3 and not (stopped.folder / "results.json").exists()


def test_a_run_killed_twice_ends_with_the_same_bits(whole: Finished, resumed: Finished) -> None:
    assert resumed.code == 0, resumed.err
    assert re.search(r"going on after dass · (step2|pretrain|scores|finetune), epoch \d \(checkpoint", resumed.err)
    assert timeless(results(resumed.folder)) == timeless(results(whole.folder))
    assert timeless(metrics(resumed.folder)) == timeless(metrics(whole.folder))
    one, other = last(whole.folder), last(resumed.folder)
    assert (one.step, timeless(one.facts["methods"])) == (other.step, timeless(other.facts["methods"]))
    assert list(one.leaves) == list(other.leaves)
    for path, leaf in one.leaves.items():
        there = other.leaves[path]
        assert (there.dtype, there.shape, there.tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes()), path
    for name in ("config.toml", "genotype.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_finished_run_started_again_prints_the_table_and_changes_nothing(whole: Finished) -> None:
    before = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    again = command(whole.folder)
    assert (again.code, again.out) == (0, whole.out) and "already finished" in again.err
    assert {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()} == before


def test_the_checkpoint_before_a_damaged_one_is_used_and_said(stopped: Finished, whole: Finished) -> None:
    folder = shutil.copytree(stopped.folder, stopped.folder.parent / "damaged")
    for path in (folder / "checkpoints" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = interrupted(folder, 2)
    assert found.code == 130
    assert re.search(r"^checkpoint 3 is damaged \(.*\): going back to checkpoint 2$", found.err, re.MULTILINE)
    assert "going on after dass · step1, epoch 2 (checkpoint 2)" in found.err
    assert timeless(metrics(folder)) == timeless(metrics(whole.folder))[:4]
    assert last(folder).step == 4 and last(folder).skipped == ()


def test_nothing_but_damaged_checkpoints_is_an_error(stopped: Finished) -> None:
    folder = shutil.copytree(stopped.folder, stopped.folder.parent / "ruined")
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    lines = (folder / "metrics.jsonl").read_bytes()
    found = command(folder)
    assert found.code == 2 and found.out == ""
    assert found.err.splitlines()[-1].startswith("error: checkpoints in ") and "none of 3" in found.err
    assert (folder / "metrics.jsonl").read_bytes() == lines


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(value: float) -> None:
    record = {"method": "dass", "stage": "step2", "epoch": 3, "lower_loss": 1.0, "upper_loss": value}
    with pytest.raises(UserError, match=rf"dass · step2, epoch 3: upper_loss = {value}; allowed: a finite number"):
        records.check_finite(record)
