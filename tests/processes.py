"""The command in processes of its own, which tests signal, kill and starve.

They are forks of a server that has imported everything and started nothing: of a command's seconds most are imports.
They draw no pages (`runs.undrawn`).
"""

import ctypes
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["dass_jax.experiment.execute", "dass_jax.pipeline", "tests.processes", "tests.runs"])

Prepare = Callable[..., None]
"""Runs in the new process before the command."""


def started(argv: list[str], output: pathlib.Path, prepare: Prepare | None = None, *given: Any) -> Any:
    """The process of `python -m dass_jax.train ARGV`; what it says goes to the file `output`."""
    process = SERVER.Process(target=_child, args=(argv, output, prepare, given))
    process.start()
    return process


def _child(argv: list[str], output: pathlib.Path, prepare: Prepare | None, given: tuple[Any, ...]) -> None:
    from dass_jax import train
    from dass_jax.errors import process
    from tests.runs import undrawn

    with undrawn(), output.open("w", encoding="utf-8", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prepare is not None:
            prepare(*given)
        try:
            process(lambda: train.main(argv))
        except Exception as error:  # no Traceback, which may fill what the file can hold
            print(f"{type(error).__name__}: {error!s:.500} from {error.__cause__!r:.500}, {error.__context__!r:.500}")
            raise


def ended(process: Any) -> int:
    """The exit code, negative for a signal's, of a process that must end by itself."""
    process.join(600)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode  # type: ignore[no-any-return]  # multiprocessing has no type for a context's process


def as_host(process: int, count: int, port: int, moment: tuple[Any, ...] = ()) -> None:
    """The process is one of several, with little patience; with a `moment` it is signalled as well."""
    from dass_jax.runtime import hosts

    hosts.PATIENCE = 5
    named = {"COORDINATOR": f"127.0.0.1:{port}", "PROCESSES": count, "PROCESS": process}
    os.environ.update({f"DASS_JAX_{name}": str(value) for name, value in named.items()})
    if moment:
        signalled_at(*moment)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]  # type: ignore[no-any-return]  # an address has any type


def signalled_at(kind: str, number: int, nth: int, seed: int, most: float) -> None:
    """The process gets a signal up to `most` seconds after the nth event of a kind has begun."""
    from dass_jax import runner
    from dass_jax.runtime import calls, checkpoint, keeping, parallel, soundness

    places: dict[str, tuple[Any, str]] = {
        "compilation": (parallel, "program"),
        "call": (soundness, "first"),  # is asked after each
        "checkpoint": (checkpoint, "save"),
        "pause": (keeping, "pause"),
        "evaluation": (calls, "evaluate"),
        "phase": (runner.run, "run_phase"),
    }
    module, name = places[kind]
    original, delay, seen = getattr(module, name), random.Random(seed).random() * most, []

    def strike() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), number)

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == nth and most:
            threading.Thread(target=strike, daemon=True).start()
        elif len(seen) == nth:
            strike()  # here and now, however busy the machine is
        return original(*arguments, **named)

    setattr(module, name, watched)


def starved_at(kind: str, nth: int, folder: pathlib.Path) -> None:
    """From the nth checkpoint on the disk is "full" (no file grows beyond 2 KiB) or "read-only"."""
    import jax

    from dass_jax.runtime import checkpoint

    save, seen = checkpoint.save, []

    def watched(*arguments: Any) -> None:
        seen.append(1)
        if len(seen) == nth:
            arguments[0].wait_until_finished()  # the checkpoint before, which is written in the background
        if len(seen) == nth and kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
            # The limit is the process's, not the disk's: what it compiles now would be cut off in other tests' cache.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
        elif len(seen) == nth:
            _without_privileges()
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
        save(*arguments)

    checkpoint.save = watched


def _without_privileges() -> None:
    """Root is bound by the modes of files from here on, as everyone else is."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and libc.capget(header, sets) == 0:
        sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those in effect
        assert libc.capset(header, sets) == 0
