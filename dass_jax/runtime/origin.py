"""RUN/data.json: what a run knows of its data (`data.record`), and where they lay, seen from its folder."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from dass_jax.data import identity, record
from dass_jax.data.record import Record
from dass_jax.errors import UserError
from dass_jax.runtime import folder

FILE = "data.json"
ACCEPT = "--data.accept-changed"
WENT_ON = "went on"


class Origin(NamedTuple):
    """What the file holds."""

    record: Record
    beside: str
    """The relative path of the data from the run's folder; empty where there is none."""


def read(run: pathlib.Path) -> Origin | None:
    """None where there is no such file: the run is an old one, or has not begun. Raises UserError if it is damaged."""
    file = run / FILE
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read: {error}; allowed: what a run wrote") from error
    beside = data.get("beside") if isinstance(data, dict) else None
    return Origin(record.from_json(data, repr(str(file))), beside if isinstance(beside, str) else "")


def write(run: pathlib.Path, found: Record) -> None:
    """Writes the file whole or not at all."""
    folder.write_json(run / FILE, {**record.to_json(found), "beside": beside(run, found.place)})


def beside(run: pathlib.Path, place: str) -> str:
    """A path from the run's folder; empty where there is none."""
    try:
        return os.path.relpath(place, os.path.abspath(run)) if place else ""
    except ValueError:  # on another drive
        return ""


def changes(before: Record, now: Record) -> list[str]:
    """What differs of the data themselves, each from what to what."""
    return identity.changes(before.fingerprint, now.fingerprint)


def accepted(before: Record, now: Record, accept: bool, what: str, over: bool) -> Record:
    """The record of a run that resumes, or is asked for again, with the data as they are now.

    Args:
      before, now: what is known of its data, and what they are.
      accept: whether changed data may be.
      what: whose data, to begin the message with.
      over: whether the run is finished: its results stay those of the data before.

    Raises:
      UserError: if they have changed, and may not; or make another network necessary.
    """
    found = changes(before, now)
    if not found:
        return before
    said = f"{what} has other data than it began with: {'; '.join(found)}"
    one, other = before.fingerprint, now.fingerprint
    if not over and (one.shape, len(one.classes)) != (other.shape, len(other.classes)):
        raise UserError(f"{said}; allowed: the data as they were, or another --workdir, as the network is another one")
    if not accept:
        raise UserError(f"{said}; allowed: the data as they were, another --workdir, or {ACCEPT}")
    entry = f"{'asked for again' if over else WENT_ON} with other data: {'; '.join(found)}"
    entries = before.accepted if entry in before.accepted else (*before.accepted, entry)
    if over:
        return before._replace(accepted=entries)
    return before._replace(said=now.said, place=now.place, fingerprint=other, accepted=entries)


def has_mixed(found: Record) -> bool:
    """Whether a run has been trained on more than one data set."""
    return any(entry.startswith(WENT_ON) for entry in found.accepted)


def to_json(found: Record | None) -> Any:
    """Plain data; None: nothing is known."""
    return None if found is None else record.to_json(found)


def from_json(data: Any, where: str) -> Record | None:
    """What `to_json` gave. Raises UserError, naming `where`, for anything else."""
    return None if data is None else record.from_json(data, where)
