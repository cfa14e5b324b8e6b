"""The commands from a trained run's folder to files that say the same, and what they answer to wrong input."""

import contextlib
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.deploy import __main__ as command_line
from dass_jax.deploy import check, files, source
from dass_jax.errors import UserError, guarded
from dass_jax.experiment import table
from dass_jax.latency import __main__ as latency
from dass_jax.latency import clock, forms, peak
from tests.deploy import untrained
from tests.runs import results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return untrained.left(tmp_path_factory.mktemp("deploy") / "run")


def called(main: Callable[[Sequence[str]], int], *arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guarded(lambda: main([str(argument) for argument in arguments]))
    return code, out.getvalue(), err.getvalue()


def line(err: str) -> str:
    """An error's one line, which says what is allowed."""
    assert err.startswith("error: ") and err.count("\n") == 1 and "; allowed: " in err
    return err


@pytest.fixture(scope="module")
def deployed(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    out = tmp_path_factory.mktemp("deployed") / "new"
    has_onnx = all(map(files.has_package, ("onnx", "onnxruntime")))
    formats = ("stablehlo", "packed", *(["onnx"] if has_onnx else []))
    code, said, err = called(
        command_line.main, run, "--out", out, "--seed", 1, "--formats", *formats, "--values", "float32", "--int8"
    )
    assert code == 0, err
    return out, said


def test_checkpoints_hold_the_networks_after_their_phases(run: pathlib.Path) -> None:
    one = source.trained(run, seed=1)
    other = source.trained(run / "checkpoints" / "3", seed=1)
    assert (one.name, one.kept, one.network.result) == (other.name, other.kept, other.network.result)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    dense, earlier = (source.trained(run / "checkpoints" / step, seed=0) for step in "12")
    assert (earlier.name, earlier.network.result) == ("architecture, seed 0 after epoch 1 of scores", None)
    assert (dense.name, dense.network.result) == ("architecture, seed 0 after pretrain", 40.0)
    assert dense.keep is None and earlier.keep == one.keep == 0.3


def test_files_and_report(run: pathlib.Path, deployed: tuple[pathlib.Path, str]) -> None:
    out, said = deployed
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    written = {path.name for path in out.iterdir()} - {"report.json", "report.md"}
    assert written == set(report["files"]) >= {"network.stablehlo", "network.float32.packed", "network.int8.packed"}
    result = results(run)["runs"][1]
    assert report["kept_weights"] == result["parameters"]["kept"]
    assert report["task"] == result["task"] and report["keep"] == 0.3
    assert report["masked"]["images"] == report["compacted"]["images"] == result["task"]["examples"]
    assert report["compacted"]["changed"] == 0 and report["compacted"]["difference"] < 1e-5
    assert report["compacted"]["macs"] <= report["masked"]["macs"]
    for name, one in report["files"].items():
        assert one["bytes"] == (out / name).stat().st_size and name in said
        if "int8" not in name:
            assert one["accuracy"] == report["masked"]["accuracy"]
    assert "| layer" in (out / "report.md").read_text(encoding="utf-8")


def test_written_files_have_the_logits_of_the_run(run: pathlib.Path, deployed: tuple[pathlib.Path, str]) -> None:
    """Loaded here, beside the network as the run's own evaluation sees it: nothing of the command in between."""
    found = source.trained(run, seed=1)
    images, _ = next(check.batches(found, 20))
    network = jax.jit(lambda x: found.net.apply(found.params, found.network.variables["batch_stats"], x, False)[0])
    wanted = network(images.transpose(1, 2, 3, 0))
    for name in ("network.stablehlo", "network.float32.packed"):
        np.testing.assert_allclose(files.load(deployed[0] / name)(images), wanted, rtol=0, atol=1e-5)


def test_a_network_that_is_not_the_same_is_refused(run: pathlib.Path) -> None:
    found = source.trained(run, seed=0)
    reference = check.masked(found)
    outcomes = check.compare(
        found, {"same": reference, "off": lambda x: reference(x) + 1e-3, "none": lambda x: reference(x) * np.nan}, 70
    )
    check.demand_exact(outcomes["same"], "same", run)
    assert outcomes["same"].images == 70 and outcomes["same"].difference == 0
    for name in ("off", "none"):
        with pytest.raises(UserError, match=f"outputs of {name} differ"):
            check.demand_exact(outcomes[name], name, run)


def test_latency_of_all_forms(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "latency.json"
    page, kept = tmp_path / "page.html", run / "latency.json"
    arguments = ("--warm-up", 1, "--repetitions", 3, "--out", file, "--no-memory", "--seed", 0, "--page", page)
    code, said, err = called(latency.main, run, *arguments, "--record")
    assert code == 0, err
    [one] = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert json.loads(kept.read_text(encoding="utf-8"))["forms"] == one["forms"]
    fastest = min(form["median_ms"] for form in one["forms"].values())
    assert table.latency_of(run, "") == fastest and table.latency_of(tmp_path / "absent", "7") == "7"
    assert one["before"] == {"result": 40.0, "form": one["before"]["form"]}
    assert one["before"]["form"] in forms.DENSE and one["result"] == 25.0
    assert one["task"] == results(run)["runs"][0]["task"] and "accuracy 25.00 %" in said
    assert "before pruning" not in said and page.read_text(encoding="utf-8").count("data:image/svg") == 2
    able, _ = forms.available()
    assert list(one["forms"]) == [form.name for form in able] and all(name in said for name in one["forms"])
    assert all(form["median_ms"] > 0 and form["bytes"] > 0 for form in one["forms"].values())
    assert max(one["forms"][name]["speedup"] for name in forms.DENSE if name in one["forms"]) == 1
    code, _, err = called(latency.main, run, *arguments)
    assert code == 2 and "exists; allowed: a new file" in line(err)
    code, _, err = called(latency.main, tmp_path, "--record")
    assert code == 2 and f"--record with {str(tmp_path)!r}; allowed: folders of finished runs" in line(err)


def test_memory_of_a_file_is_measured_in_a_process_of_its_own(
    deployed: tuple[pathlib.Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = peak.measured(deployed[0] / "network.stablehlo", (1, 8, 8))
    assert found is None if peak.resident_peak() is None else found is not None and 0 < found < 2**31
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert peak.measured(deployed[0] / "network.stablehlo", (1, 8, 8)) is None, "of a process that fails"


def test_the_front_holds_what_nothing_beats() -> None:
    def run(accuracy: float, **forms: tuple[float, int]) -> dict[str, Any]:
        values = {name: {"median_ms": ms, "bytes": size} for name, (ms, size) in forms.items()}
        task = {"metric": "accuracy", "unit": "%", "higher_is_better": True}
        return {"network": "net", "keep": 0.1, "task": task, "result": accuracy, "forms": values}

    runs = [run(90.0, slow=(5, 10), fast=(2, 30)), run(80.0, beaten=(3, 20), faster=(1, 40)), run(95.0, best=(9, 50))]
    fronts = latency.pareto(runs).split("best accuracy against ")[1:]
    assert [[row.split(": ")[1] for row in front.splitlines()[1:]] for front in fronts] == [
        ["faster", "fast", "best"],
        ["slow", "best"],
    ]


def test_networks_of_one_task_alone_are_compared(tmp_path: pathlib.Path) -> None:
    task = {"name": "dial", "metric": "miss", "unit": "ticks", "higher_is_better": False}
    latency.check_task(task, task, tmp_path)
    with pytest.raises(UserError, match="is of the task classification, by accuracy; allowed: dial, by miss, as the"):
        latency.check_task(task, {"name": "classification", "metric": "accuracy"}, tmp_path)
    assert latency.amount(0.5, "ticks") == "0.5000 ticks" and latency.amount(24.456, "%") == "24.46 %"


def test_a_network_has_a_result_before_pruning_where_it_was_evaluated_twice(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    found = source.trained(run, seed=1).network
    assert latency.first_result(run, found) == 41.0 and latency.first_result(tmp_path, found) is None
    once = results(run)
    for one in once["runs"]:
        del one["evaluations"]["sparse"]
    (tmp_path / "results.json").write_text(json.dumps(once), encoding="utf-8")
    assert latency.first_result(tmp_path, found) is None


def test_times_are_taken_in_turns() -> None:
    seen: list[str] = []
    calls: dict[str, Any] = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = clock.in_turns(calls, warm_up=2, repetitions=3)
    assert "".join(seen) == "ab" * 5 and set(times) == {"a", "b"}
    assert all(0 <= one.median <= one.p90 for one in times.values())


def test_wrong_input_is_answered_in_one_line(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "something").write_text("", encoding="utf-8")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "config.toml", unfinished)
    bare = pathlib.Path(shutil.copytree(run, tmp_path / "bare"))
    shutil.rmtree(bare / "networks")
    damaged = tmp_path / "damaged"
    (damaged / "networks").mkdir(parents=True)
    shutil.copy(run / "config.toml", damaged)
    (damaged / "networks" / "architecture-0.npz").write_bytes(b"nothing")
    for arguments, wanted in (
        ((tmp_path / "absent", "--out", out), "does not exist; allowed: the folder of a finished run"),
        ((full, "--out", out), "is no run folder"),
        ((run, "--out", full), "is not empty; allowed: a new or an empty folder"),
        ((run, "--out", full / "something"), "is a file"),
        ((run, "--out", out), "the run has the seeds 0 to 1; allowed: one of them as --seed"),
        ((run, "--out", out, "--seed", 7), "--seed = 7; allowed: 0 to 1"),
        ((run, "--out", out, "--seed", 0, "--method", "dass"), "--method = 'dass'; allowed: architecture"),
        ((run / "checkpoints" / "99", "--out", out), "there is no checkpoint 99"),
        ((unfinished, "--out", out, "--seed", 0), "is an unfinished run"),
        (
            (bare, "--out", out, "--seed", 0),
            "is a finished run, without the network of architecture, seed 0; allowed: ",
        ),
        ((damaged, "--out", out, "--seed", 0), "cannot be read"),
        ((run, "--out", out, "--formats", "tflite"), "invalid choice"),
        ((run, "--out", out, "--images", -1), "--images = -1; allowed"),
    ):
        code, _, err = called(command_line.main, *arguments)
        assert code == 2 and wanted in line(err), err
    assert not out.exists()
    code, _, err = called(latency.main, run, "--repetitions", 0)
    assert code == 2 and "--repetitions = 0; allowed" in line(err)


def test_a_missing_extra_is_named_before_any_work(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "has_package", lambda name: name != "onnx")
    code, _, err = called(command_line.main, run, "--out", tmp_path / "out", "--formats", "onnx", "--seed", 0)
    assert code == 2 and "pip install 'dass_jax[onnx]'" in line(err)
    monkeypatch.setattr(forms, "has_package", lambda name: name == "numba")
    able, lines = forms.available()
    assert [form.file for form in able] == ["masked.stablehlo", "compacted.stablehlo", "compacted.packed"]
    assert lines == ["left out: masked dense, ONNX Runtime, compacted, ONNX Runtime (no onnx, onnxruntime)"]
