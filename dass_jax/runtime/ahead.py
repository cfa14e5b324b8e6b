"""Programs compiled before they are needed, on a thread beside the run.

XLA's compiler for a CPU works on one core much of the time, and an accelerator idles while it works. What is compiled
here is what would be compiled later: only the waiting is shorter.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from dass_jax.runtime import compilation

Work = Callable[[], Any]


class Ahead:
    """Works that are done one after another on a thread, those that are needed first before all others."""

    def __init__(self) -> None:
        self.waiting: dict[str, Work] = {}
        self.begun: dict[str, threading.Event] = {}
        self.found: dict[str, Any] = {}
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def add(self, works: Mapping[str, Work], first: bool = False) -> None:
        """Adds works that are not known yet, before or after those that wait."""
        with self.lock:
            new = {name: work for name, work in works.items() if name not in self.begun}
            self.waiting = {**new, **self.waiting} if first else {**self.waiting, **new}
            if self.waiting and self.thread is None:
                self.thread = threading.Thread(target=compilation.as_wide(self._work), daemon=True)
                self.thread.start()

    def get(self, name: str) -> Any:
        """What the work of that name made, for which it waits if it has begun; None if it has failed.

        A work that has not begun is forgotten, since who asks is quicker alone: None as well.
        """
        with self.lock:
            self.waiting.pop(name, None)
            over = self.begun.get(name)
        if over is None:
            return None
        over.wait()
        return self.found.pop(name, None)

    def drop(self) -> None:
        """Forgets what has not begun."""
        with self.lock:
            self.waiting = {}

    def finish(self) -> None:
        """As `drop`, and waits for the thread: the interpreter must not end while XLA works on it."""
        self.drop()
        with self.lock:
            thread = self.thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self.lock:
                name = next(iter(self.waiting), None)
                if name is None:
                    self.thread = None
                    return
                work = self.waiting.pop(name)
                over = self.begun[name] = threading.Event()
            try:
                self.found[name] = work()
            except Exception:
                self.found[name] = None  # it will fail again where it is needed, and say why there
            over.set()
