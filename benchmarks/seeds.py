"""Seconds of one search step of N seeds: a program called for each, one that takes all in turn, one that is vmapped.

    python benchmarks/seeds.py [--sizes digits config] [--seeds N …] [--repetitions N] [--output FILE.json]

All are compiled programs called with donated state, alternately and in one process; float32, one device. "digits" is
the supernet of search_step.py, "config" that of configs/digits_dass.toml. Step 1 trains θ, Step 2 the pruning scores.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax

from benchmarks import measure, search_step
from dass_jax import bilevel, config_io, errors
from dass_jax.runtime import seeds
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.variables import PARAMS, SCORES

ALONE, TURNS, TOGETHER = "a program each time", "one program, in turn", "one program, vmap"
STEPS = {"step1": PARAMS, "step2": SCORES}


def size_of(name: str) -> search_step.Size:
    """A size of search_step.py, or that of the configuration."""
    if name != "config":
        return search_step.SIZES[name]
    search = config_io.load(measure.DIGITS).search
    config = SupernetConfig(cells=search.cells, channels=search.channels, nodes=search.nodes, none=search.none)
    return search_step.Size((8, 8, 1), search.batch_size, config)


def cases(size: search_step.Size, step: str, count: int, record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The step of `count` seeds in the three ways; what compiling took goes into `record`."""
    start, search = search_step.search(size, lower=STEPS[step])
    keys, rate = jax.random.split(jax.random.key(0), count), jax.numpy.float32(search_step.LEARNING_RATE)
    batches = [search_step.batches(size)] * count
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)

    def update(state: bilevel.State, batch: Any, key: jax.Array, rate: Any) -> Any:
        return search(state, batch, key, learning_rate=rate)

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
    turns = compiled(TURNS, seeds.in_turn(update, axes), batch, stacked, keys, rate)
    together = compiled(TOGETHER, jax.vmap(update, axes), batch, stacked, keys, rate)

    def run_alone() -> Any:
        for index in range(count):
            states[index], _ = alone(states[index], batches[index], keys[index], rate)
        return states

    def run_batch(program: Any, batch: Any) -> Callable[[], Any]:
        def run() -> Any:
            nonlocal batch
            batch, _ = program(batch, stacked, keys, rate)
            return batch

        return run

    copy = jax.tree.map(jax.numpy.copy, batch)
    return {ALONE: run_alone, TURNS: run_batch(turns, copy), TOGETHER: run_batch(together, batch)}


def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table's rows of one size, step and number of seeds."""
    for case, found in record["seconds"].items():
        yield {
            "size": record["size"],
            "step": record["step"],
            "seeds": record["seeds"],
            "case": case,
            "median s": statistics.median(found),
            "times as fast": measure.ratio_of_medians(record["seconds"][ALONE], found),
            "compile s": record[f"{case}: compile seconds"],
        }


def main(arguments: list[str] | None = None) -> int:
    parser = errors.Parser(prog="seeds.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=[*search_step.SIZES, "config"], default=["digits", "config"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[5], help="how many")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    options = parser.parse_args(arguments)
    for flag, least, values in (("seeds", 2, options.seeds), ("repetitions", 1, [options.repetitions])):
        if min(values) < least:
            raise errors.UserError(f"--{flag} = {min(values)}; allowed: at least {least}")
    records: list[dict[str, Any]] = []
    for name in options.sizes:
        for step in STEPS:
            for count in options.seeds:
                record: dict[str, Any] = {"size": name, "step": step, "seeds": count}
                made = cases(size_of(name), step, count, record)
                records.append({**record, "seconds": measure.alternately(made, options.repetitions)})
                if options.output:
                    measure.write_json(options.output, {"machine": measure.machine(), "sizes": records})
    print(measure.table([row for record in records for row in rows(record)]))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
