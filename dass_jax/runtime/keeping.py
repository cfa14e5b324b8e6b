"""What a run keeps in its folder: lines of metrics, events, checkpoints, networks.

A checkpoint holds the state after an epoch or, as a pause, in the middle of one, with what its steps have seen so far;
its facts say which. The newest readable one is the place from which the next run resumes. Of several processes the
first one keeps for all: in the others None takes the place of the `Keeper`.
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorboardX
from tensorboardX.summary import hparams as hparams_summary

from dass_jax.runtime import checkpoint, folder, hosts, networks, shown
from dass_jax.runtime.calls import Done

NOTHING: dict[str, Any] = {"saved": 0, "metrics_bytes": 0, "epochs": {}, "methods": {}, "current": {}, "declared": {}}
"""The facts of a run that has not begun."""


class Keeper(NamedTuple):
    """The open files of a run's folder."""

    path: pathlib.Path
    checkpoints: Any
    """`checkpoint.manager`"""
    writers: dict[str, Any]
    """Event folder → `tensorboardX.SummaryWriter`."""
    epochs: dict[str, int]
    """Event folder → epochs done where the run resumes: what was written after them is dropped."""


class Found(NamedTuple):
    """Where a run resumes, and what there is to say about checkpoints that are damaged."""

    newest: checkpoint.Checkpoint | None
    said: list[str]


@contextlib.contextmanager
def opened(path: pathlib.Path, keep: int) -> Iterator[tuple[Keeper | None, Found]]:
    """(keeper, where the run resumes) of the folder `path`, in which the newest `keep` checkpoints stay. What was
    written after the place at which the run resumes is dropped; at the block's end everything is on the disk.

    Raises:
      UserError: in all processes, if there are checkpoints and none can be read.
    """
    if not hosts.first():
        yield None, _of_all(lambda: Found(None, []))
        return
    checkpoints = checkpoint.manager(path / "checkpoints", keep)
    writers: dict[str, Any] = {}
    try:
        found = _of_all(lambda: newest(checkpoints))
        facts = found.newest.facts if found.newest else NOTHING
        folder.cut_metrics(path / "metrics.jsonl", facts["metrics_bytes"])
        yield Keeper(path, checkpoints, writers, dict(facts["epochs"])), found
    finally:
        for writer in writers.values():
            writer.close()
        checkpoints.wait_until_finished()
        checkpoints.close()


def newest(checkpoints: Any) -> Found:
    """The newest checkpoint that can be read; what is newer and damaged is removed."""
    found = checkpoint.newest(checkpoints)
    if found is None:
        return Found(None, [])
    for step in [step for step in checkpoints.all_steps() if step > found.step]:
        checkpoints.delete(step)
    return Found(found, [f"{skipped}: going back to checkpoint {found.step}" for skipped in found.skipped])


def _of_all(found: Callable[[], Found]) -> Found:
    """What the first process has found."""

    def packed(found: Found) -> bytes:
        own = b"" if found.newest is None else checkpoint.packed(found.newest)
        said = json.dumps(found.said).encode()
        return len(said).to_bytes(8) + said + own

    def unpacked(data: bytes) -> Found:
        end = 8 + int.from_bytes(data[:8])
        own = data[end:]
        return Found(checkpoint.unpacked(own) if own else None, json.loads(data[8:end]))

    return hosts.told(found, packed, unpacked)


def state_of(found: checkpoint.Checkpoint) -> tuple[dict[str, Any], Done]:
    """(leaves of the state, how far the epoch had come) of a checkpoint."""
    at = found.facts.get("at", {})
    start = "['state']"
    own = {path.removeprefix(start): leaf for path, leaf in found.leaves.items() if path.startswith(start)}
    numbered = {
        int(match[1]): leaf
        for path, leaf in found.leaves.items()
        if (match := re.fullmatch(r"\['infos'\]\[(\d+)\]", path))
    }
    infos = tuple(numbered[n] for n in sorted(numbered))
    return own, Done(at["step"], infos, at["seconds"]) if "step" in at else Done()


def line(k: Keeper | None, record: dict[str, Any], epoch: int) -> int:
    """Metrics and events of one epoch of one seed; the metrics' size in bytes after it.

    Args:
      epoch: of the method, over all of its phases.
    """
    if k is None:
        return 0
    writer = _writer(k, event_folder(record["method"], record.get("seed")))
    for name, value in record.items():
        if isinstance(value, float):
            writer.add_scalar(f"{record['phase']}/{name}", value, epoch)
    return folder.append_metrics(k.path / "metrics.jsonl", record)


def event_folder(method: str, seed: int | None) -> str:
    """Under which name TensorBoard shows a method: beside, and over, all others."""
    return method if seed is None else f"{method}-seed{seed}"


def _writer(k: Keeper, name: str) -> Any:
    if name not in k.writers:
        purge = k.epochs.get(name, 0) + 1
        # A file's name has the second in which it is opened: what resumes within it must not write over what was there.
        k.writers[name] = tensorboardX.SummaryWriter(
            str(k.path / "events" / name), purge_step=purge, filename_suffix=f".{purge}"
        )
    return k.writers[name]


def hparams(k: Keeper | None, method: str, seed: int | None, given: dict[str, Any], figures: dict[str, float]) -> None:
    """A method's configuration and results, for TensorBoard's table of runs."""
    if k is None:
        return
    plain = {name: value for name, value in given.items() if isinstance(value, bool | int | float | str)}
    # The table finds its figures by their tags, and a tag has no spaces.
    tagged = {f"result/{re.sub('[^-.A-Za-z0-9]', '_', name)}": value for name, value in figures.items()}
    writer = _writer(k, event_folder(method, seed))
    for summary in hparams_summary(plain, tagged):
        writer.file_writer.add_summary(summary)
    for tag, value in tagged.items():
        writer.add_scalar(tag, value, 0)


def state(k: Keeper | None, state: Any, facts: dict[str, Any]) -> None:
    """A checkpoint, written in the background, of a state and of what is known beside it."""
    if k is not None:
        checkpoint.save(k.checkpoints, facts["saved"], {"state": state, "infos": []}, facts)


def pause(k: Keeper | None, state: Any, done: Done, facts: dict[str, Any]) -> None:
    """A checkpoint in the middle of an epoch; it is there when this returns."""
    if k is not None:
        at = {**facts["at"], "step": done.steps, "seconds": done.seconds}
        checkpoint.save(k.checkpoints, facts["saved"], {"state": state, "infos": list(done.infos)}, {**facts, "at": at})
        k.checkpoints.wait_until_finished()


def network(k: Keeper | None, network: networks.Network) -> None:
    """A trained network."""
    if k is not None:
        networks.save(k.path, network)


def pictures(k: Keeper | None, method: str, seed: int, found: shown.Shown | None) -> None:
    """What a trained network predicts of a few images, if there is anything."""
    if k is not None and found is not None:
        shown.save(k.path, method, seed, found)


def file(k: Keeper | None, name: str, data: Any) -> None:
    """A file of JSON."""
    if k is not None:
        folder.write_json(k.path / name, data)
