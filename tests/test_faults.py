"""What a run survives, by the command in processes of its own: every end but the last leaves it able to go on, and the
last has the bits of a run that nothing has happened to. The run is of a plugin's system, which compiles in a moment;
test_pipeline.py kills one of a supernet.
"""

import fcntl
import itertools
import pathlib
import random
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dass_jax.runtime import keeping
from tests import processes
from tests.runs import TOY, Finished, arguments, command, last, metrics, results, timeless, undrawn, workplace

KINDS = ("compilation", "call", "checkpoint", "pause", "evaluation", "phase")
KILLS = 25
STEPWISE = ["--runtime.call-seconds", "0", "--runtime.checkpoint-minutes", "1e-9"]
"""One step a call, and a pause after each."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    text = TOY.replace('["random"]', "[]").replace("limit = 64", "limit = 128")
    with undrawn(), workplace(tmp_path_factory.mktemp("faults"), text, own_cache=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    done = command(place / "whole")
    assert done.code == 0, done.err
    return done


def same_end(one: pathlib.Path, other: pathlib.Path) -> None:
    """Both folders hold the same run, to the bit."""
    assert timeless(results(one)) == timeless(results(other))
    assert timeless(metrics(one)) == timeless(metrics(other))
    there, here = last(one), last(other)
    # Their numbers differ: a pause is a checkpoint too.
    assert (there.facts["at"], list(there.leaves)) == (here.facts["at"], list(here.leaves))
    assert all(leaf.tobytes() == here.leaves[path].tobytes() for path, leaf in there.leaves.items())
    assert (one / "architecture.json").read_bytes() == (other / "architecture.json").read_bytes()
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def stopped(folder: pathlib.Path, kind: str, number: int, nth: int) -> str:
    """The command, with a signal at the nth event of a kind; what it said."""
    output = folder.parent / f"{folder.name}.txt"
    process = processes.started(
        arguments(folder) + STEPWISE[:2], output, processes.signalled_at, kind, number, nth, 0, 0.0
    )
    assert processes.ended(process) == 128 + number, output.read_text(encoding="utf-8")
    said = output.read_text(encoding="utf-8")
    assert said.splitlines()[-1] == "interrupted: the same command resumes from the last checkpoint"
    return said


def test_a_run_stopped_by_signals_goes_on_within_the_epoch(whole: Finished) -> None:
    folder = whole.folder.parent / "signalled"
    # An epoch of the first phase has two steps: after the third call one of the second epoch's is left.
    stopped(folder, "call", signal.SIGTERM, 3)
    assert len(metrics(folder)) == 1 and last(folder).facts["at"]["step"] in (1, 2)
    said = stopped(folder, "evaluation", signal.SIGINT, 1)
    assert "resuming after wander · stroll, epoch 1 (checkpoint 2, " in said
    assert [line["phase"] for line in metrics(folder)] == ["stroll"] * 2 + ["muse"] * 2 + ["leap"] * 2
    done = command(folder)
    assert done.code == 0 and "resuming after wander · rub, epoch 0 (checkpoint " in done.err
    same_end(folder, whole.folder)


def test_a_compilation_does_not_hold_up_a_signal(whole: Finished) -> None:
    folder = whole.folder.parent / "compiling"
    output = folder.parent / "compiling.txt"
    process = processes.started(
        arguments(folder), output, processes.signalled_at, "compilation", signal.SIGTERM, 1, 0, 0.0
    )
    assert processes.ended(process) == 143 and not (folder / "checkpoints" / "1").exists()


def test_a_run_is_called_finished_once_its_last_checkpoint_is_on_the_disk(
    whole: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, seen = whole.folder.parent / "finished", keeping.file, list[Any]()

    def watched(keeper: Any, name: str, data: Any) -> None:
        if name == "results.json":
            seen.append(last(folder).facts["at"])
        file(keeper, name, data)

    monkeypatch.setattr(keeping, "file", watched)
    assert command(folder).code == 0
    assert seen == [last(whole.folder).facts["at"]]


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(whole: Finished) -> None:
    folder, dice = whole.folder.parent / "killed", random.Random(7)
    output = folder.parent / "killed.txt"
    kinds = itertools.cycle(dice.sample(KINDS, len(KINDS)))
    for number, kind in zip(range(KILLS), kinds, strict=False):
        nth = 1 if kind in ("compilation", "phase", "evaluation") else dice.randint(1, 3)
        moment = (kind, signal.SIGKILL, nth, number, 0.2)
        code = processes.ended(processes.started(arguments(folder) + STEPWISE, output, processes.signalled_at, *moment))
        said = output.read_text(encoding="utf-8")
        assert code in (-signal.SIGKILL, 0), (moment, said)
        assert "Traceback" not in said, (moment, said)
        if code == 0:  # so many kills that the run came to its end: again from the start
            same_end(folder, whole.folder)
            shutil.rmtree(folder)
    done = command(folder)
    assert done.code == 0, done.err
    same_end(folder, whole.folder)


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_that_takes_no_more_is_an_error_and_what_it_holds_stays(whole: Finished, kind: str) -> None:
    folder = whole.folder.parent / kind
    output = folder.parent / f"{kind}.txt"
    code = processes.ended(processes.started(arguments(folder), output, processes.starved_at, kind, 2, folder))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    said = output.read_text(encoding="utf-8")
    reason = {"full": "File too large", "read-only": "Permission denied"}[kind]
    assert code == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith(f"error: run folder {str(folder)!r} cannot be written: {reason}; allowed: ")
    assert last(folder).step == 1 and last(folder).skipped == ()
    if kind == "full":
        assert command(folder).code == 0
        same_end(folder, whole.folder)


def test_a_folder_in_use_is_refused_and_left_alone(place: pathlib.Path) -> None:
    folder = place / "busy"
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = command(folder)
        assert (found.code, found.out) == (2, "")
        assert found.err == (
            f"error: --workdir = {str(folder)!r} is in use by another process; "
            "allowed: to wait for its end, or another folder\n"
        )
        assert [path.name for path in folder.iterdir()] == ["lock"]
