"""Bounded calls, the note of a signal, and pauses."""

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
from dass_jax.runtime import calls, checkpoint, pauses, signals
from dass_jax.runtime.calls import Done

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
    assert capsys.readouterr().err == "interrupted: the same command goes on from the last checkpoint\n"


STATE = {"w": np.arange(3, dtype=np.float32), "infos": [np.ones(1)]}
"""With a name that a pause uses too."""


def facts(step: int) -> dict[str, Any]:
    return {"step": step, "at": {"stage": "step1", "epoch": 1}}


def paused(folder: pathlib.Path, step: int, checkpoints: tuple[int, ...]) -> pauses.Found:
    """What is found after a pause at epoch line `step`, with these checkpoints beside it."""
    with checkpoint.manager(folder / "checkpoints", keep=3) as manager:
        for number in checkpoints:
            checkpoint.save(manager, number, STATE, facts(number))
        manager.wait_until_finished()
        pauses.save(folder / "pauses", STATE, Done(2, tuple(part(0, 2).values()), 1.5), facts(step))
        return pauses.newest(folder / "pauses", manager)


def test_a_pause_gives_state_and_infos_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    found = paused(tmp_path, 3, (2, 3)).newest
    assert found is not None and found.facts["at"] == {"stage": "step1", "epoch": 1, "step": 2, "seconds": 1.5}
    leaves, done = pauses.opened(found)
    restored = checkpoint.restore(STATE, leaves)
    np.testing.assert_array_equal(restored["w"], STATE["w"])
    assert (done.steps, done.seconds) == (2, 1.5)
    for one, other in zip(done.infos, part(0, 2).values(), strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())


def test_a_pause_before_the_last_checkpoint_is_of_no_use(tmp_path: pathlib.Path) -> None:
    found = paused(tmp_path, 2, (2, 3))
    assert found.newest is not None and pauses.opened(found.newest)[1] == Done() and found.said == []
    assert found.newest.step == 3 and not (tmp_path / "pauses").exists()


def test_a_damaged_pause_gives_way_to_the_one_before_and_then_to_the_checkpoint(tmp_path: pathlib.Path) -> None:
    paused(tmp_path, 3, (3,))
    with checkpoint.manager(tmp_path / "checkpoints", keep=3) as manager:
        pauses.save(tmp_path / "pauses", STATE, Done(5), facts(3))
        for number, said in (("2", "pause: checkpoint 2 is damaged ("), ("1", "none of 2 can be read")):
            for path in (tmp_path / "pauses" / number).rglob("*"):
                if path.is_file():
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            found = pauses.newest(tmp_path / "pauses", manager)
            assert len(found.said) == 1 and said in found.said[0]
            assert found.newest is not None
            assert pauses.opened(found.newest)[1].steps == (2 if number == "2" else 0)
    assert not (tmp_path / "pauses").exists()
