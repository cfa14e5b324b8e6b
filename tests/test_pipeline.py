"""A whole run of a search, its controls and the trainings, by the real command; and the same run killed: the same
files, bit for bit. Every other end of a run is that of toys (test_runner.py, test_faults.py)."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from dass_jax import architectures, compose, config, sparsity, train, variables
from dass_jax.nn.layers import one_device
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS
from tests.runs import CONFIG, Finished, arguments, command, last, metrics, results, scalars, timeless, undrawn
from tests.runs import workplace as place_of

METHODS = ("dass", "darts", "random")
TRAINING = ("pretrain", "scores", "finetune")
SEARCH = {"dass": {"step1": 2, "step2": 2}, "darts": {"search": 4}, "random": {}}
EPOCHS = {method: {**phases, **dict.fromkeys(TRAINING, 2)} for method, phases in SEARCH.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with place_of(tmp_path_factory.mktemp("runs"), CONFIG) as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    return command(place / "whole")


def killed(folder: pathlib.Path, lines: int) -> None:
    """The command in a process of its own, killed as soon as metrics.jsonl has so many lines."""
    root = pathlib.Path(train.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    argv = [sys.executable, "-m", "dass_jax.train", *arguments(folder)]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, file = time.monotonic() + 600, folder / "metrics.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, "the process ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_run_leaves_every_file_of_its_folder(whole: Finished) -> None:
    assert whole.code == 0, whole.err
    folder = whole.folder
    names = {"config.toml", "environment.json", "phases.json", "metrics.jsonl", "architecture.json", "results.json"}
    names |= {"data.json", "report.html", "lock", "events", "checkpoints", "networks"}
    assert {path.name for path in folder.iterdir()} == names
    assert config.load(folder / "config.toml") == config.load(folder.parent / "run.toml")
    assert tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["method"]["epochs"] == 2
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["seed"] == 0 and environment["jax"] == jax.__version__ and len(environment["devices"]) == 1
    found = architectures.load(str(folder / "architecture.json"))
    assert architectures.to_json(found) == results(folder)["architecture"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!") and "</html>" in page and all(method in page for method in METHODS)
    assert {path.name for path in (folder / "networks").iterdir()} == {f"{method}-0.npz" for method in METHODS}
    lines = len(metrics(folder))
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [lines - 2, lines - 1, lines]


def test_phases_are_declared_for_each_method_search_first(whole: Finished) -> None:
    found = json.loads((whole.folder / "phases.json").read_text(encoding="utf-8"))["methods"]
    chains = {method: [(phase["chain"], phase["name"]) for phase in phases] for method, phases in found.items()}
    assert chains == {
        method: [*(("search", name) for name in phases), *(("training", name) for name in TRAINING)]
        for method, phases in SEARCH.items()
    }
    assert list(found["dass"][0]["matrices"]) == ["normal", "reduce"]


def test_results_hold_every_figure_for_each_method(whole: Finished) -> None:
    found = results(whole.folder)
    controls = found.pop("controls")
    assert found["method"] == "dass" and tuple(controls) == METHODS[1:]
    for method, part in {"dass": found, **controls}.items():
        assert set(part) == set(found) and part["method"] == method
        assert (part["seed"], part["keep"]) == (0, 0.3)
        assert {name: set(figures) for name, figures in part["evaluations"].items()} == {
            "dense": {"accuracy", "loss"},
            "sparse": {"accuracy", "loss"},
        }
        task = {"name": "classification", "metric": "accuracy", "unit": "%", "higher_is_better": True, "examples": 360}
        assert part["task"] == task
        counts = part["parameters"]
        assert set(counts) == {"total", "prunable", "kept", "kept_with_bn_bias", "paper"}
        assert 0 < counts["kept"] < counts["prunable"] < counts["total"]
        assert counts["kept_with_bn_bias"] == counts["kept"] + counts["total"] - counts["prunable"]
        # The masks themselves say the same as the formula.
        assert sum(layer["kept"] for layer in part["layers"]) == counts["kept"]
        assert sum(layer["weights"] for layer in part["layers"]) == counts["prunable"]
        assert 0 < part["macs"]["nonzero"] < part["macs"]["dense"]
        assert set(part["seconds"]) == {"compile", *EPOCHS[method]}
        assert all(value >= 0 for value in part["seconds"].values()) and part["seconds"]["pretrain"] > 0
        assert part["nid"] == pytest.approx(part["evaluations"]["sparse"]["accuracy"] / counts["kept"] * 1000, abs=1e-3)
        assert architectures.from_json(part["architecture"])


def test_the_table_is_printed_without_a_gap(whole: Finished) -> None:
    lines = whole.out.splitlines()
    assert all(line.strip() for line in lines)
    assert [line.split()[0] for line in lines[-5:-2]] == list(METHODS)
    assert lines[-2:] == [f"run folder: {whole.folder}", f"report: {whole.folder / 'report.html'}"]
    assert not [line for line in whole.err.splitlines() if not line.strip() or "Traceback" in line]


def test_every_epoch_has_exactly_one_line_of_metrics(whole: Finished) -> None:
    expected = [
        (method, phase, epoch + 1, count)
        for method, phases in EPOCHS.items()
        for phase, count in phases.items()
        for epoch in range(count)
    ]
    found = metrics(whole.folder)
    assert [(x["method"], x["phase"], x["epoch"], x["epochs"]) for x in found] == expected
    for line in found:
        searching = line["chain"] == "search"
        wanted = {"lower_loss", "upper_loss", "matrices"} if searching else {"loss", "accuracy", "test_accuracy"}
        assert wanted <= set(line)
        assert all(np.isfinite(value) for value in line.values() if isinstance(value, float))
        if searching:
            sums = [sum(edge) for edges in line["matrices"].values() for edge in edges]
            assert sums == pytest.approx([1] * len(sums), abs=1e-4)


def test_events_show_each_method_over_its_epochs_with_its_configuration_and_results(whole: Finished) -> None:
    assert {path.name for path in (whole.folder / "events").iterdir()} == set(METHODS)
    found = results(whole.folder)
    for method in METHODS:
        events = scalars(whole.folder / "events" / method)
        part = found if method == "dass" else found["controls"][method]
        own = [line for line in metrics(whole.folder) if line["method"] == method]
        for epoch, line in enumerate(own, 1):
            for name in ("loss", "learning_rate", "test_accuracy", "upper_loss", "learning_rate_upper"):
                there = events.get(f"{line['phase']}/{name}", {}).get(epoch)
                assert there == (None if name not in line else pytest.approx(line[name], rel=1e-6)), (method, name)
        assert events["result/sparse_accuracy"][0] == pytest.approx(part["evaluations"]["sparse"]["accuracy"])
        assert events["result/kept_weights"][0] == part["parameters"]["kept"]


def test_the_accuracy_is_that_of_the_last_checkpoint_on_the_whole_test_split(whole: Finished) -> None:
    reported = results(whole.folder)["controls"]["random"]
    start = "['state'].variables"
    leaves = {path: leaf[0] for path, leaf in last(whole.folder).leaves.items() if path.startswith(start)}
    v = variables.unflatten(
        {"/".join(re.findall(r"\['(.*?)'\]", path.removeprefix(start))): leaf for path, leaf in leaves.items()}
    )
    s = compose.setting(config.load(whole.folder / "config.toml"))
    model = compose.model(s, architectures.from_json(reported["architecture"]), auxiliary=False, average=one_device)
    images = ((s.dataset.test.images / 255 - s.dataset.mean) / s.dataset.std).astype(np.float32).transpose(3, 1, 2, 0)
    weights = sparsity.apply_masks(v[PARAMS], v[MASKS])
    logits = np.asarray(jax.jit(lambda x: model.apply(weights, v[BATCH_STATS], x, False)[0])(images), np.float64)
    labels = s.dataset.test.labels
    right = 100 * (logits.argmax(-1) == labels).sum() / 360
    assert reported["evaluations"]["sparse"]["accuracy"] == pytest.approx(right, abs=1e-5)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(360), labels]
    assert metrics(whole.folder)[-1]["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_a_run_killed_in_its_search_ends_with_the_same_bits(whole: Finished) -> None:
    folder = whole.folder.parent / "killed"
    killed(folder, 3)
    assert not (folder / "results.json").exists()
    with undrawn():
        resumed = command(folder)
    assert resumed.code == 0, resumed.err
    assert re.search(r"resuming after dass · (step1|step2|pretrain|scores), epoch \d \(checkpoint", resumed.err)
    assert timeless(results(folder)) == timeless(results(whole.folder))
    assert timeless(metrics(folder)) == timeless(metrics(whole.folder))
    one, other = last(whole.folder), last(folder)
    assert timeless(one.facts["methods"]) == timeless(other.facts["methods"]) and one.facts["at"] == other.facts["at"]
    assert list(one.leaves) == list(other.leaves)
    for path, leaf in one.leaves.items():
        there = other.leaves[path]
        assert (there.dtype, there.shape, there.tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes()), path
    for name in ("config.toml", "architecture.json", "networks/dass-0.npz"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_finished_run_started_again_prints_the_table_and_changes_nothing(whole: Finished) -> None:
    files = [path for path in whole.folder.rglob("*") if path.is_file() and path.name != "report.html"]
    before = {path: path.read_bytes() for path in files}
    with undrawn():
        again = command(whole.folder)
    assert (again.code, again.out) == (0, whole.out) and "already finished" in again.err
    assert {path: path.read_bytes() for path in files} == before
