"""A run, read from top to bottom: each method's search, its network's training, pruning and fine-tuning, the results.

Every epoch ends with a line of metrics and a checkpoint, which holds where the run stands; a run that is started again
goes on from there and ends with the same bits. Several seeds search as one batch; what they found is then trained in
one batch for each different genotype.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import tensorboardX

from dass_jax import bilevel, build, feed, genotype, results
from dass_jax.build import Setting
from dass_jax.config import title
from dass_jax.methods import random
from dass_jax.runtime import checkpoint, folder, loop, memory, parallel, records, seeds, shelf
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.stage import Stage
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

CLOCKS = ("compile", "search", "pretrain", "prune", "finetune")


class Run(NamedTuple):
    """The handles of a run. `facts` is what a checkpoint says beside the arrays: everything found out so far."""

    setting: Setting
    path: pathlib.Path
    progress: Progress
    checkpoints: Any
    events: Any
    facts: dict[str, Any]
    programs: dict[str, Any]
    feed: feed.Feed
    resumed: list[checkpoint.Checkpoint]
    """The checkpoint to go on from; taken out by the stage that it belongs to."""
    shared: shelf.Shelf | None = None
    """Where runs that have stages in common find and leave them."""


def run(setting: Setting, path: pathlib.Path, progress: Progress, shared: shelf.Shelf | None = None) -> dict[str, Any]:
    """Runs or continues a configuration in the folder `path`; returns what results.json holds.

    Raises:
      UserError: if no checkpoint of an interrupted run can be read, a stage does not fit into memory, or a loss is not
        finite.
    """
    config = setting.config
    checkpoints = checkpoint.manager(path / "checkpoints", config.runtime.checkpoints_to_keep)
    newest = checkpoint.newest(checkpoints)
    resumed: list[checkpoint.Checkpoint] = []
    facts: dict[str, Any] = {"step": 0, "metrics_bytes": 0, "methods": {}, "current": {}}
    if newest is not None:
        for skipped in newest.skipped:
            progress.say(f"{skipped}: going back to checkpoint {newest.step}")
        for step in [step for step in checkpoints.all_steps() if step > newest.step]:
            checkpoints.delete(step)
        resumed.append(newest)
        facts = newest.facts
        at = facts["at"]
        whose = f" of {seeds.named(at['seeds'])}" if config.seeds > 1 else ""
        where = f"{at['method']} · {at['stage']}, epoch {at['epoch']}{whose}"
        progress.say(f"going on after {where} (checkpoint {newest.step})")
    folder.cut_metrics(path / "metrics.jsonl", facts["metrics_bytes"])
    events = tensorboardX.SummaryWriter(str(path / "events"), purge_step=facts["step"] + 1)
    r = Run(setting, path, progress, checkpoints, events, facts, {}, feed.of(setting), resumed, shared)
    try:
        for method in (title(config), *config.controls):
            if method not in facts["methods"]:
                facts["methods"][method] = run_method(r, method)
                facts["current"] = {}
    finally:
        checkpoints.wait_until_finished()
        checkpoints.close()
        events.close()
    found = results.of_run(facts["methods"], title(config), config.controls)
    folder.write_json(path / "results.json", found)
    return found


def run_method(r: Run, method: str) -> list[dict[str, Any]]:
    """Search, then pre-training, score learning and fine-tuning of what it found; the method's results by seed."""
    known = known_of(r)
    if "genotype" not in known[0]:
        for one, found in zip(known, search(r, method), strict=True):
            one["genotype"] = None if found is None else genotype.to_json(found)
    genotypes = [results.genotype_of(one) for one in known]
    if method == title(r.setting.config):
        for name, one in zip(folder.genotype_names(r.setting.seeds), known, strict=True):
            if one["genotype"] is not None:
                folder.write_json(r.path / name, one["genotype"])
    for found, group in seeds.alike(list(zip(r.setting.seeds, genotypes, strict=True))):
        train(r._replace(setting=r.setting._replace(seeds=group)), method, found)
    return [one["results"] for one in known]


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


def train(r: Run, method: str, found: genotype.Genotype | None) -> None:
    """Trains, prunes and evaluates a network, see `build.model`, for each seed that found it; enters the results."""
    known = known_of(r)
    if "results" in known[0]:
        return
    stages, evaluate = build.training_stages(r.setting, found)

    def measure(stage: Stage, v: Any) -> list[dict[str, float]]:
        measured = evaluate_test(r, f"evaluation of {found}", evaluate, v, stage.masks(v))
        for one, figures in zip(known, measured, strict=True):
            # The end of a stage is always measured, so what stays is the accuracy there; the checkpoint holds it.
            one.setdefault("accuracy", {})[stage.name] = figures["test_accuracy"]
        return measured

    state = run_chain(r, method, "training", stages, measure, place_of(r, method, stages[0], found))
    parts = seeds.members(state.variables, len(known))
    for seed, one, v in zip(r.setting.seeds, known, parts, strict=True):
        one["results"] = results.of_method(r.setting, method, seed, one, v)


def search(r: Run, method: str) -> Sequence[genotype.Genotype | None]:
    """The genotypes that a method finds or is given, one for each seed; None for a network that has none."""
    config = r.setting.config
    if method == "random":
        return [random.sample(seed, config.search.nodes) for seed in r.setting.seeds]
    if method == title(config) and config.method == "given":
        return [genotype.load(config.genotype) if config.genotype else None for _ in r.setting.seeds]
    stages, read = build.search_stages(r.setting, method)

    def of_each(v: Any) -> list[tuple[Any, genotype.Genotype]]:
        return [read(part) for part in seeds.members(v, len(r.setting.seeds))]

    limit = r.setting.config.search.stop_at_skips
    before: dict[int, dict[str, str]] = {}

    def measure(stage: Stage, v: Any) -> list[dict[str, Any]]:
        now = of_each(v)
        for seed, (_, found) in zip(r.setting.seeds, now, strict=True):
            signs = genotype.collapsed(found)
            for cell in signs.keys() - before.get(seed, {}).keys():
                r.progress.say(f"{method} · {stage.name}, seed {seed}: warning: {cell} cell: {signs[cell]}")
            before[seed] = signs
        lines = [records.of_cells(*one) for one in now]
        if stage.name == "step1" and 0 < limit <= lines[0]["skips_normal"]:
            lines[0]["stopped"] = True
        return lines

    state = run_chain(r, method, "search", stages, measure, place_of(r, method, stages[0]))
    return [found for _, found in of_each(state.variables)]


def run_chain(
    r: Run,
    method: str,
    chain: str,
    stages: list[Stage],
    measure: Callable[[Stage, Any], list[dict[str, Any]]],
    shared: pathlib.Path | None = None,
) -> bilevel.State:
    """Runs stages one after another, from where the run stands; returns the last state, as NumPy arrays.

    Args:
      shared: where the end of the first stage is taken from or, if nothing lies there yet, put for other runs.
    """
    first, done = 0, 0
    state: Any = None
    here = {"method": method, "chain": chain, "seeds": list(r.setting.seeds)}
    if r.resumed and here.items() <= r.facts["at"].items():
        newest, at = r.resumed.pop(), r.facts["at"]
        first, done = [stage.name for stage in stages].index(at["stage"]), at["epoch"]
        if at.get("stopped"):
            done = stages[first].epochs
        template = None
        for stage in stages[: first + 1]:
            template = jax.eval_shape(stage.start, template)
        state = checkpoint.restore(template, newest.leaves)
    for stage in stages[first:]:
        place = shared if stage is stages[0] else None
        kept = shelf.take(place) if place and done == 0 else None
        if kept is not None:
            state = taken_over(r, method, chain, stage, kept)
            continue
        if done == 0:
            state = stage.start(state)
        state = run_stage(r, method, chain, stage, state, done, measure)
        if place:
            accuracy = known_of(r)[0].get("accuracy", {})
            shelf.put(place, state, shelf.facts(r.path, method, stage.name, accuracy))
        done = 0
    return state


def place_of(r: Run, method: str, stage: Stage, found: genotype.Genotype | None = None) -> pathlib.Path | None:
    """Where the end of a chain's first stage is shared with other runs; a batch of seeds shares nothing."""
    return r.shared(method, stage.name, found) if r.shared and len(r.setting.seeds) == 1 else None


def taken_over(r: Run, method: str, chain: str, stage: Stage, kept: checkpoint.Checkpoint) -> bilevel.State:
    """The end of a stage that another run has done. Its lines of metrics, marked, and its seconds become this run's:
    they are what the run would have cost alone."""
    state = checkpoint.restore(jax.eval_shape(stage.start, None), kept.leaves)
    lines = [{**line, "method": method, "shared": True} for line in kept.facts["lines"]]
    known_of(r)[0].setdefault("accuracy", {}).update(kept.facts["accuracy"])
    spend(r, stage.clock, sum(line["seconds"] for line in lines))
    for line in lines:
        keep_record(r, chain, line, state if line is lines[-1] else None)
    r.progress.say(f"{label_of(r, method, stage)}: taken over from {kept.facts['origin']}")
    return state


def run_stage(r: Run, method: str, chain: str, stage: Stage, state: Any, done: int, measure: Any) -> bilevel.State:
    """Runs the epochs of a stage after the first `done`."""
    if done == stage.epochs:
        return state
    label, section = label_of(r, method, stage), "search" if chain == "search" else "train"
    together = loop.largest_divisor(stage.epochs - done, r.setting.config.runtime.epochs_per_call)

    on_devices = parallel.replicate(state, r.setting.devices)
    advance = r.feed.advance(r.setting, stage, on_devices, together, functools.partial(compiled, r, label, section))
    with r.progress.stage(label, done, stage.epochs) as bar:
        for first in range(done, stage.epochs, together):
            start = time.monotonic()
            with r.progress.busy(f"{label}, epoch {first + 1}", announce=False):
                on_devices, infos = advance(on_devices, first)
                state = parallel.unreplicate(on_devices)
            share = spend(r, stage.clock, time.monotonic() - start)
            whose = r.setting.seeds if r.setting.config.seeds > 1 else None
            epochs = records.of_call(method, stage, whose, first, share, infos)
            if chain == "search" or _due(r, stage, first, together):
                for line, measured in zip(epochs[-1], measure(stage, state.variables), strict=True):
                    line |= measured
            stopped = epochs[-1][-1].get("stopped", False)
            if stopped:  # said before it is recorded: a run that goes on from the record has no more to say about it
                r.progress.say(f"{label}: ended by search.stop_at_skips after epoch {epochs[-1][-1]['epoch']}")
            for lines in epochs:
                for line in lines:
                    keep_record(r, chain, line, state if line is epochs[-1][-1] else None)
                bar.epoch(records.means(lines))
            if stopped:
                break
    return state


def label_of(r: Run, method: str, stage: Stage) -> str:
    """What a user calls a stage: with the seeds, when the run has several."""
    return " · ".join([method, stage.name, *([seeds.named(r.setting.seeds)] if r.setting.config.seeds > 1 else [])])


def _due(r: Run, stage: Stage, first: int, together: int) -> bool:
    """Whether the network is evaluated after the epochs first + 1 … first + together."""
    every, last = r.setting.config.train.evaluate_every, first + together
    return last == stage.epochs or (every > 0 and last // every > first // every)


def keep_record(r: Run, chain: str, record: dict[str, Any], state: bilevel.State | None) -> None:
    """Metrics, event file and, where there is a state, checkpoint of one epoch of one seed."""
    r.facts["step"] += 1
    r.facts["metrics_bytes"] = folder.append_metrics(r.path / "metrics.jsonl", record)
    at = {name: record[name] for name in ("method", "stage", "epoch", "stopped") if name in record}
    r.facts["at"] = {**at, "chain": chain, "seeds": list(r.setting.seeds)}
    whose = f"/seed {record['seed']}" if "seed" in record else ""
    for name, value in record.items():
        if isinstance(value, float):
            r.events.add_scalar(f"{record['method']}{whose}/{record['stage']}/{name}", value, r.facts["step"])
    if state is not None:
        checkpoint.save(r.checkpoints, r.facts["step"], state, r.facts)


def compiled(
    r: Run, label: str, section: str, name: str, function: Any, arguments: tuple[Any, ...], donate: bool
) -> Any:
    """The program of that name for as many seeds as there are, compiled at its first use; raises UserError if it does
    not fit into memory. `section` of the configuration says its batch."""
    name = f"{name}, {len(r.setting.seeds)} seeds"
    if name not in r.programs:
        start = time.monotonic()
        with r.progress.busy(f"compiling {label}"):
            r.programs[name] = parallel.program(function, r.setting.devices, arguments, donate)
        spend(r, "compile", time.monotonic() - start)
        if r.setting.config.runtime.memory_check:
            check_memory(r, label, section, r.programs[name], arguments)
    return r.programs[name]


def check_memory(r: Run, label: str, section: str, program: Any, arguments: tuple[Any, ...]) -> None:
    """Raises UserError if a program does not fit into memory, where that is known."""
    devices, part = r.setting.devices, getattr(r.setting.config, section)
    batch = memory.Batch(section, part.batch_size, part.accumulate, part.remat if section == "search" else None)
    need, free = memory.needed(program), memory.available(devices)
    there = None if free is None else free + memory.held(arguments, devices)
    memory.check(label, need, there, batch, len(devices))


def evaluate_test(r: Run, name: str, evaluate: Any, v: Any, masks: Any) -> list[dict[str, float]]:
    """Loss in nats and accuracy in per cent on the whole test split, for each seed."""
    size = r.setting.dataset.test.size
    c = r.setting.config.train
    network = parallel.replicate({PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS], MASKS: masks}, r.setting.devices)
    compile = functools.partial(compiled, r, "evaluation", "train")
    measure = r.feed.evaluate(name, evaluate, network, c.batch_size // c.accumulate, compile)
    with r.progress.busy("evaluation", announce=False):
        found = measure()
    return [
        {
            "test_loss": round(float(sums["loss"]) / size, 6),
            "test_accuracy": round(100 * float(sums["correct"]) / size, 4),
        }
        for sums in seeds.members(found, len(r.setting.seeds))
    ]
