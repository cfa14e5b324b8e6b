"""What several runs have in common is done once: the end of a chain's first phase, kept for the runs that come after.

A place on the shelf is a folder whose name says everything that the phase's end depends on. It holds one checkpoint in
the format of a run's own, with the phase's lines of metrics among its facts. Who takes it continues bit-identical
to one that did the phase itself.
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from dass_jax.errors import UserError
from dass_jax.phases import Phase
from dass_jax.runtime import checkpoint

Shelf = Callable[[str, str, Phase, Any], pathlib.Path]
"""(method, chain, phase, architecture or None in a search) → the place of the phase's end."""


def take(place: pathlib.Path) -> checkpoint.Checkpoint | None:
    """What lies there; None if there is nothing, or nothing that can be read, which is then cleared away."""
    if not place.exists():
        return None
    with checkpoint.reader(place) as reader:
        try:
            found = checkpoint.newest(reader)
        except UserError:
            found = None
    if found is None:
        shutil.rmtree(place, ignore_errors=True)
    return found


def put(place: pathlib.Path, state: Any, facts: dict[str, Any], own: pathlib.Path) -> None:
    """Lays down a phase's end, whole or not at all; what lies there already stays, also if another process was faster.

    Args:
      own: a folder of this process' alone, on the same file system.
    """
    if take(place) is not None:
        return
    made = own / "shared"  # what a process that was killed has left there is in the way of nobody
    shutil.rmtree(made, ignore_errors=True)
    with checkpoint.manager(made, keep=1) as manager:
        checkpoint.save(manager, 1, {"state": state, "infos": []}, facts)
        manager.wait_until_finished()
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(place)
    except OSError:
        if not place.exists():
            raise
        shutil.rmtree(made)


def facts(run: pathlib.Path, method: str, chain: str, phase: str, evaluations: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a phase beside its state: its lines of metrics, the evaluations at its end, whose it is."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    own = [line for line in lines if (line["method"], line["chain"], line["phase"]) == (method, chain, phase)]
    return {"lines": own, "evaluations": evaluations, "origin": run.name}
