"""Programs compiled before they are needed, on a thread beside the run.

XLA's compiler for a CPU works on one core most of the time, and an accelerator idles while it works. What is compiled
here is what would be compiled later: only the waiting is shorter.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax


class Ahead:
    """Works that are done one after another on a thread."""

    def __init__(self, works: Mapping[str, Callable[[], Any]] = {}) -> None:
        self.found: dict[str, Any] = {}
        self.over = {name: threading.Event() for name in works}
        wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # jax makes the attribute when it is imported

        def run() -> None:
            with jax.enable_x64(wide):  # which each thread has for itself
                for name, work in works.items():
                    try:
                        self.found[name] = work()
                    except Exception:
                        self.found[name] = None  # it will fail again where it is needed, and say why there
                    self.over[name].set()

        self.thread = threading.Thread(target=run, daemon=True)
        if works:
            self.thread.start()

    def finish(self) -> None:
        """Waits for the thread: the interpreter must not end while XLA works on it."""
        if self.over:
            self.thread.join()

    def get(self, name: str) -> Any:
        """What the work of that name made, for which it waits; None if there is no such work, or it has failed."""
        if name not in self.over:
            return None
        self.over[name].wait()
        return self.found[name]
