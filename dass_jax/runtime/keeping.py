"""What a run keeps in its folder while it goes on: lines of metrics, events, checkpoints, pauses, networks.

Of several processes the first one does it for all: in the others None takes the place of the `Keeper`.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorboardX

from dass_jax.runtime import checkpoint, folder, hosts, networks, pauses
from dass_jax.runtime.calls import Done

PAUSES = "pauses"


class Keeper(NamedTuple):
    """The open files of a run's folder."""

    path: pathlib.Path
    checkpoints: Any
    """`checkpoint.manager`"""
    events: Any
    """`tensorboardX.SummaryWriter`"""


@contextlib.contextmanager
def opened(path: pathlib.Path, keep: int) -> Iterator[tuple[Keeper | None, pauses.Found]]:
    """(keeper, where the run goes on) of the folder `path`, in which the newest `keep` checkpoints stay. What was
    written after the place at which the run goes on is dropped; at the block's end everything is on the disk.

    Raises:
      UserError: in all processes, if there are checkpoints and none can be read.
    """
    if not hosts.first():
        yield None, _of_all(lambda: pauses.Found(None, []))
        return
    checkpoints = checkpoint.manager(path / "checkpoints", keep)
    try:
        found = _of_all(lambda: pauses.newest(path / PAUSES, checkpoints))
        facts = found.newest.facts if found.newest else {"step": 0, "metrics_bytes": 0}
        folder.cut_metrics(path / "metrics.jsonl", facts["metrics_bytes"])
        events = tensorboardX.SummaryWriter(str(path / "events"), purge_step=facts["step"] + 1)
        with contextlib.closing(events):
            yield Keeper(path, checkpoints, events), found
    finally:
        checkpoints.wait_until_finished()
        checkpoints.close()


def _of_all(found: Callable[[], pauses.Found]) -> pauses.Found:
    """What the first process has found."""
    return hosts.told(found, pauses.packed, pauses.unpacked)


def line(k: Keeper | None, record: dict[str, Any], step: int) -> int:
    """Metrics and events of one epoch of one seed; the metrics' size in bytes after it."""
    if k is None:
        return 0
    whose = f"/seed {record['seed']}" if "seed" in record else ""
    for name, value in record.items():
        if isinstance(value, float):
            k.events.add_scalar(f"{record['method']}{whose}/{record['stage']}/{name}", value, step)
    return folder.append_metrics(k.path / "metrics.jsonl", record)


def state(k: Keeper | None, state: Any, facts: dict[str, Any]) -> None:
    """A checkpoint, written in the background, of a state and of what is known beside it."""
    if k is not None:
        checkpoint.save(k.checkpoints, facts["step"], state, facts)


def pause(k: Keeper | None, state: Any, done: Done, facts: dict[str, Any]) -> None:
    """A pause, after all checkpoints that are under way."""
    if k is not None:
        k.checkpoints.wait_until_finished()
        pauses.save(k.path / PAUSES, state, done, facts)


def network(k: Keeper | None, network: networks.Network) -> None:
    """A trained network."""
    if k is not None:
        networks.save(k.path, network)


def facts(k: Keeper | None, name: str, data: Any) -> None:
    """A file of JSON."""
    if k is not None:
        folder.write_json(k.path / name, data)


def finish(k: Keeper | None, results: Any) -> None:
    """The run's results; its pauses are then of no more use."""
    facts(k, "results.json", results)
    if k is not None:
        pauses.clear(k.path / PAUSES)
