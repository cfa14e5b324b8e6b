"""Milliseconds and memory of a search step (α, then θ, first order) on an accelerator, against the goal of 25 ms.

    python benchmarks/search_step_accelerator.py [--precisions float32 bfloat16] [--seeds 1 5] [--size paper]
        [--steps N] [--repetitions N] [--trace FOLDER] [--output FILE.json] [--any-device]

A call is a scan over `steps` steps, as an epoch is, so that the host's part is not measured. More than one seed is one
program, the step mapped over their states. Every case runs in a process of its own, whose peak memory is the case's.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, get_args

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.search_step import LEARNING_RATES, SIZES, Size, batches, compiled_with_record, say, search
from dass_jax import errors
from dass_jax.config import Runtime, hints
from dass_jax.methods import dass

GOAL_SECONDS = 0.025
"""Of one step of the paper's supernet with one seed, on one NVIDIA H200."""
SEARCH, PRECISIONS = dass.Fields(), get_args(hints(Runtime)["precision"])
STEPS_OF_A_SEARCH = (SEARCH.epochs + SEARCH.prune_epochs) * (25_000 // SEARCH.batch_size)
"""On CIFAR-10: both steps' epochs, each over 25,000 images for either level."""


def steps_of(size: Size, precision: str, seeds: int, steps: int, record: dict[str, Any]) -> Callable[[], Any]:
    """`steps` compiled search steps of all seeds, one call after the other with donated state."""
    begin, update = search(size, jnp.dtype(precision))
    inputs = batches(size)
    if seeds > 1:
        # Searches run side by side have batches of their own.
        begin, inputs = jax.vmap(begin), jax.tree.map(lambda x: np.stack([x] * seeds), inputs)

    def step(state: Any, inputs: Any, key: jax.Array) -> Any:
        return update(state, inputs, key, learning_rate=jax.tree.map(jnp.float32, LEARNING_RATES))

    def scanned(state: Any, inputs: Any, key: jax.Array) -> Any:
        each = step if seeds == 1 else jax.vmap(step, (0, 0, None))
        return jax.lax.scan(lambda state, k: each(state, inputs, k), state, jax.random.split(key, steps))

    keys = jax.random.split(jax.random.key(0), seeds) if seeds > 1 else jax.random.key(0)
    arguments = jax.device_put((inputs, jax.random.key(1)))
    start = jax.jit(lambda: begin(keys))
    compiled = compiled_with_record(scanned, record, jax.eval_shape(start), *arguments)
    state = start()

    def run() -> Any:
        nonlocal state
        state, infos = compiled(state, *arguments)
        return state, infos

    return run


def check_device(any_device: bool) -> None:
    """Raises UserError without an accelerator, unless any device will do."""
    found = jax.devices()[0]
    if found.platform == "cpu" and not any_device:
        raise errors.UserError(
            f"JAX sees no accelerator, only {found.device_kind}; allowed: a GPU, a TPU or --any-device"
        )


def in_this_process(
    size: Size, precision: str, seeds: int, steps: int, repetitions: int, trace: str | None
) -> dict[str, Any]:
    """One case; the body of a process that `main` starts."""
    record: dict[str, Any] = {"precision": precision, "seeds": seeds, "steps": steps}
    run = steps_of(size, precision, seeds, steps, record)
    found = measure.alternately({precision: run}, repetitions)[precision]
    record["seconds_of_a_step"] = [seconds / steps for seconds in found]
    record["memory"] = jax.devices()[0].memory_stats()
    # One more call, which is not timed.
    with jax.profiler.trace(trace) if trace else contextlib.nullcontext():
        _, infos = jax.block_until_ready(run())
    # [steps] or [steps, seeds]
    return {**record, "last_loss": float(infos["lower"].loss[-1].mean()), "machine": measure.machine()}


def row(record: dict[str, Any], goal: bool) -> dict[str, Any]:
    """A line of the table; `goal`: this is the network for which there is one."""
    seconds = statistics.median(record["seconds_of_a_step"])
    peak = (record["memory"] or {}).get("peak_bytes_in_use")
    return {
        "precision": record["precision"],
        "seeds": record["seeds"],
        "ms a step": 1000 * seconds,
        "goal": 1000 * GOAL_SECONDS if goal and record["seeds"] == 1 else None,
        "ms a step and seed": 1000 * seconds / record["seeds"],
        "search, minutes": STEPS_OF_A_SEARCH * seconds / 60 if goal else None,
        "compile s": record["compile_seconds"],
        "peak GB": peak and peak / 1e9,
        "XLA's estimate GB": record["estimated_bytes"] / 1e9,
        "last loss": record["last_loss"],
    }


def child(options: argparse.Namespace, precision: str, seeds: int) -> dict[str, Any] | None:
    """What `in_this_process` returns in a new process; None if that has refused, and has said so."""
    given = {name: getattr(options, name) for name in ("size", "steps", "repetitions")}
    words = ["--child", "--precisions", precision, "--seeds", seeds]
    words += [word for name, value in given.items() for word in (f"--{name}", value)]
    words += ["--any-device"] if options.any_device else []
    words += ["--trace", pathlib.Path(options.trace) / f"{precision}-{seeds}"] if options.trace else []
    finished = measure.run_in_process([sys.executable, str(pathlib.Path(__file__).resolve()), *map(str, words)])
    if finished.code == 2:
        return None
    if finished.code:
        raise errors.UserError(f"{precision}, seeds: {seeds}: its process ended with code {finished.code}")
    return json.loads(finished.output.splitlines()[-1])


def main() -> int:
    parser = errors.Parser(prog="search_step_accelerator.py", description=__doc__.splitlines()[0])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 5], help="numbers of searches run side by side")
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--steps", type=int, default=20, help="steps in one call")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--trace", help="a folder for a profile of one call of each case")
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    parser.add_argument("--any-device", action="store_true", help="run on a CPU too; its times say nothing here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (("steps", options.steps), ("repetitions", options.repetitions), ("seeds", min(options.seeds))):
        if value < 1:
            raise errors.UserError(f"--{name} = {value}; allowed: at least 1")
    if options.child:
        check_device(options.any_device)
        say(f"{options.size}, {options.precisions[0]}, seeds: {options.seeds[0]}")
        case = (options.precisions[0], options.seeds[0], options.steps, options.repetitions, options.trace)
        print(json.dumps(in_this_process(SIZES[options.size], *case)))
        return 0
    # This process leaves JAX's devices alone: it would hold the memory that the cases are to have.
    records: list[dict[str, Any]] = []
    for precision in options.precisions:
        for seeds in options.seeds:
            record = child(options, precision, seeds)
            if record is None:
                return 2
            records.append(record)
            if options.output:  # after each case: what took minutes is not lost with the next one
                measure.write_json(options.output, {"size": options.size, "cases": records})
    paper = options.size == "paper"
    print(f"{options.size}, on one {records[0]['machine']['device']}")
    print(measure.table([row(record, paper) for record in records]))
    if paper:
        print(f"goal: {1000 * GOAL_SECONDS:g} ms a step of one seed, on one NVIDIA H200")
        print(f"search: {STEPS_OF_A_SEARCH:,} such steps, what 50 + 20 epochs on CIFAR-10 take, all seeds together")
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
