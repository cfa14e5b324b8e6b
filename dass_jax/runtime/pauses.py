"""A pause: the state in the middle of an epoch, with what its steps have seen so far.

Pauses have a folder of their own beside the checkpoints, in which the newest two stay; the next run goes on from one if
no checkpoint is newer. They are made after a signal to stop, after a step that is not finite, and every few minutes of
an epoch that takes longer.
"""

import json
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from dass_jax.errors import UserError
from dass_jax.runtime import checkpoint
from dass_jax.runtime.calls import Done


class Found(NamedTuple):
    """Where a run goes on: the newest of checkpoints and pauses, and what there is to say about damaged ones."""

    newest: checkpoint.Checkpoint | None
    said: list[str]


def save(folder: pathlib.Path, state: Any, done: Done, facts: dict[str, Any]) -> None:
    """Writes a pause and waits until it is there."""
    at = {**facts["at"], "step": done.steps, "seconds": done.seconds}
    with checkpoint.manager(folder, keep=2) as manager:
        number = (manager.latest_step() or 0) + 1
        checkpoint.save(manager, number, {"state": state, "infos": list(done.infos)}, {**facts, "at": at})


def newest(folder: pathlib.Path, checkpoints: Any) -> Found:
    """The place from which a run goes on; what is newer and damaged is removed, what is older than it of no more use.

    Raises:
      UserError: if there are checkpoints and none can be read.
    """
    found, said = checkpoint.newest(checkpoints), list[str]()
    if found is not None:
        said += [f"{skipped}: going back to checkpoint {found.step}" for skipped in found.skipped]
        for step in [step for step in checkpoints.all_steps() if step > found.step]:
            checkpoints.delete(step)
    if not folder.exists():
        return Found(found, said)
    try:
        with checkpoint.manager(folder, keep=2) as manager:
            pause = checkpoint.newest(manager)
    except UserError as error:
        said.append(f"{str(error).partition(';')[0]}: going back to the last epoch's checkpoint")
        clear(folder)
        return Found(found, said)
    if pause is None or (found is not None and pause.facts["step"] < found.facts["step"]):
        clear(folder)
        return Found(found, said)
    said += [f"pause: {skipped}: going back to the one before" for skipped in pause.skipped]
    return Found(pause, said)


def packed(found: Found) -> bytes:
    """`found` as bytes, for other processes."""
    own = b"" if found.newest is None else checkpoint.packed(found.newest)
    said = json.dumps(found.said).encode()
    return len(said).to_bytes(8) + said + own


def unpacked(data: bytes) -> Found:
    """What was packed."""
    end = 8 + int.from_bytes(data[:8])
    own = data[end:]
    return Found(checkpoint.unpacked(own) if own else None, json.loads(data[8:end]))


def clear(folder: pathlib.Path) -> None:
    """Removes all pauses: they are of no more use."""
    shutil.rmtree(folder, ignore_errors=True)


def opened(found: checkpoint.Checkpoint) -> tuple[dict[str, Any], Done]:
    """(leaves of the state, how far the epoch had come) of a checkpoint or a pause."""
    at = found.facts["at"]
    if "step" not in at:
        return found.leaves, Done()
    own = {path.removeprefix("['state']"): leaf for path, leaf in found.leaves.items() if path.startswith("['state']")}
    numbered = {
        int(match[1]): leaf
        for path, leaf in found.leaves.items()
        if (match := re.fullmatch(r"\['infos'\]\[(\d+)\]", path))
    }
    return own, Done(at["step"], tuple(numbered[n] for n in sorted(numbered)), at["seconds"])
