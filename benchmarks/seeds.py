"""Seconds of a search step of N seeds: a program for each, or one for all: one after another, `vmap`, a device each.

    python benchmarks/seeds.py [--sizes digits config] [--seeds N …] [--repetitions N] [--output FILE.json]

All are compiled programs called with donated state, alternately; float32. The first three have one device, which all
cores work for. The last one has a process of its own, whose CPU is as many devices as there are seeds: they share the
axis of the same `vmap` (`parallel.axis = "seeds"`). "digits" is the supernet of search_step.py, "config" that of
configs/digits_dass.toml. Step 1 trains θ, Step 2 the pruning scores.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from benchmarks import measure, search_step
from dass_jax import bilevel, config, errors
from dass_jax.runtime import parallel
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.variables import PARAMS, SCORES

ALONE, TURNS, TOGETHER = "a program each time", "one program, one after another", "one program, vmap"
DEVICES = "one program, vmap, a device each"
STEPS_OF_A_CALL = 4
STEPS = {"step1": PARAMS, "step2": SCORES}


def size_of(name: str) -> search_step.Size:
    """A size of search_step.py, or that of the configuration."""
    if name != "config":
        return search_step.SIZES[name]
    found = config.load(measure.DIGITS)
    space = found.space.fields
    sizes = SupernetConfig(cells=space.cells, channels=space.channels, nodes=space.nodes, none=space.none)
    return search_step.Size((8, 8, 1), found.method.fields.batch_size, sizes)


def inputs(size: search_step.Size, step: str, count: int) -> tuple[Any, ...]:
    """(start, update, each seed's batches, the same stacked, keys, learning rates)."""
    start, search = search_step.search(size, lower=STEPS[step])
    keys = jax.random.split(jax.random.key(0), count)
    rate = jax.tree.map(jax.numpy.float32, search_step.LEARNING_RATES)
    batches = [search_step.batches(size)] * count
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)

    def update(state: bilevel.State, batch: Any, key: jax.Array, rate: Any) -> Any:
        return search(state, batch, key, learning_rate=rate)

    return start, update, batches, stacked, keys, rate


def cases(size: search_step.Size, step: str, count: int, record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Some steps of `count` seeds in the ways of one process; what compiling took goes into `record`."""
    start, update, batches, stacked, keys, rate = inputs(size, step, count)

    def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        before = time.perf_counter()
        program = measure.compiled(jax.jit(function, donate_argnums=0).lower(*arguments))
        record[f"{name}: compile seconds"] = time.perf_counter() - before
        search_step.say(f"{step} of {count} seeds {name}: compiled in {time.perf_counter() - before:.1f} s")
        return program

    states = [jax.jit(start)(key) for key in keys]
    batch = jax.jit(jax.vmap(start))(keys)
    alone = compiled(ALONE, update, states[0], batches[0], keys[0], rate)
    axes = (0, 0, 0, None)
    turns = compiled(TURNS, parallel.over_seeds(count, update, axes), batch, stacked, keys, rate)
    together = compiled(TOGETHER, jax.vmap(update, axes), batch, stacked, keys, rate)

    def run_alone() -> Any:
        for index in range(count):
            for _ in range(STEPS_OF_A_CALL):
                states[index], _ = alone(states[index], batches[index], keys[index], rate)
        return states

    def run_batch(program: Any, batch: Any) -> Callable[[], Any]:
        def run() -> Any:
            nonlocal batch
            for _ in range(STEPS_OF_A_CALL):
                batch, _ = program(batch, stacked, keys, rate)
            return batch

        return run

    copy = jax.tree.map(jax.numpy.copy, batch)
    return {ALONE: run_alone, TURNS: run_batch(turns, copy), TOGETHER: run_batch(together, batch)}


@contextlib.contextmanager
def devices(name: str, step: str, count: int, record: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    """The same steps with a device for each seed; yields what waits for the process that takes them."""
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--child", json.dumps([name, step, count])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:

        def answer() -> float:
            line = process.stdout.readline()
            if not line:
                raise errors.UserError(f"{name}, {DEVICES}: its process ended with code {process.wait()}")
            return float(line)

        def run() -> Any:
            print(file=process.stdin, flush=True)
            return answer()

        record[f"{DEVICES}: compile seconds"] = answer()
        yield run


def serve(name: str, step: str, count: int) -> None:
    """The process of `devices`: prints what compiling took; for each line that it reads, takes the steps, in one call
    as a run does, and prints the mean of some weights."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    start, update, _, stacked, keys, rate = inputs(size_of(name), step, count)

    def steps(state: bilevel.State, batch: Any, key: jax.Array, rate: Any) -> bilevel.State:
        return jax.lax.fori_loop(0, STEPS_OF_A_CALL, lambda _, now: update(now, batch, key, rate)[0], state)

    layout = parallel.layout(jax.devices(), count, apart=True)
    every = parallel.each_seed(steps, jax.devices(), (0, 0, 0, None), 0)
    state, batch = map(layout.put, (jax.jit(jax.vmap(start))(keys), stacked))
    before = time.perf_counter()
    program = layout.program(every, (state, batch, keys, rate), True)
    took = time.perf_counter() - before
    search_step.say(f"{step} of {count} seeds {DEVICES}: compiled in {took:.1f} s")
    print(took, flush=True)
    for _ in sys.stdin:
        state = jax.block_until_ready(program(state, batch, keys, rate))
        print(mean_weight(state, step), flush=True)


def mean_weight(state: bilevel.State, step: str) -> float:
    """Of the first leaf that the step trains beside α: to look at all of them would take a share of the time."""
    return float(np.mean(jax.tree.leaves(state.variables[STEPS[step]])[0]))


def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table's rows of one size, step and number of seeds."""
    for case, found in record["seconds"].items():
        yield {
            "size": record["size"],
            "step": record["step"],
            "seeds": record["seeds"],
            "case": case,
            "median s": statistics.median(found) / STEPS_OF_A_CALL,
            "times as fast": measure.ratio_of_medians(record["seconds"][ALONE], found),
            "compile s": record[f"{case}: compile seconds"],
        }


def main(arguments: list[str] | None = None) -> int:
    parser = errors.Parser(prog="seeds.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=[*search_step.SIZES, "config"], default=["digits", "config"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[5], help="how many")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        serve(*options.child)
        return 0
    for flag, least, values in (("seeds", 2, options.seeds), ("repetitions", 1, [options.repetitions])):
        if min(values) < least:
            raise errors.UserError(f"--{flag} = {min(values)}; allowed: at least {least}")
    records: list[dict[str, Any]] = []
    for name in options.sizes:
        for step in STEPS:
            for count in options.seeds:
                record: dict[str, Any] = {"size": name, "step": step, "seeds": count, "steps": STEPS_OF_A_CALL}
                with devices(name, step, count, record) as run:
                    made = {**cases(size_of(name), step, count, record), DEVICES: run}
                    records.append({**record, "seconds": measure.alternately(made, options.repetitions)})
                if options.output:
                    measure.write_json(options.output, {"machine": measure.machine(), "sizes": records})
    print(measure.table([row for record in records for row in rows(record)]))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
