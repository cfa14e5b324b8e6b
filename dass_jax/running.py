"""A run in progress: its handles, and what all of its parts do with them."""

import pathlib
import time
from typing import Any, NamedTuple

from dass_jax import bilevel, feed
from dass_jax.architectures import darts as genotype
from dass_jax.compose import Setting
from dass_jax.runtime import checkpoint, keeping, memory, parallel, seeds, shelf, steps
from dass_jax.runtime.calls import Done
from dass_jax.runtime.keeping import Keeper
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from dass_jax.runtime.stage import Stage

CLOCKS = ("compile", "search", "pretrain", "prune", "finetune")


class Run(NamedTuple):
    """The handles of a run. `facts` is what a checkpoint says beside the arrays: everything found out so far."""

    setting: Setting
    progress: Progress
    signals: Signals
    keeper: Keeper | None
    """None: another process keeps what is to be kept."""
    facts: dict[str, Any]
    programs: dict[str, Any]
    feed: feed.Feed
    resumed: list[checkpoint.Checkpoint]
    """The checkpoint or pause to go on from; taken out by the stage that it belongs to."""
    shared: shelf.Shelf | None = None
    """Where runs that have stages in common find and leave them."""


def known_of(r: Run) -> list[dict[str, Any]]:
    """What is known so far of the current method, for each seed: seconds, genotype, accuracies, results."""
    current = r.facts["current"]
    return [current.setdefault(str(seed), {"seconds": dict.fromkeys(CLOCKS, 0.0)}) for seed in r.setting.seeds]


def spend(r: Run, clock: str, seconds: float) -> float:
    """Enters seconds under the clock, each seed's share of them, which is returned."""
    share = seconds / len(r.setting.seeds)
    for one in known_of(r):
        one["seconds"][clock] += share
    return share


def place_of(r: Run, method: str, stage: Stage, found: genotype.Genotype | None = None) -> pathlib.Path | None:
    """Where the end of a chain's first stage is shared with other runs; a batch of seeds shares nothing."""
    return r.shared(method, stage.name, found) if r.shared and len(r.setting.seeds) == 1 else None


def watch(r: Run) -> steps.Watch:
    """What is looked for between two calls."""
    c = r.setting.config.runtime

    def pause(state: bilevel.State, done: Done) -> None:
        keeping.pause(r.keeper, state, done, r.facts)

    skip = c.nonfinite == "skip"
    return steps.Watch(r.signals, c.call_seconds, c.checkpoint_minutes, skip, pause, r.setting.layout.get)


def label_of(r: Run, method: str, stage: Stage) -> str:
    """What a user calls a stage: with the seeds, when the run has several."""
    return " · ".join([method, stage.name, *([seeds.named(r.setting.seeds)] if r.setting.config.seeds > 1 else [])])


def keep_record(r: Run, chain: str, record: dict[str, Any], state: bilevel.State | None) -> None:
    """Metrics, event file and, where there is a state, checkpoint of one epoch of one seed."""
    r.facts["step"] += 1
    r.facts["metrics_bytes"] = keeping.line(r.keeper, record, r.facts["step"])
    at = {name: record[name] for name in ("method", "stage", "epoch", "stopped") if name in record}
    r.facts["at"] = {**at, "chain": chain, "seeds": list(r.setting.seeds)}
    if state is not None:
        keeping.state(r.keeper, state, r.facts)


def compiled(
    r: Run,
    label: str,
    section: str,
    name: str,
    function: Any,
    arguments: tuple[Any, ...],
    donate: bool,
) -> Any:
    """The program of that name for as many seeds as there are, compiled at its first use; raises UserError if it does
    not fit into memory. `section` of the configuration says its batch."""
    name = f"{name}, {len(r.setting.seeds)} seeds"
    if name not in r.programs:
        start = time.monotonic()
        with r.progress.busy(f"compiling {label}"):
            r.programs[name] = r.signals.waiting(lambda: r.setting.layout.program(function, arguments, donate))
        spend(r, "compile", time.monotonic() - start)
        if r.setting.config.runtime.memory_check:
            check_memory(r, label, section, r.programs[name], arguments)
    return r.programs[name]


def check_memory(r: Run, label: str, section: str, program: Any, arguments: tuple[Any, ...]) -> None:
    """Raises UserError if a program does not fit into memory, where that is known."""
    devices, part = r.setting.devices, getattr(r.setting.config, section)
    batch = memory.Batch(section, part.batch_size, part.accumulate, part.remat if section == "search" else None)
    own = parallel.own_devices(devices)
    need, free = memory.needed(program), memory.available(own)
    there = None if free is None else free + memory.held(arguments, own)
    memory.check(label, need, there, batch, r.setting.sharing)
