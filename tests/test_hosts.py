"""One run by two processes with two devices each, as on two hosts: stopped, left alone by its peer, and to its end."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from dass_jax.errors import UserError
from dass_jax.runtime import hosts
from tests import processes
from tests.config_files import one_line
from tests.runs import TOY, arguments, command, last, metrics, results, timeless, undrawn, workplace

SHORT = (
    TOY.replace('["random"]', "[]")
    .replace("devices = 1", "devices = 2")
    .replace("data = {", "data = { streaming = true,")
)
"""Of a plugin's system, which compiles in a moment. Streamed, so that each host reads what its own devices take."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with undrawn(), workplace(tmp_path_factory.mktemp("hosts"), SHORT) as folder:
        yield folder


def both(folder: pathlib.Path, *moment: Any) -> tuple[list[int], list[str], float]:
    """(exit codes, what each said, seconds between their ends) of the command in both processes; with a `moment` the
    second is signalled, see `processes.signalled_at`."""
    port, outputs = processes.free_port(), [folder.parent / f"{folder.name}.{n}.txt" for n in range(2)]
    argv = [*arguments(folder), "--runtime.call-seconds", "0"]
    started = [
        processes.started(argv, outputs[n], processes.as_host, n, 2, port, moment if n else ()) for n in range(2)
    ]
    codes = [processes.ended(started[1])]
    end = time.monotonic()
    codes.insert(0, processes.ended(started[0]))
    return codes, [output.read_text(encoding="utf-8") for output in outputs], time.monotonic() - end


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> pathlib.Path:
    codes, said, _ = both(place / "whole")
    assert codes == [0, 0], said
    return place / "whole"


def test_the_first_process_speaks_and_writes(whole: pathlib.Path) -> None:
    first, second = [(whole.parent / f"whole.{n}.txt").read_text(encoding="utf-8") for n in range(2)]
    assert f"report: {whole / 'report.html'}" in first
    assert not any(line for line in second.splitlines() if "Gloo" not in line)
    assert [line["phase"] for line in metrics(whole)] == [
        name for name in ("stroll", "muse", "leap", "rub") for _ in "12"
    ]


def test_parts_of_the_data_on_each_host_make_the_whole(whole: pathlib.Path) -> None:
    """The steps of search and training are those of one process with one device and its data in memory."""
    alone = whole.parent / "alone"
    done = command(alone, [*arguments(alone), "--runtime.devices", "1", "--data.no-streaming"])
    assert done.code == 0, done.err
    for wanted, found in zip(metrics(alone), metrics(whole), strict=True):
        numbers = {name: x for name, x in timeless(wanted).items() if isinstance(x, float)}
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5), found["phase"]


def test_after_a_lost_peer_and_a_signal_to_one_both_go_on_to_the_same_bits(whole: pathlib.Path) -> None:
    folder = whole.parent / "stopped"
    codes, said, seconds = both(folder, "evaluation", signal.SIGKILL, 2, 0, 0.0)
    # Whoever notices first: a program that waits for the other process, or JAX's own service, which then aborts.
    assert codes[0] in (2, -signal.SIGABRT) and codes[1] == -signal.SIGKILL and seconds < 30, said
    if codes[0] == 2:
        assert said[0].splitlines()[-1].startswith("error: process 0 of 2 has lost the others (")
    codes, said, _ = both(folder, "evaluation", signal.SIGTERM, 1, 0, 0.0)
    assert codes == [143, 143] and "resuming after wander · rub, epoch 1 (" in said[0], said
    codes, said, _ = both(folder)
    assert codes == [0, 0] and "resuming after wander · rub, epoch 1 (checkpoint 8, " in said[0], said
    assert timeless(results(folder)) == timeless(results(whole))
    assert timeless(metrics(folder)) == timeless(metrics(whole))
    assert all(leaf.tobytes() == last(whole).leaves[path].tobytes() for path, leaf in last(folder).leaves.items())


def test_a_process_that_gives_no_sign_of_life_is_given_up_after_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes here have less patience, see `processes.as_host`."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **given: seen.update(given))
    hosts.join(hosts.Hosts("there:80", 2, 0))
    assert seen["heartbeat_timeout_seconds"] == hosts.PATIENCE == 30


def test_what_the_first_process_finds_wrong_is_an_error_of_all(place: pathlib.Path) -> None:
    folder = place / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine", encoding="utf-8")
    codes, said, _ = both(folder)
    assert codes == [2, 2]
    for text in said:
        assert f"error: --workdir = {str(folder)!r} is not empty and no run folder; allowed: " in text
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def _join_by_slurm(process: int, job: int, file: pathlib.Path) -> None:
    given = {"JOB_ID": job, "NTASKS": 2, "PROCID": process, "LOCALID": process}
    os.environ.update({f"SLURM_{name}": str(value) for name, value in given.items()})
    os.environ |= {"SLURM_STEP_NODELIST": "127.0.0.1", "DASS_JAX_COORDINATOR": "auto"}
    wanted = hosts.wanted()
    assert wanted is not None
    hosts.join(wanted)
    everyone = hosts.agreed([process, -process])
    told = hosts.told_json(lambda: {"from": process})
    file.write_text(json.dumps([jax.process_index(), jax.process_count(), everyone, told]), encoding="utf-8")


def test_slurm_says_where_the_others_are_and_hosts_agree(tmp_path: pathlib.Path) -> None:
    """The port is what JAX makes of the job's number."""
    job, files = random.randrange(4096), [tmp_path / name for name in ("first", "second")]
    started = [processes.SERVER.Process(target=_join_by_slurm, args=(n, job, file)) for n, file in enumerate(files)]
    for process in started:
        process.start()
    assert [processes.ended(process) for process in started] == [0, 0]
    for n, file in enumerate(files):
        assert json.loads(file.read_text(encoding="utf-8")) == [n, 2, [1, 0], {"from": 0}]


def _asking_the_cluster() -> None:
    os.environ["DASS_JAX_COORDINATOR"] = "auto"


def test_without_a_cluster_there_is_nothing_to_ask(place: pathlib.Path) -> None:
    output = place / "none.txt"
    assert processes.ended(processes.started(arguments(place / "none"), output, _asking_the_cluster)) == 2
    said = output.read_text(encoding="utf-8")
    assert said.startswith("error: DASS_JAX_COORDINATOR = 'auto': ") and said.count("\n") == 1
    assert said.endswith("; allowed: on a TPU pod, under SLURM or Open MPI; elsewhere HOST:PORT of the first process\n")


def test_the_script_hands_its_flags_on(tmp_path: pathlib.Path) -> None:
    launch = shutil.copytree("launch", tmp_path / "launch")
    (launch / "run.sh").write_text('#!/bin/sh\nenv | grep ^DASS_JAX_[CP] | sort; echo "$@"\n', encoding="utf-8")

    def said(*argv: str) -> tuple[int, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("DASS_JAX")}
        found = subprocess.run([launch / "hosts.sh", *argv], env=own, capture_output=True, text=True)
        return found.returncode, found.stdout + found.stderr

    assert said("--config", "x.toml") == (0, "DASS_JAX_COORDINATOR=auto\n--config x.toml\n")
    named = "DASS_JAX_COORDINATOR=a:1\nDASS_JAX_PROCESS=0\nDASS_JAX_PROCESSES=2\n"
    given = ("--coordinator", "a:1", "--processes", "2", "--process", "0")
    assert said(*given, "--seed", "1") == (0, f"{named}--seed 1\n")
    assert said("--process") == (2, "error: --process: no value given; allowed: --process VALUE\n")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"COORDINATOR": "auto"}, hosts.Hosts("", None, None)),
        ({"COORDINATOR": "there:80", "PROCESSES": "4", "PROCESS": "3"}, hosts.Hosts("there:80", 4, 3)),
    ],
)
def test_the_environment_says_where_the_others_are(environment: dict[str, str], found: Any) -> None:
    assert hosts.wanted({f"DASS_JAX_{name}": value for name, value in environment.items()}) == found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"COORDINATOR": "there"}, "DASS_JAX_COORDINATOR = 'there'; allowed: HOST:PORT of the first process, or auto"),
        ({"COORDINATOR": "there:99999"}, "DASS_JAX_COORDINATOR = 'there:99999'; allowed: HOST:PORT"),
        ({"COORDINATOR": "a:1"}, "DASS_JAX_PROCESSES = missing; allowed: 1 to 65536, as DASS_JAX_COORDINATOR is set"),
        ({"COORDINATOR": "a:1", "PROCESSES": "2", "PROCESS": "2"}, "DASS_JAX_PROCESS = '2'; allowed: 0 to 1"),
        ({"COORDINATOR": "a:1", "PROCESSES": "-2", "PROCESS": "0"}, "DASS_JAX_PROCESSES = '-2'; allowed: 1 to"),
    ],
)
def test_a_wrong_environment_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        hosts.wanted({f"DASS_JAX_{name}": value for name, value in environment.items()})
    assert one_line(caught).startswith(message)
