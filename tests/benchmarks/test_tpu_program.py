"""Programs for a TPU that is not there: a tiny step is compiled where libtpu is installed; and what is refused."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import tpu_program as benchmark
from dass_jax.errors import guarded

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jax[tpu]' (Linux)"
)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, benchmark.__file__, *words], capture_output=True, text=True, check=False, timeout=600
    )


@needs_libtpu
def test_a_tiny_step_is_compiled_for_four_devices(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "record.json"
    words = ["--sizes", "tiny", "--precisions", "bfloat16", "--devices", "4", "--output", str(file)]
    finished = command(*words, "--text", str(tmp_path / "text"))
    assert finished.returncode == 0, finished.stderr
    first, head, line = finished.stdout.splitlines()
    assert first.startswith("v5e:2x2, jax ") and head.startswith("program    precision  devices  effort")
    assert line.startswith("tiny step  bfloat16         4      -1")
    [found] = json.loads(file.read_text(encoding="utf-8"))["programs"]
    for name in ("compile_seconds", "flops", "bytes", "seconds", "temporary_bytes", "fusions", "layout_changes"):
        assert found[name] > 0
    [text] = (tmp_path / "text").iterdir()
    program = text.read_text(encoding="utf-8")
    # For a TPU, of four devices that agree on gradients.
    assert "all-reduce" in program and "T(8,128)" in program and "num_partitions=4" in program


@needs_libtpu
def test_a_run_is_compiled_program_by_program() -> None:
    sizes = "--network.cells 1 --network.channels 2 --train.recipe dense --train.epochs 1 --train.batch-size 8"
    words = ["--data", "8", "8", "1", "3", "16", "--precisions", "float32", "--run", "--config", "digits_dass"]
    finished = command(*words, "--method", "random", "--controls", *sizes.split())
    assert finished.returncode == 0, finished.stderr
    assert [line.split()[0] for line in finished.stdout.splitlines()[2:]] == ["weights", "evaluation"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_it_ends_with_one_line() -> None:
    finished = command("--sizes", "tiny", "--precisions", "float32")
    assert (finished.returncode, finished.stdout) == (2, "")
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: --topology = 'v5e:2x2': ") and "pip install 'jax[tpu]'" in last


def test_a_program_of_no_device_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [benchmark.__file__, "--devices", "0"])
    assert guarded(benchmark.main) == 2
    assert capsys.readouterr().err == "error: --devices = 0; allowed: at least 1\n"


def test_a_row_has_no_time_where_the_compiler_says_none() -> None:
    facts = dict.fromkeys(("trace_seconds", "compile_seconds", "compile_processor_seconds"), 1.0)
    facts |= dict.fromkeys(("flops", "bytes", "temporary_bytes", "fixed_bytes"), 2e9)
    facts |= dict.fromkeys(("operations", "fusions", "layout_changes", "devices", "effort"), 3)
    row = benchmark.row({"program": "step", "precision": "float32", "seconds": None, **facts})
    assert (row["XLA's ms"], row["GFLOP"], row["GB moved"]) == (None, 2.0, 2.0)
    assert benchmark.row({"program": "step", "precision": "float32", "seconds": 0.05, **facts})["XLA's ms"] == 50
