"""What a program needs, what there is, and what is proposed: in numbers made up here, and once in a real run."""

import ctypes
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import config, train
from dass_jax.errors import UserError, guarded
from dass_jax.runtime import calls, memory, parallel
from dass_jax.runtime.memory import Batch, Need
from tests.runs import SYSTEM, own_tables

SEARCH, TRAIN = Batch("method", 64, 1, remat="space.remat"), Batch("train", 64, 1)


def need_of(images: int, fixed: int = 100, each: int = 10) -> Need:
    """Of a program for so many images at once."""
    return Need(fixed, each * images)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("there", [110, 115, 180, 300, 419, 420, 739])
def test_what_is_proposed_fits_and_is_the_most_that_fits(there: int, parts: int, devices: int) -> None:
    need = need_of(64 // parts // devices)
    if need.total <= there:
        return memory.check("stage", need, there, Batch("train", 64, parts), devices)
    batch_size, accumulate = memory.proposal(need, there, Batch("train", 64, parts), devices)
    size, more = int(batch_size.removeprefix("train.batch_size = ")), int(accumulate.split(" = ")[1])
    step = parts * devices
    assert size % step == 0 and need_of(size // step).total <= there < need_of(size // step + 1).total
    own = 64 // devices
    assert accumulate.startswith("train.accumulate = ") and own % more == 0
    fewer = max(k for k in range(1, more) if own % k == 0)
    assert need_of(own // more).total <= there < need_of(own // fewer).total


def test_only_what_the_stage_has_is_proposed() -> None:
    need, there = need_of(64), 300
    first = ["method.batch_size = 20", "method.accumulate = 4"]
    assert memory.proposal(need, there, SEARCH, 1) == [*first, "space.remat = true"]
    assert memory.proposal(need, there, SEARCH._replace(remat=None), 1) == first
    assert memory.proposal(need, there, TRAIN, 1) == ["train.batch_size = 20", "train.accumulate = 4"]
    # Not one image fits.
    assert memory.proposal(need, 109, SEARCH, 1) == ["space.remat = true"]
    assert memory.proposal(need, 50, TRAIN, 1) == []
    assert memory.proposal(Need(100, 0), 50, TRAIN, 1) == []


@pytest.mark.parametrize(
    ("batch", "there", "devices", "said"),
    [
        (
            SEARCH,
            3_000_000_000,
            1,
            "dass · step1: method.batch_size = 64 needs 7.4 GB by XLA's plan and 3 GB are available; allowed: "
            "method.batch_size = 20 or method.accumulate = 4 or space.remat = true; runtime.memory_check = false to "
            "run it all the same",
        ),
        (
            TRAIN._replace(parts=2),
            1_000_000_000,
            2,
            "dass · step1: train.batch_size = 64 in 2 parts needs 7.4 GB on each of 2 devices by XLA's plan and 1 GB "
            "are available; allowed: a smaller network or a machine with more memory; runtime.memory_check = false to "
            "run it all the same",
        ),
    ],
)
def test_a_program_that_does_not_fit_is_refused_in_one_line(batch: Batch, there: int, devices: int, said: str) -> None:
    need = need_of(64, 1_000_000_000, 100_000_000)
    with pytest.raises(UserError) as caught:
        memory.check("dass · step1", need, there, batch, devices)
    assert str(caught.value) == said


def test_a_program_that_fits_or_is_unknown_passes() -> None:
    need = need_of(64)
    memory.check("stage", need, need.total, SEARCH, 1)
    memory.check("stage", None, 1, SEARCH, 1)
    memory.check("stage", need, None, SEARCH, 1)
    with pytest.raises(UserError):
        memory.check("stage", need, need.total - 1, SEARCH, 1)


def test_needed_counts_arguments_results_and_what_lies_between() -> None:
    x = np.zeros((2, 256, 256), np.float32)
    size = 256 * 256 * 4

    def products(x: Any, y: Any) -> Any:
        return jnp.tanh(x @ x) @ y, y.sum()

    for donate in (False, True):
        # The same on each of the two devices.
        compiled = parallel.program(products, jax.devices()[:2], (x, x), donate)
        found = memory.needed(compiled)
        assert found is not None
        assert found.fixed == pytest.approx((2 if donate else 3) * size, rel=1e-3)
        assert size <= found.temporary < 4 * size
    assert memory.held((parallel.replicate(x[0], jax.devices()[:2]), x), jax.devices()[:2]) == size


def test_a_backend_that_says_nothing_is_unknown() -> None:
    def refuses() -> None:
        raise NotImplementedError

    assert memory.needed(SimpleNamespace(memory_analysis=lambda: None)) is None
    assert memory.needed(SimpleNamespace(memory_analysis=refuses)) is None


def device(platform: str, stats: dict[str, int] | None) -> Any:
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def test_an_accelerator_says_what_is_free_and_the_fullest_one_counts() -> None:
    free = [device("gpu", {"bytes_limit": 100, "bytes_in_use": used}) for used in (10, 40)]
    assert memory.available(free) == 60
    assert memory.available([*free, device("gpu", None)]) is None
    assert memory.available([device("tpu", {"bytes_in_use": 1})]) is None


def test_cpu_devices_share_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[None] = []
    monkeypatch.setattr(memory, "trim", lambda: trims.append(None))
    monkeypatch.setattr(memory, "host_bytes", lambda: 1000)
    assert memory.available(jax.devices()[:2]) == 500 and trims
    monkeypatch.setattr(memory, "host_bytes", lambda: None)
    assert memory.available(jax.devices()[:2]) is None


FREED = """
import ctypes, json, pathlib
from dass_jax.runtime import memory

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

# Below the size from which glibc maps a piece of its own; every hundredth stays, so that no end of the heap is free.
pieces = [bytes(100_000) for _ in range(2000)]
pieces = pieces[::100]
before = resident()
memory.trim()
print(json.dumps(before - resident()))
"""


def test_what_was_freed_in_small_pieces_goes_back_to_the_system() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    root = pathlib.Path(train.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", FREED], cwd=root, capture_output=True, check=True)
    assert json.loads(done.stdout) > 100e6


def host(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    """A folder with the given files, as the kernel shows them under `/`; 1000 kB are free."""
    for name, text in {"proc/meminfo": "MemTotal: 5000 kB\nMemAvailable:    1000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


V2 = {
    "proc/self/cgroup": "1:name=systemd:/x\n0::/outer/inner\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    "sys/fs/cgroup/outer/inner/memory.current": "70000\n",
    "sys/fs/cgroup/outer/memory.max": "100000\n",
    "sys/fs/cgroup/outer/memory.current": "80000\n",
    "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 5000\n",
}
V1 = {
    "proc/self/cgroup": "9:cpu:/a\n4:memory:/a\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "90000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "80000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1_024_000),
        (V2, 25_000),
        ({**V2, "sys/fs/cgroup/outer/memory.current": "200000\n"}, 0),
        ({**V2, "sys/fs/cgroup/outer/memory.max": "9000000000\n"}, 1_024_000),
        ({**V2, "sys/fs/cgroup/outer/inner/memory.max": "71000\n"}, 1000),
        (V1, 10_300),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1_024_000),
        ({"proc/self/cgroup": "0::/\n"}, 1_024_000),
    ],
)
def test_the_host_has_what_the_kernel_and_its_control_groups_leave(
    files: dict[str, str], expected: int, tmp_path: pathlib.Path
) -> None:
    assert memory.host_bytes(host(tmp_path, files)) == expected


def test_without_the_kernels_files_the_physical_memory_is_the_bound(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = memory.host_bytes(tmp_path)
    here = memory.host_bytes()
    assert found is not None and here is not None and 0 < here < found

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    assert memory.host_bytes(tmp_path) is None


CONFIG = """
controls = []
data = { limit = 64 }
space = { name = "darts", cells = 1, channels = 2, nodes = 1 }
method = { name = "dass", batch_size = 16, epochs = 1, prune_epochs = 1 }
network = { cells = 1, channels = 2, auxiliary = false }
train = { batch_size = 32, pretrain_epochs = 1, score_epochs = 1, finetune_epochs = 1 }
runtime = { devices = 1, compilation_cache = "" }
"""


LIGHT = f"""
controls = []
plugins = ["{SYSTEM}"]
data = {{ limit = 64 }}
space = {{ name = "ladder" }}
train = {{ batch_size = 32, pretrain_epochs = 1, score_epochs = 1, finetune_epochs = 1 }}
runtime = {{ devices = 1, compilation_cache = "" }}
"""
"""A plugin's space, whose programs are compiled in a moment, and too small to need memory in proportion."""


class Watched(NamedTuple):
    """The command, and what it came to."""

    command: Callable[..., int]
    """(further flags) → exit code; Ctrl-C after the first step."""
    steps: list[str]
    """One entry for each program that was run."""
    needs: list[Need]
    """Of each program that was compiled."""


@pytest.fixture
def watched(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """In the folder tmp_path/mine. There is room for half of the images of each program."""
    (tmp_path / "run.toml").write_text(LIGHT, encoding="utf-8")
    argv = ["--config", str(tmp_path / "run.toml"), "--workdir", str(tmp_path / "mine")]
    found, needed = Watched(lambda *flags: guarded(lambda: train.main([*argv, *flags])), [], []), memory.needed

    def stop(*arguments: Any) -> None:
        found.steps.append("ran")
        raise KeyboardInterrupt

    def noticed(compiled: Any) -> Need | None:
        found.needs.append(needed(compiled))
        return found.needs[-1]

    monkeypatch.setattr(calls, "run", stop)
    monkeypatch.setattr(memory, "needed", noticed)
    # The arguments are there already: they are not in what is free.
    monkeypatch.setattr(memory, "available", lambda devices: found.needs[-1].temporary // 2)
    with own_tables():
        yield found


@pytest.mark.parametrize(
    ("method", "stage", "field", "last"),
    [
        ("dass", "step1", "method.batch_size = 16", "space.remat = true"),
        ("random", "pretrain", "train.batch_size = 32", "train.accumulate = "),
    ],
)
def test_a_run_that_does_not_fit_ends_with_one_line_before_its_first_step(
    method: str,
    stage: str,
    field: str,
    last: str,
    watched: Watched,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if method == "dass":
        (tmp_path / "run.toml").write_text(CONFIG, encoding="utf-8")
    assert watched.command("--method", method) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {method} · {stage}: {field} needs ") and not watched.steps
    assert last in line.split(" or ")[-1] and line.endswith("runtime.memory_check = false to run it all the same")
    assert not (tmp_path / "mine" / "metrics.jsonl").exists()


def test_after_that_the_same_folder_takes_the_run_that_fits(
    watched: Watched, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(CONFIG, encoding="utf-8")
    assert watched.command("--method", "random") == 2
    size = capsys.readouterr().err.split("allowed: train.batch_size = ")[1].split()[0]
    room = watched.needs[-1].temporary // 2
    monkeypatch.setattr(memory, "available", lambda devices: room)
    assert watched.command("--method", "random", "--train.batch-size", size) == 130 and watched.steps == ["ran"]
    assert str(config.load(tmp_path / "mine" / "config.toml").train.fields.batch_size) == size


def test_the_check_can_be_left_out(watched: Watched) -> None:
    assert watched.command("--method", "random", "--runtime.no-memory-check") == 130 and watched.steps == ["ran"]
    assert not watched.needs
