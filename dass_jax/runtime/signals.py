"""SIGINT and SIGTERM: noted where they arrive, obeyed where nothing is lost by it.

A handler that raised at once would do so in the middle of a step's bookkeeping. Here it only makes a note; whoever has
a good place to stop looks at it. What runs for long in one piece (a compilation) runs in a thread of its own, for which
the main thread waits with an eye on the note.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from dass_jax.errors import Stopped
from dass_jax.runtime import compilation, hosts

T = TypeVar("T")
NUMBERS = (signal.SIGINT, signal.SIGTERM)
POLL = 0.05
"""Seconds between two looks at the note."""


class Signals:
    """The note: which signal has asked the process to stop, None as long as none has."""

    def __init__(self) -> None:
        self.asked: int | None = None

    def agreed(self, due: bool = False) -> tuple[int, bool]:
        """(the signal that has come, 0 for none; whether something is `due`) on any host; all of them must ask."""
        asked, wish = hosts.agreed([self.asked or 0, due])
        return int(asked), bool(wish)

    def check(self) -> None:
        """Raises `Stopped` if a signal has come."""
        if self.asked is not None:
            raise Stopped(self.asked)

    def waiting(self, work: Callable[[], T]) -> T:
        """`work()`, in a thread of its own. After a signal it is abandoned and `Stopped` raised: the process must then
        end without waiting for it."""
        done, outcome, wide = threading.Event(), list[Any](), compilation.as_wide(work)

        def run() -> None:
            try:
                outcome.append((wide(), None))
            except BaseException as error:
                outcome.append((None, error))
            done.set()

        threading.Thread(target=run, daemon=True).start()
        while not done.wait(POLL):
            self.check()
        found, error = outcome[0]
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]  # a T: it has been through a list that holds errors too


@contextlib.contextmanager
def noted() -> Iterator[Signals]:
    """Within the block SIGINT and SIGTERM make a note, the first time; a second one does what it always does. A signal
    that nobody has looked at ends the block with `Stopped`. In other threads than the main one nothing changes."""
    found = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}

    def note(number: int, frame: FrameType | None) -> None:
        found.asked = number
        for each in NUMBERS:
            signal.signal(each, before[each])

    for number in NUMBERS:
        signal.signal(number, note)
    try:
        yield found
    finally:
        for number in NUMBERS:
            signal.signal(number, before[number])
    found.check()
