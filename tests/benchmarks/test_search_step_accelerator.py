"""The benchmark for accelerators, on a CPU with a supernet of one cell: what it runs, reports and refuses."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import chex
import jax
import numpy as np
import pytest

from benchmarks import search_step_accelerator as benchmark
from benchmarks.search_step import LEARNING_RATES, Size, batches, search
from dass_jax import errors
from dass_jax.spaces.darts import SupernetConfig
from tests import supernets

SMALL = Size((4, 4, 1), 4, SupernetConfig(classes=3, cells=1, channels=2, nodes=1))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, benchmark.__file__, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)


def test_a_call_is_that_many_steps_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    supernets.few_in_benchmarks(monkeypatch)
    record: dict[str, Any] = {}
    run = benchmark.steps_of(SMALL, "float32", 1, 3, record)
    state, infos = run()
    begin, update = search(SMALL)
    wanted, losses = jax.jit(begin)(jax.random.key(0)), []
    step = jax.jit(update)
    for key in jax.random.split(jax.random.key(1), 3):
        wanted, info = step(wanted, batches(SMALL), key, learning_rate=jax.tree.map(np.float32, LEARNING_RATES))
        losses.append(info["lower"].loss)
    chex.assert_trees_all_close(infos["lower"].loss, np.stack(losses), rtol=1e-4)
    chex.assert_trees_all_close(state.variables, wanted.variables, rtol=1e-3, atol=1e-5)
    assert run()[1]["lower"].loss[0] < infos["lower"].loss[-1]  # and the next call goes on
    assert min(record["trace_seconds"], record["compile_seconds"], record["estimated_bytes"]) > 0


def test_seeds_run_side_by_side_and_differ_and_a_case_can_be_profiled(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernets.few_in_benchmarks(monkeypatch)
    record = benchmark.in_this_process(SMALL, "bfloat16", 2, 2, 1, str(tmp_path))
    assert (record["precision"], record["seeds"], len(record["seconds_of_a_step"])) == ("bfloat16", 2, 1)
    assert 0 < record["last_loss"] < 10
    assert list(tmp_path.rglob("*.xplane.pb"))
    state, infos = benchmark.steps_of(SMALL, "float32", 2, 2, {})()
    assert infos["lower"].loss.shape == (2, 2)
    assert all((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(jax.device_get(state.variables["params"])))


def case(seeds: int, **changes: Any) -> dict[str, Any]:
    facts = {"compile_seconds": 60.0, "estimated_bytes": 2e9, "memory": {"peak_bytes_in_use": 3e9}, "last_loss": 2.0}
    return {"precision": "bfloat16", "seeds": seeds, "seconds_of_a_step": [0.02, 0.9, 0.01], **facts, **changes}


def test_a_row_extrapolates_to_a_search_and_names_the_goal_where_there_is_one() -> None:
    found = benchmark.row(case(1), goal=True)
    assert (found["ms a step"], found["goal"], found["peak GB"]) == (20.0, 25.0, 3.0)
    assert found["search, minutes"] == pytest.approx(70 * 390 * 0.02 / 60)
    several = benchmark.row(case(5, memory=None), goal=True)
    assert (several["ms a step and seed"], several["goal"], several["peak GB"]) == (4.0, None, None)
    other = benchmark.row(case(1), goal=False)
    assert other["goal"] is None and other["search, minutes"] is None


def test_without_an_accelerator_it_ends_with_one_line() -> None:
    finished = command("--size", "tiny")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "error: JAX sees no accelerator, only cpu; allowed: a GPU, a TPU or --any-device\n"


def test_on_any_device_it_prints_a_table_and_writes_every_repetition(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "record.json"
    words = ["--any-device", "--size", "tiny", "--seeds", "1", "--precisions", "bfloat16", "--steps", "2"]
    finished = command(*words, "--repetitions", "2", "--output", str(file))
    assert finished.returncode == 0, finished.stderr
    first, head, line = finished.stdout.splitlines()
    assert first == "tiny, on one cpu" and head.startswith("precision  seeds  ms a step")
    assert line.split()[:2] == ["bfloat16", "1"]
    (found,) = json.loads(file.read_text(encoding="utf-8"))["cases"]
    assert len(found["seconds_of_a_step"]) == 2 and found["machine"]["device"] == "cpu"


@pytest.mark.parametrize("option", ["steps", "repetitions", "seeds"])
def test_an_impossible_number_is_one_line(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [benchmark.__file__, f"--{option}", "0"])
    assert errors.guarded(benchmark.main) == 2
    assert capsys.readouterr().err == f"error: --{option} = 0; allowed: at least 1\n"
