"""Claims: who is at work on what, among processes on any number of machines that see one folder and may die any moment.

A claim on NAME is the last of the files NAME.1, NAME.2, … of a folder. None is ever taken away, and the system lets one
process alone make each. Its maker holds the claim while the file changes, which it does every `RENEW` seconds, until it
says there that it is released. If it has stayed the same for `LEASE` seconds, by the clock of who looks, its holder
is dead and the next file may be made. So no two clocks are compared, and nothing is locked.

The file system is asked for two things: of many machines that create a file exclusively (O_EXCL) one succeeds, and who
opens a file finds what was there when it was last closed. NFS from version 3 on, Lustre, GPFS, BeeGFS and CephFS do so;
what only looks like a file system, over a store of objects, mostly does not.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

RENEW = 5.0
"""Seconds between two signs of life."""
LEASE = 60.0
"""Seconds without one after which a holder counts as dead."""
WORKER, SAID, AT, BEAT, RELEASED = "worker", "said", "at", "beat", "released"


class Claim(NamedTuple):
    """The last claim on a name, as it was read."""

    number: int
    """From 1; 0: there is none."""
    text: str
    """What its file holds; another text is a sign of life."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the text says; empty where it is being written just now."""
        with contextlib.suppress(ValueError):
            found = json.loads(self.text)
            if isinstance(found, dict):
                return found
        return {}

    @property
    def released(self) -> str | None:
        """What its holder has said at the end; None: it is held, or its holder is dead."""
        found = self.facts.get(RELEASED)
        return found if isinstance(found, str) else None

    @property
    def is_held(self) -> bool:
        """Whether there is one, and it is not released; its holder may be dead."""
        return self.number > 0 and self.released is None

    @property
    def worker(self) -> str:
        """What its holder is called."""
        return str(self.facts.get(WORKER, "another process"))


class Seen(NamedTuple):
    """A claim, and since when it has been the same, by this process' clock."""

    claim: Claim
    since: float


def me() -> str:
    """What this process is called."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _file(folder: pathlib.Path, name: str, number: int) -> pathlib.Path:
    return folder / f"{name}.{number}"


def last(folder: pathlib.Path, name: str) -> Claim:
    """The last claim on a name. Files are asked for one by one: a listing may be an old one."""
    found = Claim(0, "")
    while True:
        try:
            text = _file(folder, name, found.number + 1).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        found = Claim(found.number + 1, text)


def looked(seen: dict[str, Seen], name: str, claim: Claim) -> bool:
    """Enters in `seen` how a claim is now; whether another may follow it: there is none, it is released, or its holder
    has shown no sign of life for `LEASE` seconds."""
    now = time.monotonic()
    if name not in seen or seen[name].claim != claim:
        seen[name] = Seen(claim, now)
    return not claim.is_held or now - seen[name].since >= LEASE


def taken(folder: pathlib.Path, name: str, before: Claim) -> int | None:
    """Makes the claim after `before`; its number, None if another process was faster."""
    number = before.number + 1
    try:
        with _file(folder, name, number).open("x", encoding="utf-8") as file:
            file.write(_text(0, ""))
    except FileExistsError:
        return None
    return number


def _text(beat: int, said: str, released: str | None = None) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return json.dumps({WORKER: me(), BEAT: beat, AT: at, SAID: said, RELEASED: released}) + "\n"


class Held:
    """A claim of this process."""

    def __init__(self) -> None:
        self.outcome = "stopped"
        """What is said when it is released."""


@contextlib.contextmanager
def held(folder: pathlib.Path, name: str, number: int, said: Callable[[], str]) -> Iterator[Held]:
    """Within the block the claim of that number, which this process has made, is renewed by a thread, with what `said`
    returns; then it is released, with `Held.outcome`. A process that finds that it was thought dead ends at once, with
    code 2: what it was at work on is another's."""
    file, following = _file(folder, name, number), _file(folder, name, number + 1)
    over, own = threading.Event(), Held()

    def renew() -> None:
        beat = 0
        while not over.wait(RENEW):
            beat += 1
            with contextlib.suppress(OSError):  # a file system that is away for a while
                if following.exists():
                    given_up(name)
                file.write_text(_text(beat, said()), encoding="utf-8")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield own
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):  # then it ends as that of a dead process
            file.write_text(_text(-1, said(), own.outcome), encoding="utf-8")


def given_up(name: str) -> None:
    """Ends the process, whatever it is doing."""
    print(
        f"error: {name}: this process showed no sign of life for {LEASE:g} s, and another one has taken the run over; "
        "allowed: the same command again, which helps with the runs that are left",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
