"""A run, read from top to bottom: each method's search, its network's training, pruning and fine-tuning, the results.

Every epoch ends with a line of metrics and a checkpoint, which holds where the run stands; a signal in the middle of an
epoch leaves a pause. A run that is started again goes on from there and ends with the same bits. Several seeds search
as one batch; what they found is then trained in one batch for each different genotype.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dass_jax import bilevel, compose, feed, results
from dass_jax.architectures import darts as genotype
from dass_jax.compose import Setting
from dass_jax.config import title
from dass_jax.methods import random
from dass_jax.running import Run, compiled, keep_record, known_of, label_of, place_of, spend, watch
from dass_jax.runtime import checkpoint, folder, keeping, loop, networks, pauses, records, seeds, shelf, steps
from dass_jax.runtime.calls import Done
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from dass_jax.runtime.stage import Stage
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS


def run(
    setting: Setting, path: pathlib.Path, progress: Progress, signals: Signals, shared: shelf.Shelf | None = None
) -> dict[str, Any]:
    """Runs or continues a configuration in the folder `path`; returns what results.json holds.

    Raises:
      UserError: if no checkpoint of an interrupted run can be read, a stage does not fit into memory, or a loss or a
        gradient is not finite.
      Stopped: after a signal, with everything kept.
    """
    config = setting.config
    with keeping.opened(path, config.runtime.checkpoints_to_keep) as (keeper, (newest, said)):
        for line in said:
            progress.say(line)
        resumed: list[checkpoint.Checkpoint] = []
        facts: dict[str, Any] = {"step": 0, "metrics_bytes": 0, "methods": {}, "current": {}}
        if newest is not None:
            resumed.append(newest)
            facts = newest.facts
            progress.say(going_on(newest, config.seeds > 1))
        r = Run(setting, progress, signals, keeper, facts, {}, feed.of(setting), resumed, shared)
        for method in (title(config), *config.controls):
            if method not in facts["methods"]:
                facts["methods"][method] = run_method(r, method)
                facts["current"] = {}
    found = results.of_run(facts["methods"], title(config), config.controls)
    keeping.finish(keeper, found)
    return found


def going_on(newest: checkpoint.Checkpoint, several: bool) -> str:
    """What a user is told of the place from which a run of one or `several` seeds goes on."""
    at = newest.facts["at"]
    whose = f" of {seeds.named(at['seeds'])}" if several else ""
    held = f"pause {newest.step}, {at['step']} steps later" if "step" in at else f"checkpoint {newest.step}"
    return f"going on after {at['method']} · {at['stage']}, epoch {at['epoch']}{whose} ({held})"


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
                keeping.facts(r.keeper, name, one["genotype"])
    for found, group in seeds.alike(list(zip(r.setting.seeds, genotypes, strict=True))):
        train(r._replace(setting=r.setting.of(group)), method, found)
    return [one["results"] for one in known]


def train(r: Run, method: str, found: genotype.Genotype | None) -> None:
    """Trains, prunes and evaluates a network, see `compose.model`, for each seed that found it; enters the results."""
    known = known_of(r)
    if "results" in known[0]:
        return
    stages, evaluate = compose.training_stages(r.setting, found)

    def measure(stage: Stage, v: Any) -> list[dict[str, float]]:
        measured = evaluate_test(r, f"evaluation of {found}", evaluate, v, stage.masks(v))
        for one, figures in zip(known, measured, strict=True):
            # The end of a stage is always measured, so what stays is the accuracy there; the checkpoint holds it.
            one.setdefault("accuracy", {})[stage.name] = figures["test_accuracy"]
        return measured

    state = run_chain(r, method, "training", stages, measure, place_of(r, method, stages[0], found))
    parts = seeds.members(state.variables, len(known))
    for seed, one, v in zip(r.setting.seeds, known, parts, strict=True):
        accuracy = one["accuracy"][stages[-1].name]
        keeping.network(r.keeper, networks.Network(method, seed, one["genotype"], v, accuracy))
        one["results"] = results.of_method(r.setting, method, seed, one, v)


def search(r: Run, method: str) -> Sequence[genotype.Genotype | None]:
    """The genotypes that a method finds or is given, one for each seed; None for a network that has none."""
    config = r.setting.config
    if method == "random":
        return [random.sample(seed, config.search.nodes) for seed in r.setting.seeds]
    if method == title(config) and config.method == "given":
        return [genotype.load(config.genotype) if config.genotype else None for _ in r.setting.seeds]
    stages, read = compose.search_stages(r.setting, method)

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
    first, epochs, done = 0, 0, Done()
    state: Any = None
    here = {"method": method, "chain": chain, "seeds": list(r.setting.seeds)}
    if r.resumed and here.items() <= r.facts["at"].items():
        newest, at = r.resumed.pop(), r.facts["at"]
        first, epochs = [stage.name for stage in stages].index(at["stage"]), at["epoch"]
        if at.get("stopped"):
            epochs = stages[first].epochs
        template = None
        for stage in stages[: first + 1]:
            template = jax.eval_shape(stage.start, template)
        leaves, done = pauses.opened(newest)
        state = checkpoint.restore(template, leaves)
    fresh = state is None
    for stage in stages[first:]:
        place = shared if stage is stages[0] else None
        kept = shelf.take(place) if place and fresh else None
        if kept is not None:
            state = taken_over(r, method, chain, stage, kept)
            continue
        if fresh:
            state = r.signals.waiting(functools.partial(stage.start, state))
        r.facts["at"] = {**here, "stage": stage.name, "epoch": epochs}
        state = run_stage(r, method, chain, stage, state, epochs, done, measure)
        if place and r.keeper:
            accuracy = known_of(r)[0].get("accuracy", {})
            shelf.put(place, state, shelf.facts(r.keeper.path, method, stage.name, accuracy))
        fresh, epochs, done = True, 0, Done()
    return state


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


def run_stage(
    r: Run, method: str, chain: str, stage: Stage, state: Any, epochs: int, done: Done, measure: Any
) -> bilevel.State:
    """Runs the epochs of a stage after the first `epochs` and after what is `done` of the next."""
    if epochs == stage.epochs:
        return state
    label, section = label_of(r, method, stage), "search" if chain == "search" else "train"
    together = loop.largest_divisor(stage.epochs, r.setting.config.runtime.epochs_per_call)

    on_devices = r.setting.layout.put(state)
    advance = r.feed.advance(r.setting, stage, on_devices, together, functools.partial(compiled, r, label, section))
    whose = r.setting.seeds if r.setting.config.seeds > 1 else None
    with r.progress.stage(label, epochs, stage.epochs) as bar:
        for first in range(epochs, stage.epochs, together):
            place, look = steps.Place(label, first + 1, together, whose), watch(r)
            with r.progress.busy(f"{label}, epoch {first + 1}", announce=False):
                on_devices, infos, done = steps.run(advance(first), on_devices, done, look, place)
                state = r.setting.layout.get(on_devices)
            lines = records.of_call(method, stage, whose, first, done.seconds / len(r.setting.seeds), infos)
            if chain == "search" or _due(r, stage, first, together):
                found = steps.keeping(look, state, done, functools.partial(measure, stage, state.variables))
                for line, measured in zip(lines[-1], found, strict=True):
                    line |= measured
            last = lines[-1][-1]
            if last.get("stopped"):
                r.progress.say(f"{label}: ended by search.stop_at_skips after epoch {last['epoch']}")
            spend(r, stage.clock, done.seconds)
            for of_epoch in lines:
                for line in of_epoch:
                    keep_record(r, chain, line, state if line is last else None)
                bar.epoch(records.means(of_epoch))
            if last.get("stopped"):
                break
            done = Done(size=done.size)
    return state


def _due(r: Run, stage: Stage, first: int, together: int) -> bool:
    """Whether the network is evaluated after the epochs first + 1 … first + together."""
    every, last = r.setting.config.train.evaluate_every, first + together
    return last == stage.epochs or (every > 0 and last // every > first // every)


def evaluate_test(r: Run, name: str, evaluate: Any, v: Any, masks: Any) -> list[dict[str, float]]:
    """Loss in nats and accuracy in per cent on the whole test split, for each seed."""
    size = r.setting.dataset.test.size
    c = r.setting.config.train
    network = {PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS], MASKS: masks}
    network = r.setting.layout.put(network)
    compile = functools.partial(compiled, r, "evaluation", "train")
    batches = r.feed.evaluate(r.setting, name, evaluate, network, c.batch_size // c.accumulate, compile)
    with r.progress.busy("evaluation", announce=False):
        found = steps.evaluate(batches, network, r.signals, r.setting.config.runtime.call_seconds)
    return [
        {
            "test_loss": round(float(sums["loss"]) / size, 6),
            "test_accuracy": round(100 * float(sums["correct"]) / size, 4),
        }
        for sums in seeds.members(found, len(r.setting.seeds))
    ]
