"""Workers of an experiment whose runs take moments, in processes of their own, which a test kills or has stand still.

A run is made up here: its figures follow from its configuration, it leaves a note if another process is at work on it,
and it fails if one has finished it already. Everything else is the experiment's own.
"""

import contextlib
import json
import os
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from dass_jax import config
from dass_jax.config import Config
from dass_jax.experiment import execute, plan, workers
from dass_jax.runtime import claims, folder
from dass_jax.runtime.progress import Progress
from tests import processes

RUNS = 16
TEXT = f"""
base = "run.toml"
[axes]
seed = {list(range(RUNS // 2))}
method = ["random", "dass"]
"""


def written(place: pathlib.Path) -> pathlib.Path:
    """The experiment's file."""
    (place / "run.toml").write_text("controls = []\n", encoding="utf-8")
    (place / "sweep.toml").write_text(TEXT, encoding="utf-8")
    return place / "sweep.toml"


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def perform(c: Config, own: pathlib.Path, progress: Progress, shelf: Any, naps: random.Random, most: float) -> None:
    """A run of some moments: three epochs, of which those that are done are not done again."""
    own.mkdir(parents=True, exist_ok=True)
    busy, notes = own / "busy", own.parents[1] / "notes.txt"
    metrics = own / "metrics.jsonl"
    with contextlib.suppress(FileNotFoundError, ValueError):
        if _alive(pid := int(busy.read_text(encoding="utf-8"))) and pid != os.getpid():
            with notes.open("a", encoding="utf-8") as file:
                file.write(f"{own.name}: {os.getpid()} beside {pid}\n")
    busy.write_text(str(os.getpid()), encoding="utf-8")
    done = len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.exists() else 0
    for epoch in range(done, 3):
        time.sleep(naps.random() * most)
        progress.say(f"epoch {epoch + 1}/3")
        folder.append_metrics(metrics, {"epoch": epoch, "seconds": 1.0})
    declared = {"methods": {c.method.name: [{"name": "only", "chain": "training"}]}}
    (own / "phases.json").write_text(json.dumps(declared), encoding="utf-8")
    value = int(config.digest(c), 16) % 10_000 / 100
    found = {
        "task": {"metric": "accuracy", "unit": "%", "higher_is_better": True, "examples": 9},
        "evaluations": {"sparse": {"accuracy": value}},
        "parameters": {"total": 9, "prunable": 8, "kept": 7, "kept_with_bn_bias": 8},
        "macs": {"dense": 9, "nonzero": 8},
        "nid": None,
        "compression": 1.5,
        "seconds": {"compile": 0.0, "only": 3.0},
        "architecture": None,
    }
    made = own / f"made-{os.getpid()}"
    made.write_text(json.dumps(found), encoding="utf-8")
    os.link(made, own / "results.json")  # not over what is there
    made.unlink()
    busy.unlink()


def work(file: pathlib.Path, out: pathlib.Path, said: pathlib.Path, seed: int, most: float, lease: float) -> None:
    """A worker."""
    naps = random.Random(seed)

    def train(c: Config, own: pathlib.Path, progress: Progress, shelf: Any) -> None:
        perform(c, own, progress, shelf, naps, most)

    with pytest.MonkeyPatch.context() as patch, said.open("w", encoding="utf-8") as stream:
        for module, name, value in (
            (execute.train, "perform", train),
            (execute, "machine", lambda run: []),
            (claims, "RENEW", lease / 10),
            (claims, "LEASE", lease),
            (workers, "POLL", lease / 20),
            (workers, "SPEAK", lease / 2),
        ):
            patch.setattr(module, name, value)
        execute.carry_out(plan.load(file), out, Progress(stream))


def started(target: Callable[..., None], *given: Any) -> Any:
    process = processes.SERVER.Process(target=target, args=given)
    process.start()
    return process
