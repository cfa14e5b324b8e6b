"""What a user sees while a run works: a bar on a terminal, lines elsewhere, and never silence."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

import tqdm

HEARTBEAT = 5.0
"""Seconds after which something that still runs says so."""


class Screen:
    """A stream on which no write fails: a terminal that has gone, a full disk or a letter that it does not know is no
    reason to lose what is being measured."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        """None, as `sys.stderr` of a process without one: nothing is shown."""
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and not self.stream.closed and self.stream.isatty()

    def fileno(self) -> int:
        """Of the stream, for its width."""
        return self.stream.fileno() if self.stream is not None else -1

    def write(self, text: str) -> None:
        """What cannot be shown is left out."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            if self.stream is not None:
                known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
                self.stream.write(known)

    def flush(self) -> None:
        """As far as it goes."""
        with contextlib.suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.flush()


class Progress:
    """Writes to `stream` (standard error by default). It owns the screen, nothing else."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream: Any = Screen(stream or sys.stderr)  # it has what tqdm asks of a stream
        self.terminal = self.stream.isatty()
        self.now = ""
        """What was last said, for who asks from outside."""

    def say(self, text: str) -> None:
        """One line."""
        self.now = text
        tqdm.tqdm.write(text, file=self.stream)
        self.stream.flush()

    @contextlib.contextmanager
    def busy(self, text: str, announce: bool = True) -> Iterator[None]:
        """Says `text` first (if `announce`) and then, every few seconds until the block ends, that it still runs."""
        done, start = threading.Event(), time.monotonic()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                self.say(f"{text}: {time.monotonic() - start:.0f} s")

        if announce:
            self.say(text)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextlib.contextmanager
    def phase(self, name: str, done: int, epochs: int) -> Iterator["Phase"]:
        """The progress of one phase that starts after `done` epochs."""
        bar = tqdm.tqdm(
            total=epochs, initial=done, desc=name, unit="epoch", file=self.stream, disable=not self.terminal, leave=True
        )
        with bar:
            yield Phase(self, bar, name, done, epochs)


class Phase:
    """One phase's bar or lines."""

    def __init__(self, progress: Progress, bar: tqdm.tqdm, name: str, done: int, epochs: int) -> None:
        self.progress, self.bar, self.name, self.done, self.epochs = progress, bar, name, done, epochs
        self.first, self.start = done, time.monotonic()

    def epoch(self, figures: dict[str, float]) -> None:
        """One epoch is over; `figures` are shown beside it."""
        self.done += 1
        text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        each = (time.monotonic() - self.start) / (self.done - self.first)
        left = each * (self.epochs - self.done)
        line = f"{self.name}  epoch {self.done}/{self.epochs}  {text}  {left:.0f} s left"
        self.progress.now = line
        if not self.progress.terminal:
            self.progress.say(line)
