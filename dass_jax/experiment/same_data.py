"""Whether the runs that an experiment averages have read one data set, and still do."""

import json
import pathlib
from typing import Any

from dass_jax import compose, train
from dass_jax.data.identity import Fingerprint, changes
from dass_jax.errors import UserError
from dass_jax.experiment.plan import Plan, Planned
from dass_jax.runtime import origin
from dass_jax.runtime.progress import Progress

ALLOWED = "allowed: the data as they were, or another --out (what is averaged is of one data set)"


def check(plan: Plan, path: pathlib.Path, progress: Progress) -> None:
    """Compares what the runs in the folder `path` began with, and what they would begin with now.

    Raises:
      UserError: if a run has other data than it began with, or than those that it is averaged with.
    """
    seen: dict[str, Fingerprint | None] = {}
    first: dict[Any, tuple[str, Fingerprint]] = {}
    unknown = []
    for run in plan.runs:
        own = path / "runs" / run.name
        known = origin.read(own)
        if known is None and (own / "results.json").exists():
            unknown.append(run.name)
        told = [("", known.record.fingerprint)] if known else []
        if known and origin.has_mixed(known.record):
            raise UserError(f"run {run.name} has been trained on two data sets: {known.record.accepted[0]}; {ALLOWED}")
        now = _now(run, own, seen)
        told += [(" now", now)] if now else []
        for when, found in told:
            averaged = run.network, run.config.method.name, run.keep
            name, other = first.setdefault(averaged, (run.name, found))
            differing = changes(other, found)
            if differing:
                whose = "it began with" if name == run.name else f"{name}, with which it is averaged"
                raise UserError(f"run {run.name} has{when} other data than {whose}: {'; '.join(differing)}; {ALLOWED}")
    if unknown:
        progress.say(f"which data {len(unknown)} finished runs were trained on is not known, e.g. {unknown[0]}")


def _now(run: Planned, own: pathlib.Path, seen: dict[str, Fingerprint | None]) -> Fingerprint | None:
    """Which data a run would read; None if they cannot be read, which the run itself will say."""
    config = train.where_data_lie(run.config, own)
    key = json.dumps([vars(config.data), config.seed if config.data.limit else 0], sort_keys=True)
    if key not in seen:
        try:
            seen[key] = compose.fingerprint(config)
        except UserError:
            seen[key] = None
    return seen[key]
