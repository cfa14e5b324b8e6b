"""Checkpoints by orbax: the state of a run after an epoch, and where in the run it stands.

The leaves of a state go into one array of bytes; their paths, shapes, types and a checksum go into the JSON beside it.
One array is written eight times faster than a hundred small ones, and a checkpoint says itself what it holds: no
template of the state is needed to read it, and a damaged one is known by its checksum.
"""

import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from dass_jax.errors import UserError


class Checkpoint(NamedTuple):
    """`leaves`: path → array; `facts`: JSON-able; `skipped`: newer checkpoints that could not be read, and why."""

    step: int
    leaves: dict[str, np.ndarray]
    facts: dict[str, Any]
    skipped: tuple[str, ...]


def manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    """The manager of a folder of checkpoints, of which the newest `keep` stay; it writes in the background."""
    # orbax reports every save, and with a traceback each that fails. The next call raises that error again, and what a
    # user must know is said by the progress lines and by the one line of an error.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=False, cleanup_tmp_directories=True, multiprocessing_options=_alone()
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _alone() -> ocp.options.MultiprocessingOptions:
    """This process neither asks nor waits for others."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def reader(folder: pathlib.Path) -> ocp.CheckpointManager:
    """A manager that changes nothing in the folder, which may be that of a run in progress."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(read_only=True, create=False))


def leaves_of(state: Any) -> dict[str, np.ndarray]:
    """Path → NumPy array for every leaf of a pytree."""
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def save(to: ocp.CheckpointManager, step: int, state: Any, facts: dict[str, Any]) -> None:
    """Writes a checkpoint, in the background, of `state` and `facts` as they are now."""
    facts = json.loads(json.dumps(facts))
    data, layout = _pack(leaves_of(state))
    header = {"facts": facts, "layout": layout, "sha256": _digest(data, facts)}
    to.save(
        step, args=ocp.args.Composite(state=ocp.args.StandardSave({"bytes": data}), header=ocp.args.JsonSave(header))
    )


def _digest(data: np.ndarray, facts: dict[str, Any]) -> str:
    return hashlib.sha256(data.tobytes() + json.dumps(facts, sort_keys=True).encode()).hexdigest()


def newest(source: ocp.CheckpointManager) -> Checkpoint | None:
    """The newest readable checkpoint, None if there is none at all.

    Raises:
      UserError: if there are checkpoints and none can be read.
    """
    skipped: list[str] = []
    for step in sorted(source.all_steps(), reverse=True):
        # Whatever a damaged file makes orbax raise, the answer is the same: take the one before and say so.
        try:
            return Checkpoint(step, *_read(source, step), tuple(skipped))
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            skipped.append(f"checkpoint {step} is damaged ({type(error).__name__}: {reason})")
    if skipped:
        raise UserError(
            f"checkpoints in {source.directory}: none of {len(skipped)} can be read, the newest: {skipped[0]}; "
            "allowed: an intact one, or another --workdir"
        )
    return None


def at(source: ocp.CheckpointManager, step: int) -> Checkpoint:
    """The checkpoint of that number.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    steps = sorted(source.all_steps())
    if step not in steps:
        there = f"allowed: {', '.join(map(str, steps))}" if steps else "allowed: a folder with checkpoints"
        raise UserError(f"there is no checkpoint {step} in {source.directory}; {there}")
    try:
        return Checkpoint(step, *_read(source, step), ())
    except Exception as error:  # as in `newest`
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"checkpoint {step} in {source.directory} is damaged ({type(error).__name__}: {reason}); "
            "allowed: an intact one"
        ) from error


def _read(source: ocp.CheckpointManager, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(), header=ocp.args.JsonRestore())
    found = source.restore(step, args=arguments)
    data, header = np.asarray(found.state["bytes"]), found.header
    if _digest(data, header["facts"]) != header["sha256"]:
        raise ValueError("its checksum is wrong")
    return dict(_unpack(data.tobytes(), header["layout"])), header["facts"]


def packed(found: Checkpoint) -> bytes:
    """A checkpoint as bytes, for other processes."""
    data, layout = _pack(found.leaves)
    header = json.dumps([found.step, layout, found.facts, found.skipped]).encode()
    return len(header).to_bytes(8) + header + data.tobytes()


def unpacked(data: bytes) -> Checkpoint:
    """What was packed."""
    end = 8 + int.from_bytes(data[:8])
    step, layout, facts, skipped = json.loads(data[8:end])
    return Checkpoint(step, dict(_unpack(data[end:], layout)), facts, tuple(skipped))


def _pack(leaves: dict[str, np.ndarray]) -> tuple[np.ndarray, list[Any]]:
    """(the bytes of all leaves, uint8; path, shape and dtype of each)."""
    data = np.frombuffer(b"".join(np.ascontiguousarray(x).tobytes() for x in leaves.values()), np.uint8)
    return data, [[path, list(x.shape), str(x.dtype)] for path, x in leaves.items()]


def _unpack(data: bytes, layout: list[Any]) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for path, shape, dtype in layout:
        count = int(np.prod(shape, dtype=np.int64))
        leaf = np.frombuffer(data, dtype, count, start).reshape(shape)
        start += leaf.nbytes
        yield path, leaf


def restore(template: Any, leaves: dict[str, np.ndarray]) -> Any:
    """`template` (arrays or shapes) filled with `leaves`.

    Raises:
      ValueError: if a leaf is missing, is left over, or has another shape.
    """
    paths = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(template)]
    wrong = {path for path, _ in paths} ^ set(leaves)
    wrong |= {path for path, leaf in paths if path in leaves and leaves[path].shape != leaf.shape}
    if wrong:
        raise ValueError(f"checkpoint and program disagree on {sorted(wrong)[:3]}")
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[path] for path, _ in paths])
