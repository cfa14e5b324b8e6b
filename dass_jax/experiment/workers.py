"""Which run of an experiment a process does next, where any number of processes do its runs (`runtime.claims`)."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence

from dass_jax import config
from dass_jax.errors import number_of
from dass_jax.experiment import features
from dass_jax.experiment.plan import Plan, Planned, Report
from dass_jax.runtime import claims
from dass_jax.runtime.progress import Progress

CLAIMS = "claims"
"""The folder of claims in an experiment's."""
FINISHED, FAILED = "finished", "failed"
"""With what a run is released."""
POLL = 2.0
"""Seconds between two looks at runs that are in other hands."""
SPEAK = 60.0
"""Seconds between two times that these are named."""


@dataclasses.dataclass
class Queue:
    """The runs that are left, as this process knows them."""

    path: pathlib.Path
    """The experiment's folder."""
    report: Report
    left: dict[str, Planned]
    before: dict[str, claims.Claim]
    """The last claims when the process began: what others end later need not be tried by this one."""
    seen: dict[str, claims.Seen]
    spoken: float
    """When the others were last named, by this process' clock."""


def queue(plan: Plan, path: pathlib.Path) -> Queue:
    """All runs that are not over."""
    # In this order: a run that another process ends in between has another claim then.
    before = {run.name: claims.last(path / CLAIMS, run.name) for run in plan.runs}
    left = {run.name: run for run in plan.runs if not is_over(run, plan.report, path)}
    return Queue(path, plan.report, left, before, {}, time.monotonic())


def is_over(run: Planned, report: Report, path: pathlib.Path) -> bool:
    """Whether the experiment in `path` has all that it wants of a run."""
    own = path / "runs" / run.name
    return (own / "results.json").exists() and features.is_complete(run, report, own)


def taken(q: Queue, progress: Progress) -> tuple[Planned, int] | None:
    """The next run that is free, with the number of this process' claim on it. None if there was none: then some
    seconds have passed. What others have done meanwhile is no longer left."""
    free, held = list[tuple[Planned, claims.Claim]](), list[Planned]()
    for run in list(q.left.values()):
        claim = claims.last(q.path / CLAIMS, run.name)
        if claim != q.before[run.name] and claim.released in (FINISHED, FAILED):
            del q.left[run.name]
        elif claims.looked(q.seen, run.name, claim):
            free.append((run, claim))
        else:
            held.append(run)
    # What runs have in common is done once only if it is not done at the same time.
    others = set(map(_alike, held))
    for run, claim in sorted(free, key=lambda one: _alike(one[0]) in others):
        number = claims.taken(q.path / CLAIMS, run.name, claim)
        if number is not None:
            if claim.is_held:
                progress.say(f"{run.name}: no sign of life of {claim.worker} for {claims.LEASE:g} s; taken over")
            return run, number
    if held and not free:
        if time.monotonic() - q.spoken >= SPEAK:
            name_others(q, progress)
        time.sleep(POLL)
    return None


def _alike(run: Planned) -> str:
    """Equal for runs that may have phases in common."""
    return json.dumps([item for item in config.flatten(run.config).items() if not item[0].startswith("sparsity.")])


def name_others(q: Queue, progress: Progress) -> None:
    """Says who is at work on what is left."""
    for line in lines(q.path, q.left.values()):
        progress.say(line)
    q.spoken = time.monotonic()


def lines(path: pathlib.Path, runs: Iterable[Planned]) -> Iterator[str]:
    """A line for each run of the experiment in `path` that a process is at work on, with what that has said last."""
    for run in runs:
        claim = claims.last(path / CLAIMS, run.name)
        if claim.is_held:
            facts = claim.facts
            yield f"{claim.worker}, {facts.get(claims.AT, '')}: {run.name}: {facts.get(claims.SAID, '')}"


def state(plan: Plan, path: pathlib.Path) -> Sequence[str]:
    """How far the experiment in `path` has come, and a line for each process at work."""
    over = sum(is_over(run, plan.report, path) for run in plan.runs)
    return [f"{number_of(len(plan.runs), 'run')}, {over} of them finished", *lines(path, plan.runs)]
