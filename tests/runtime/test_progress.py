"""Lines where the output is no terminal, a bar where it is, and no long silence."""

import errno
import io
import pathlib
import sys
import time
from typing import Any

import pytest

from dass_jax.runtime import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_phase_writes_one_line_per_epoch_with_figures_and_time_left() -> None:
    stream = io.StringIO()
    with progress.Progress(stream).phase("dass · step1", 1, 3) as phase:
        phase.epoch({"loss": 0.51234, "accuracy": 81.5})
        phase.epoch({"loss": 0.25, "accuracy": 90.0})
    first, second = stream.getvalue().splitlines()
    assert first.startswith("dass · step1  epoch 2/3  loss 0.512  accuracy 81.5  ") and first.endswith(" s left")
    assert second == "dass · step1  epoch 3/3  loss 0.25  accuracy 90  0 s left"


def test_a_terminal_gets_a_bar_and_no_lines() -> None:
    stream = Terminal()
    with progress.Progress(stream).phase("dass · step1", 0, 2) as phase:
        phase.epoch({"loss": 0.5})
        phase.epoch({"loss": 0.25})
    assert "2/2" in stream.getvalue() and "loss 0.25" in stream.getvalue() and "s left" not in stream.getvalue()


def test_what_takes_long_says_so_until_it_ends_even_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT", 0.02)
    stream = io.StringIO()
    with pytest.raises(KeyError), progress.Progress(stream).busy("compiling step1"):
        time.sleep(0.2)
        raise KeyError
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling step1" and len(lines) >= 3 and set(lines[1:]) == {"compiling step1: 0 s"}
    time.sleep(0.1)
    assert stream.getvalue().splitlines() == lines


def test_silence_is_shorter_than_ten_seconds() -> None:
    assert progress.HEARTBEAT < 10


@pytest.mark.parametrize("kind", ["none", "closed", "full", "ascii"])
def test_what_cannot_be_shown_ends_nothing(kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    stream: Any = None
    if kind == "none":
        monkeypatch.setattr(sys, "stderr", None)
    elif kind == "closed":
        stream = (tmp_path / "closed.txt").open("w", encoding="utf-8")
        stream.close()
    elif kind == "full":
        stream = Full()
    else:
        stream = io.TextIOWrapper(content, "ascii")
    found = progress.Progress(stream)
    found.say("α · step1")
    with found.phase("α", 0, 2) as phase:
        phase.epoch({"loss": 0.5})
    assert found.now.startswith("α  epoch 1/2  loss 0.5")
    assert content.getvalue().startswith(b"\\u03b1 \\xb7 step1\n" if kind == "ascii" else b"")


class Full(io.StringIO):
    """A stream on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")
