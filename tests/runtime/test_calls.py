"""Bounded calls, the note of a signal, and checkpoints in the middle of an epoch."""

import json
import os
import pathlib
import signal
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.errors import Stopped, guarded
from dass_jax.runtime import calls, checkpoint, keeping, signals
from dass_jax.runtime.calls import Done
from tests.runs import scalars, table

VALUES = {"loss": np.linspace(0.1, 0.7, 7, dtype=np.float32) ** -7, "leaf": np.arange(-1, 6)}


def part(first: int, last: int) -> dict[str, Any]:
    inside = (np.arange(7) >= first) & (np.arange(7) < last)
    return {name: np.where(inside, x, np.zeros((), x.dtype)) for name, x in VALUES.items()}


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 10), min_size=8, max_size=8), st.integers(0, 7), st.integers(1, 7))
def test_whatever_the_calls_the_infos_are_the_same(clock: list[float], cut: int, size: int) -> None:
    times = iter(np.cumsum([t for pair in zip([0.0] * 8, clock, strict=True) for t in pair]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls.time, "monotonic", lambda: float(next(times)))
        seen: list[Done] = []

        taken: list[tuple[int, int]] = []

        def call(state: int, first: int, last: int) -> tuple[int, dict[str, Any]]:
            taken.append((first, last))
            return state + 1, part(first, last)

        def stopping(state: int, done: Done, infos: Any) -> None:
            seen.append(done)
            if len(seen) == 1:
                raise Stopped(signal.SIGTERM)

        series = calls.Series(7, size, call)
        start = Done(cut, tuple(part(0, cut)[name] for name in sorted(VALUES)) if cut else ())
        with pytest.raises(Stopped):
            calls.in_calls(series, 0, 1.0, stopping, start)
        state, found, done = calls.in_calls(series, len(taken), 1.0, stopping, seen[0])
    assert done.steps == 7 and state == len(taken)
    assert all(first // size == (last - 1) // size for first, last in taken if first < last)
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_call_takes_the_steps_of_its_time_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, taken = [0.0], []

    def call(state: None, first: int, last: int) -> tuple[None, dict[str, Any]]:
        now[0] += 0.1 * (last - first)
        taken.append(last - first)
        return state, {"x": np.zeros(100)}

    monkeypatch.setattr(calls.time, "monotonic", lambda: now[0])
    calls.in_calls(calls.Series(100, 100, call), None, 1.05, lambda *_: None, Done())
    assert taken[:3] == [1, 4, 10] and sum(taken) == 100 and max(taken) == 10
    taken.clear()
    calls.in_calls(calls.Series(5, 5, call), None, 0.0, lambda *_: None, Done())
    assert taken == [1] * 5


def test_a_signal_is_noted_once_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    with pytest.raises(Stopped) as caught, signals.noted() as noted:
        noted.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted.asked == signal.SIGTERM
        assert [signal.getsignal(number) for number in signals.NUMBERS] == before, (
            "a second one does what it always does"
        )
    assert caught.value.code == 143
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before


def test_waiting_hands_on_results_and_errors_and_ends_at_a_signal() -> None:
    noted, never = signals.Signals(), threading.Event()
    assert noted.waiting(lambda: 7) == 7
    for wide in (True, False):
        with jax.enable_x64(wide):
            assert noted.waiting(lambda: jnp.ones(1).dtype) == ("float64" if wide else "float32")
    with pytest.raises(ZeroDivisionError):
        noted.waiting(lambda: 1 // 0)
    threading.Timer(0.1, lambda: setattr(noted, "asked", signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        noted.waiting(never.wait)
    assert time.monotonic() - start < 20
    never.set()


@pytest.mark.parametrize(("error", "code"), [(Stopped(signal.SIGTERM), 143), (Stopped(signal.SIGINT), 130)])
def test_exit_codes_are_the_shells(error: Stopped, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def stopping() -> int:
        raise error

    assert guarded(stopping) == code
    assert capsys.readouterr().err == "interrupted: the same command resumes from the last checkpoint\n"


STATE = {"w": np.arange(3, dtype=np.float32), "infos": [np.ones(1)]}
"""With a name that a checkpoint uses too."""
AT = {"phase": "step1", "epoch": 1}


def kept(folder: pathlib.Path, pauses: int) -> None:
    """The checkpoint of an epoch, and pauses in the one after it."""
    with keeping.opened(folder, 3) as (keeper, _):
        facts = {**keeping.NOTHING, "at": AT, "saved": 1}
        keeping.state(keeper, STATE, facts)
        for number in range(1, pauses + 1):
            done = Done(number, tuple(part(0, number).values()), 1.5)
            keeping.pause(keeper, {**STATE, "w": STATE["w"] + number}, done, {**facts, "saved": 1 + number})


def found(folder: pathlib.Path) -> tuple[Any, Done, list[str]]:
    """(state, how far its epoch is, what is said) of where a run in the folder goes on."""
    with keeping.opened(folder, 3) as (_, found):
        assert found.newest is not None
        leaves, done = keeping.state_of(found.newest)
        assert found.newest.facts["at"] == (AT | ({"step": done.steps, "seconds": 1.5} if done.steps else {}))
        return checkpoint.restore(STATE, leaves), done, found.said


def test_a_pause_gives_state_and_infos_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    kept(tmp_path, 2)
    state, done, said = found(tmp_path)
    np.testing.assert_array_equal(state["w"], STATE["w"] + 2)
    np.testing.assert_array_equal(state["infos"][0], STATE["infos"][0])
    assert (done.steps, done.seconds, done.size, said) == (2, 1.5, 1, [])
    for one, other in zip(done.infos, part(0, 2).values(), strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())


def test_a_damaged_pause_gives_way_to_the_one_before_and_then_to_the_epochs_checkpoint(tmp_path: pathlib.Path) -> None:
    kept(tmp_path, 2)
    for number in (3, 2):
        for path in (tmp_path / "checkpoints" / str(number)).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        state, done, (line,) = found(tmp_path)
        assert line.startswith(f"checkpoint {number} is damaged (")
        assert line.endswith(f"): going back to checkpoint {number - 1}")
        np.testing.assert_array_equal(state["w"], STATE["w"] + number - 2)
        assert done.steps == number - 2
    assert done == Done() and sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1"]


def test_the_newest_checkpoints_stay_pauses_among_them(tmp_path: pathlib.Path) -> None:
    kept(tmp_path, 5)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "5", "6"]


def test_what_was_written_after_the_place_of_a_checkpoint_is_dropped(tmp_path: pathlib.Path) -> None:
    """Lines of metrics and events of an epoch whose checkpoint did not come to be."""
    facts: dict[str, Any] = {**keeping.NOTHING, "at": AT, "epochs": {}}
    with keeping.opened(tmp_path, 3) as (keeper, _):
        for epoch in (1, 2):
            line = {"method": "dass", "phase": "step1", "epoch": epoch, "loss": 0.5 * epoch}
            size = keeping.line(keeper, line, epoch)
            if epoch == 1:
                facts |= {"metrics_bytes": size, "epochs": {"dass": 1}, "saved": 1}
                keeping.state(keeper, STATE, facts)
    with keeping.opened(tmp_path, 3) as (keeper, _):
        (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["epoch"] == 1
        keeping.line(keeper, {"method": "dass", "phase": "step2", "epoch": 1, "loss": 2.5}, 2)
    assert scalars(tmp_path / "events" / "dass") == {"step1/loss": {1: 0.5}, "step2/loss": {2: 2.5}}


def test_the_table_of_runs_finds_its_figures_by_their_tags(tmp_path: pathlib.Path) -> None:
    with keeping.opened(tmp_path, 3) as (keeper, _):
        given = {"method.name": "dass", "sparsity.keep": 0.1, "controls": ("a", "b")}
        keeping.hparams(keeper, "dass", 3, given, {"sparse accuracy": 50.0, "MACs non-zero": 7.0})
    folder = tmp_path / "events" / "dass-seed3"
    metrics, parameters = table(folder)
    assert metrics == set(scalars(folder)) == {"result/sparse_accuracy", "result/MACs_non-zero"}
    assert parameters == {"method.name": "dass", "sparsity.keep": 0.1}
