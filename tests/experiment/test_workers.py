"""Many processes do one experiment: no run is done twice or lost, whoever dies, and the table is that of one."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from dass_jax.experiment import plan, workers
from dass_jax.experiment.__main__ import main
from dass_jax.runtime import claims
from tests import processes
from tests.experiment import sweep

LEASE = 2.0
"""Seconds: on a busy machine a thread may wait for one of them."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return sweep.written(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def alone(file: pathlib.Path) -> pathlib.Path:
    """The experiment as one process does it."""
    out = file.parent / "alone"
    sweep.work(file, out, file.parent / "alone.txt", 0, 0.0, 60.0)
    return out


def same(out: pathlib.Path, alone: pathlib.Path) -> None:
    assert (out / "results.csv").read_bytes() == (alone / "results.csv").read_bytes()
    assert not (out / "notes.txt").exists(), (out / "notes.txt").read_text(encoding="utf-8")
    assert not (out / "errors").exists()
    for run in (out / "runs").iterdir():
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2], run


def first(out: pathlib.Path, pattern: str) -> float:
    """Waits for a file; when it was there."""
    deadline = time.monotonic() + 120
    while not any(out.glob(pattern)):
        assert time.monotonic() < deadline, f"no worker has left a file {pattern}"
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.parametrize("seed", range(2))
def test_three_of_four_workers_are_killed_and_nothing_is_lost_or_doubled(
    file: pathlib.Path, alone: pathlib.Path, seed: int
) -> None:
    dice, out = random.Random(seed), file.parent / f"killed{seed}"
    said = [file.parent / f"killed{seed}-{number}.txt" for number in range(4)]
    group = [sweep.started(sweep.work, file, out, said[n], 10 * seed + n, 0.2, LEASE) for n in range(4)]
    moments = sorted(dice.random() for _ in range(3))
    start = first(out, f"{workers.CLAIMS}/*")
    for moment, worker in zip(moments, dice.sample(group, 3), strict=True):
        time.sleep(max(0.0, 0.8 * moment - (time.monotonic() - start)))
        worker.kill()
    codes = [processes.ended(worker) for worker in group]
    assert sorted(codes) == [-signal.SIGKILL] * 3 + [0], [text.read_text(encoding="utf-8") for text in said]
    same(out, alone)


def test_workers_take_turns_and_name_each_other(file: pathlib.Path, alone: pathlib.Path) -> None:
    out, said = file.parent / "two", [file.parent / f"two-{number}.txt" for number in range(2)]
    group = [sweep.started(sweep.work, file, out, said[n], n, 0.05, LEASE) for n in range(2)]
    assert [processes.ended(worker) for worker in group] == [0, 0]
    same(out, alone)
    texts = [text.read_text(encoding="utf-8") for text in said]
    finished = [sum(line[0] == "[" and "%, " in line for line in text.splitlines()) for text in texts]
    assert min(finished) > 0 and sum(finished) == sweep.RUNS
    for text, other in zip(texts, reversed(group), strict=True):
        line = next(line for line in text.splitlines() if f":{other.pid}, " in line)
        assert "UTC: " in line and "-seed" in line


def test_a_worker_that_stood_still_for_too_long_ends_when_it_wakes(file: pathlib.Path, alone: pathlib.Path) -> None:
    out, said = file.parent / "asleep", [file.parent / f"asleep-{number}.txt" for number in range(2)]
    sleeper = sweep.started(sweep.work, file, out, said[0], 0, 5.0, LEASE)
    first(out, "runs/*/busy")  # one that has claimed a run and not begun it would find it finished
    os.kill(sleeper.pid, signal.SIGSTOP)
    (run,) = {path.name.rpartition(".")[0] for path in (out / "claims").iterdir()}
    # Its place in the run is the other's from here on; the made-up run would note that it still lives.
    (out / "runs" / run / "busy").unlink(missing_ok=True)
    assert processes.ended(sweep.started(sweep.work, file, out, said[1], 1, 0.0, LEASE)) == 0
    text = said[1].read_text(encoding="utf-8")
    assert f"{run}: no sign of life of " in text and f":{sleeper.pid} for 2 s; taken over" in text
    before = (out / "results.csv").read_bytes()
    os.kill(sleeper.pid, signal.SIGCONT)
    assert processes.ended(sleeper) == 2
    assert (out / "results.csv").read_bytes() == before == (alone / "results.csv").read_bytes()


def test_a_run_that_another_worker_has_tried_in_vain_is_not_tried_again_by_this_one(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    wanted = plan.load(file)
    (tmp_path / workers.CLAIMS).mkdir()
    queue, other = workers.queue(wanted, tmp_path), wanted.runs[0].name
    number = claims.taken(tmp_path / workers.CLAIMS, other, claims.last(tmp_path / workers.CLAIMS, other))
    assert number == 1
    with claims.held(tmp_path / workers.CLAIMS, other, number, str) as own:
        found = workers.taken(queue, workers.Progress())
        assert found is not None and found[0].name != other and other in queue.left
        own.outcome = workers.FAILED
    found = workers.taken(queue, workers.Progress())
    assert found is not None and other not in queue.left
    assert other in workers.queue(wanted, tmp_path).left, "the next call tries it again"


def test_runs_that_share_nothing_with_those_at_work_go_first(tmp_path: pathlib.Path) -> None:
    sweep.written(tmp_path)
    text = 'base = "run.toml"\n[axes]\nseed = [0, 1]\nsparsity.keep = [0.1, 0.2]\n'
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    wanted = plan.load(tmp_path / "sweep.toml")
    (tmp_path / workers.CLAIMS).mkdir()
    queues = [workers.queue(wanted, tmp_path) for _ in range(3)]
    found = [workers.taken(queue, workers.Progress()) for queue in queues]
    assert [(run.config.seed, run.config.sparsity.keep) for run, _ in filter(None, found)] == [
        (0, 0.1),
        (1, 0.1),
        (0, 0.2),
    ]


def test_the_command_says_who_is_at_work(
    file: pathlib.Path, alone: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--out", str(alone), "--workers"]) == 0
    assert capsys.readouterr().out == f"{sweep.RUNS} runs, {sweep.RUNS} of them finished\n"
    out = file.parent / "none"
    run, places = plan.load(file).runs[0].name, out / workers.CLAIMS
    places.mkdir(parents=True)
    with claims.held(places, run, claims.taken(places, run, claims.last(places, run)) or 0, str):
        assert main([str(file), "--out", str(out), "--workers"]) == 0
        first, line = capsys.readouterr().out.splitlines()
        assert first == f"{sweep.RUNS} runs, 0 of them finished"
        assert line.startswith(f"{claims.me()}, ") and f"UTC: {run}: " in line


def test_a_job_that_is_stopped_goes_back_into_the_queue(tmp_path: pathlib.Path) -> None:
    """`launch/experiment.slurm`, with a cluster and a command made up here."""
    script = pathlib.Path(__file__).parents[2] / "launch" / "experiment.slurm"
    for name, text in {
        "launch/environment.sh": f"root={tmp_path} python={tmp_path}/python",
        "python": 'echo "$@" >"$root/called"; trap "exit 143" TERM; echo ready; for i in {1..99}; do sleep 0.1; done',
        "bin/scontrol": f'echo "$@" >"{tmp_path}/asked"',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/bash\n{text.replace('$root', str(tmp_path))}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77"}
    argv = ["bash", str(script), "mine.toml", "--out", "there"]
    with subprocess.Popen(argv, env={**os.environ, **given}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(30) == 143
    assert (tmp_path / "called").read_text() == "-m dass_jax.experiment mine.toml --out there\n"
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
