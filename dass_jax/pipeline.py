"""A run, read from top to bottom: each method's search, its network's training, pruning and fine-tuning, the results.

Every epoch ends with a line of metrics and a checkpoint, which holds where the run stands; a run that is started again
goes on from there and ends with the same bits.
"""

import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX

from dass_jax import accounting, bilevel, build, genotype, variables
from dass_jax.build import Setting, Stage
from dass_jax.errors import UserError
from dass_jax.methods import random
from dass_jax.nn.layers import one_device
from dass_jax.runtime import checkpoint, folder, loop, memory, parallel
from dass_jax.runtime.progress import Progress
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
    train: Any
    test: Any
    resumed: list[checkpoint.Checkpoint]
    """The checkpoint to go on from; taken out by the stage that it belongs to."""


def run(setting: Setting, path: pathlib.Path, progress: Progress) -> dict[str, Any]:
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
        progress.say(f"going on after {at['method']} · {at['stage']}, epoch {at['epoch']} (checkpoint {newest.step})")
    folder.cut_metrics(path / "metrics.jsonl", facts["metrics_bytes"])
    events = tensorboardX.SummaryWriter(str(path / "events"), purge_step=facts["step"] + 1)
    train, test = (parallel.replicate(split, setting.devices) for split in build.examples(setting))
    r = Run(setting, path, progress, checkpoints, events, facts, {}, train, test, resumed)
    try:
        for method in (config.method, *config.controls):
            if method not in facts["methods"]:
                facts["methods"][method] = run_method(r, method)
                facts["current"] = {}
    finally:
        checkpoints.wait_until_finished()
        checkpoints.close()
        events.close()
    results = {**facts["methods"][config.method]}
    results["controls"] = {method: facts["methods"][method] for method in config.controls}
    folder.write_json(path / "results.json", results)
    return results


def run_method(r: Run, method: str) -> dict[str, Any]:
    """Search, then pre-training, score learning and fine-tuning of what it found; the method's results."""
    current = r.facts["current"]
    current.setdefault("seconds", dict.fromkeys(CLOCKS, 0.0))
    if "genotype" not in current:
        found = search(r, method)
        current["genotype"] = genotype.to_json(found)
    found = genotype.from_json(current["genotype"])
    if method == r.setting.config.method:
        folder.write_json(r.path / "genotype.json", current["genotype"])
    stages, evaluate = build.training_stages(r.setting, found)

    def measure(stage: Stage, v: Any) -> dict[str, float]:
        measured = evaluate_test(r, f"evaluation of {found}", evaluate, v, stage.masks(v))
        # The end of a stage is always measured, so what stays is the accuracy there; the checkpoint holds it.
        current.setdefault("accuracy", {})[stage.name] = measured["test_accuracy"]
        return measured

    state = run_chain(r, method, "training", stages, measure)
    return results_of(r, method, found, state.variables)


def search(r: Run, method: str) -> genotype.Genotype:
    """The genotype that a method finds."""
    config = r.setting.config
    if method == "random":
        return random.sample(config.seed, config.search.nodes)
    stages, read = build.search_stages(r.setting, method)

    def measure(stage: Stage, v: Any) -> dict[str, Any]:
        weights, _ = read(v)
        return {"edge_weights": {name: np.asarray(w).round(6).tolist() for name, w in weights.items()}}

    state = run_chain(r, method, "search", stages, measure)
    return read(state.variables)[1]


def run_chain(
    r: Run,
    method: str,
    chain: str,
    stages: list[Stage],
    measure: Callable[[Stage, Any], dict[str, Any]],
) -> bilevel.State:
    """Runs stages one after another, from where the run stands; returns the last state, as NumPy arrays."""
    first, done = 0, 0
    state: Any = None
    if r.resumed and (r.facts["at"]["method"], r.facts["at"]["chain"]) == (method, chain):
        newest, at = r.resumed.pop(), r.facts["at"]
        first, done = [stage.name for stage in stages].index(at["stage"]), at["epoch"]
        template = None
        for stage in stages[: first + 1]:
            template = jax.eval_shape(stage.start, template)
        state = checkpoint.restore(template, newest.leaves)
    for stage in stages[first:]:
        if done == 0:
            state = stage.start(state)
        state = run_stage(r, method, chain, stage, state, done, measure)
        done = 0
    return state


def run_stage(r: Run, method: str, chain: str, stage: Stage, state: Any, done: int, measure: Any) -> bilevel.State:
    """Runs the epochs of a stage after the first `done`."""
    if done == stage.epochs:
        return state
    devices, seconds, label = r.setting.devices, r.facts["current"]["seconds"], f"{method} · {stage.name}"
    together = loop.largest_divisor(stage.epochs - done, r.setting.config.runtime.epochs_per_call)

    def inputs(first: int) -> tuple[Any, ...]:
        epochs = range(first, first + together)
        indices = np.stack([stage.indices(epoch) for epoch in epochs])
        keys = jnp.stack([build.key(r.setting, stage.name, epoch) for epoch in epochs])
        rates = (
            np.array([rate(epoch) for epoch in epochs], np.float32) for rate in (stage.learning_rate, stage.drop_path)
        )
        return (indices, keys, *rates)

    on_devices = parallel.replicate(state, devices)
    name = f"{stage.program}, {together} epochs a call"
    arguments = (on_devices, r.train, *inputs(0))
    section = "search" if chain == "search" else "train"
    program = compiled(r, label, name, section, loop.several(stage.epoch), arguments, donate=True)
    with r.progress.stage(label, done, stage.epochs) as bar:
        for first in range(done, stage.epochs, together):
            start = time.monotonic()
            with r.progress.busy(f"{label}, epoch {first + 1}", announce=False):
                on_devices, infos = program(on_devices, r.train, *inputs(first))
                state, infos = parallel.unreplicate((on_devices, infos))
            elapsed = time.monotonic() - start
            seconds[stage.clock] += elapsed
            records = records_of(method, stage, first, elapsed, infos)
            if chain == "search" or _due(r, stage, first, together):
                records[-1] |= measure(stage, state.variables)
            for record in records:
                keep_record(r, chain, record, state if record is records[-1] else None)
                bar.epoch({name: float(v) for name, v in record.items() if "loss" in name or "accuracy" in name})
    return state


def records_of(method: str, stage: Stage, first: int, elapsed: float, infos: Any) -> list[dict[str, Any]]:
    """The lines of metrics of the epochs of one call; raises UserError if one of them is not finite."""
    together = len(jax.tree.leaves(infos)[0])
    records = []
    for number in range(together):
        record = {"method": method, "stage": stage.name, "epoch": first + number + 1, "epochs": stage.epochs}
        record |= {"seconds": round(elapsed / together, 4), **figures(jax.tree.map(lambda x, n=number: x[n], infos))}
        check_finite(record)
        records.append(record)
    return records


def _due(r: Run, stage: Stage, first: int, together: int) -> bool:
    """Whether the network is evaluated after the epochs first + 1 … first + together."""
    every, last = r.setting.config.train.evaluate_every, first + together
    return last == stage.epochs or (every > 0 and last // every > first // every)


def figures(info: Any) -> dict[str, float]:
    """The scalars of an epoch by name: with a prefix for each level of a bi-level step."""
    if hasattr(info, "upper"):
        levels = {level: figures(getattr(info, level)) for level in ("lower", "upper")}
        return {f"{level}_{name}": value for level, found in levels.items() for name, value in found.items()}
    scalars = {"loss": info.loss, **info.metrics, "gradient_norm": info.gradient_norm}
    if info.cosine is not None:
        scalars["cosine"] = info.cosine
    return {name: round(float(value), 6) for name, value in scalars.items()}


def check_finite(record: dict[str, Any]) -> None:
    """Raises UserError if a loss is not a number: the run stops before anything of this epoch is kept."""
    wrong = {name: value for name, value in record.items() if "loss" in name and not math.isfinite(value)}
    if wrong:
        where = f"{record['method']} · {record['stage']}, epoch {record['epoch']}"
        name, value = next(iter(wrong.items()))
        raise UserError(f"{where}: {name} = {value}; allowed: a finite number (a smaller learning rate may help)")


def keep_record(r: Run, chain: str, record: dict[str, Any], state: bilevel.State | None) -> None:
    """Metrics, event file and, where there is a state, checkpoint of one epoch."""
    r.facts["step"] += 1
    r.facts["metrics_bytes"] = folder.append_metrics(r.path / "metrics.jsonl", record)
    r.facts["at"] = {name: record[name] for name in ("method", "stage", "epoch")} | {"chain": chain}
    for name, value in record.items():
        if isinstance(value, float):
            r.events.add_scalar(f"{record['method']}/{record['stage']}/{name}", value, r.facts["step"])
    if state is not None:
        checkpoint.save(r.checkpoints, r.facts["step"], state, r.facts)


def compiled(
    r: Run, label: str, name: str, section: str, function: Any, arguments: tuple[Any, ...], donate: bool
) -> Any:
    """The program of that name, compiled at its first use; raises UserError if it does not fit into memory. `section`
    of the configuration says its batch."""
    if name not in r.programs:
        start = time.monotonic()
        with r.progress.busy(f"compiling {label}"):
            r.programs[name] = parallel.program(function, r.setting.devices, arguments, donate)
        r.facts["current"]["seconds"]["compile"] += time.monotonic() - start
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


def evaluate_test(r: Run, name: str, evaluate: Any, v: Any, masks: Any) -> dict[str, float]:
    """Loss in nats and accuracy in per cent on the whole test split."""
    size = len(r.setting.dataset.test.images)
    train = r.setting.config.train
    indices, counted = loop.in_order(size, train.batch_size // train.accumulate)
    network = parallel.replicate({PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS], MASKS: masks}, r.setting.devices)
    program = compiled(r, "evaluation", name, "train", evaluate, (network, r.test, indices, counted), donate=False)
    with r.progress.busy("evaluation", announce=False):
        sums = parallel.unreplicate(program(network, r.test, indices, counted))
    return {
        "test_loss": round(float(sums["loss"]) / size, 6),
        "test_accuracy": round(100 * float(sums["correct"]) / size, 4),
    }


def results_of(r: Run, method: str, found: genotype.Genotype, v: Any) -> dict[str, Any]:
    """One method's part of results.json."""
    s, current = r.setting, r.facts["current"]
    net = build.model(s, found, auxiliary=False, average=one_device)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))[PARAMS]
    height, width, channels = s.image_shape

    def forward() -> Any:
        return net.apply(v[PARAMS], v[BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    keep = s.config.sparsity.keep
    count = accounting.count(params, net.rules, keep, forward)
    accuracy = current["accuracy"]
    return {
        "method": method,
        "seed": s.config.seed,
        "keep": keep,
        "genotype": current["genotype"],
        "accuracy": {
            "dense": accuracy["pretrain"],
            "sparse": accuracy["finetune"],
            "test_images": len(s.dataset.test.images),
        },
        "parameters": {
            "total": count.total,
            "prunable": count.prunable,
            "kept": count.kept,
            "kept_with_bn_bias": count.kept_with_bn_bias,
            "paper": count.paper_kept,
        },
        "macs": {"dense": count.macs, "nonzero": count.macs_nonzero},
        "nid": round(accounting.nid(accuracy["finetune"], count.kept), 4),
        "compression": round(count.total / count.kept, 2),
        "seconds": {name: round(value, 2) for name, value in current["seconds"].items()},
        "layers": layers_of(v, params),
    }


def layers_of(v: Any, params: Any) -> list[dict[str, Any]]:
    """Weights and kept weights of every prunable leaf of the network without its auxiliary head, as the masks say."""
    masks, wanted = variables.flatten(v[MASKS]), variables.flatten(params)
    return [
        {"path": path, "weights": int(mask.size), "kept": int(np.count_nonzero(mask))}
        for path, mask in masks.items()
        if path in wanted
    ]
