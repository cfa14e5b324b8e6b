"""Seconds and memory of one first order search step (α, then θ): ours against the peer in PyTorch, float32, one device.

    python benchmarks/search_step.py [--sizes digits proxy paper] [--repetitions N] [--output FILE.json] [--remat]

Everything that is measured runs in processes of its own. For each size, one process per case says how much memory the
case needs (ours twice: compiling, and with the program from a cache), then one process times all cases, alternating,
each by the second of two steps.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from benchmarks import measure, subjects
from dass_jax import bilevel, errors, methods, variables
from dass_jax.methods import darts, dass, relaxed
from dass_jax.nn import layers
from dass_jax.runtime import compilation, memory
from dass_jax.spaces import darts as space
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.tasks import Batch
from dass_jax.variables import PARAMS, SCORES


class Size(NamedTuple):
    """A supernet and its batches."""

    image: tuple[int, int, int]
    """Height, width, channels."""
    batch: int
    config: SupernetConfig


SIZES = {
    "tiny": Size((8, 8, 1), 8, SupernetConfig(cells=1, channels=2, nodes=1)),
    "digits": Size((8, 8, 1), 64, SupernetConfig(cells=4, channels=8)),
    "proxy": Size((32, 32, 3), 32, SupernetConfig(cells=4, channels=8)),
    "paper": Size((32, 32, 3), 64, SupernetConfig(cells=8, channels=16)),
}
OURS, PEERS = "ours", ("peer NCHW", "peer channels_last")
LEARNING_RATE = 0.025
LEARNING_RATES = {"upper": relaxed.Bilevel.alpha_lr, "lower": LEARNING_RATE}
KEEP = 0.05
"""Of the weights, where the pruning scores are trained."""


def batches(size: Size) -> dict[str, Batch]:
    """A batch of noise for each level: what the step costs does not depend on what is in the images."""
    rng, (height, width, channels) = np.random.default_rng(0), size.image
    return {
        level: Batch(
            rng.normal(size=(channels, height, width, size.batch)).astype(np.float32),
            rng.integers(size.config.classes, size=size.batch).astype(np.int32),
        )
        for level in ("upper", "lower")
    }


def say(text: str) -> None:
    """Compiling takes minutes: whoever waits should see what for."""
    print(text, file=sys.stderr, flush=True)


class TooLarge(Exception):
    """The compiled step needs more memory than there is."""


def ours(size: Size, record: dict[str, Any], parts: int = 1) -> Callable[[], Any]:
    """Our compiled step, one call after the other with donated state, of which each batch is worked through in equal
    `parts`. Puts what compiling took into `record`.

    Raises:
      TooLarge: before anything runs, if XLA's estimate exceeds the available memory.
    """
    return stepper(size, record, parts)[1]


def stepper(size: Size, record: dict[str, Any], parts: int = 1) -> tuple[Any, Callable[[], Any]]:
    """(our compiled step, `ours`)."""
    begin, update = search(size, parts=parts)
    start = jax.jit(lambda: begin(jax.random.key(0)))
    inputs = jax.device_put((batches(size), jax.random.key(2)))
    compiled = compiled_with_record(update, record, jax.eval_shape(start), *inputs, learning_rate=LEARNING_RATES)
    there = memory.available(jax.devices()[:1])
    if record["estimated_bytes"] and there is not None and record["estimated_bytes"] > there:
        sizes = f"{record['estimated_bytes'] / 1e9:.1f} GB by XLA's estimate and {there / 1e9:.1f} GB"
        raise TooLarge(f"our step needs {sizes} are available")
    state = start()

    def run() -> Any:
        nonlocal state
        state, info = compiled(state, *inputs, learning_rate=LEARNING_RATES)
        return state, info

    return compiled, run


def search(
    size: Size,
    dtype: Any = None,
    parts: int = 1,
    lower: str = PARAMS,
    average: layers.Average = layers.one_device,
) -> tuple[Callable[[jax.Array], Any], Callable[..., Any]]:
    """The step that is measured, as (key → state) and the algorithm's `update`; activations are of the given dtype, and
    batches are worked through in equal parts. `lower`: what is trained beside α, θ or the pruning scores. `average`:
    over the devices that share a batch."""
    problem = problem_of(size, dtype, average)
    supernet = problem.space()
    weights, completed = relaxed.dense_weights, lambda v: v
    if lower == SCORES:
        stacks = variables.prunable(problem.shapes(supernet)[PARAMS], supernet.rules)
        weights, completed = dass.sparse_weights(stacks, KEEP), functools.partial(dass.with_scores, stacks=stacks)
    loss = relaxed.supernet_loss(supernet.apply, problem.task, relaxed.softmax_choice, weights)
    step = darts.step(lower, bilevel.accumulated(loss, parts), relaxed.Bilevel(), problem)
    return lambda key: step.init(completed(relaxed.fresh(problem, supernet, key))), step.update


def problem_of(size: Size, dtype: Any = None, average: layers.Average = layers.one_device) -> methods.Problem:
    """What is searched: by first order."""
    supernet = space.darts(size.config, average, dtype)
    return subjects.searched(supernet, size.config.classes, size.image, KEEP, average)


def compiled_with_record(function: Callable[..., Any], record: dict[str, Any], *arguments: Any, **named: Any) -> Any:
    """`function` compiled for such arguments, the first of them donated. What it took goes into `record`."""
    before = time.perf_counter()
    with compilation.without_collector():
        lowered = jax.jit(function, donate_argnums=0).lower(*arguments, **named)
    record["trace_seconds"] = time.perf_counter() - before
    say(f"traced in {record['trace_seconds']:.1f} s, compiling …")
    before = time.perf_counter()
    compiled = measure.compiled(lowered)
    record["compile_seconds"] = time.perf_counter() - before
    say(f"compiled in {record['compile_seconds']:.1f} s")
    needed = memory.needed(compiled)
    record["estimated_bytes"] = needed and needed.total
    return compiled


def peers(size: Size, case: str) -> Callable[[], Any]:
    """The peer's step in the given memory layout, with one thread for each core."""
    from benchmarks import peer

    torch = peer.torch
    torch.set_num_threads(measure.machine()["cores"])
    torch.manual_seed(0)
    channels_last = case == "peer channels_last"
    network = peer.supernet(size.config, size.image[2], channels_last)
    optimizers = peer.optimizers(network, LEARNING_RATE)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    inputs = [
        (
            torch.from_numpy(np.moveaxis(batch.images, -1, 0).copy()).contiguous(memory_format=layout),
            torch.from_numpy(batch.targets.astype(np.int64)),
        )
        for batch in batches(size).values()
    ]
    return lambda: peer.search_step(network, optimizers, *inputs)


def make(size: Size, case: str, record: dict[str, Any]) -> Callable[[], Any]:
    return ours(size, record) if case == OURS else peers(size, case)


def in_this_process(size: Size, cases: list[str], repetitions: int) -> dict[str, Any]:
    """Times the cases, alternating; the body of a process that `main` starts."""
    record: dict[str, Any] = {"skipped": None}
    try:
        made = {case: make(size, case, record) for case in cases}
    except TooLarge as error:
        return {**record, "skipped": str(error)}
    return {**record, "seconds": measure.alternately(made, repetitions, lead=1)}


def child(
    name: str, cases: list[str], repetitions: int, remat: bool = False, script: str = __file__
) -> tuple[dict[str, Any], int]:
    """What `in_this_process` of a script returns in a new process, and that process's peak memory."""
    options = ["--child", json.dumps(cases), "--sizes", name, "--repetitions", str(repetitions)]
    command = [sys.executable, str(pathlib.Path(script).resolve()), *options, *(["--remat"] if remat else [])]
    finished = measure.run_in_process(command)
    if finished.code:
        raise errors.UserError(f"{name}, {', '.join(cases)}: its process ended with code {finished.code}")
    return json.loads(finished.output.splitlines()[-1]), finished.peak_bytes


def measured(name: str, repetitions: int, remat: bool) -> dict[str, Any]:
    """All that is known of one size."""
    say(f"{name}: ours, compiled from a cold cache")
    result, compiling = child(name, [OURS], 1, remat)
    peaks, cases = {}, [OURS, *PEERS]
    if result["skipped"]:
        say(f"{name}: {result['skipped']}: not run, only the peer is measured{'' if remat else '; try --remat'}")
        cases.remove(OURS)
    for case in cases:
        say(f"{name}: memory of {case}")
        peaks[case] = child(name, [case], 1, remat)[1]
    say(f"{name}: {repetitions} repetitions of {', '.join(cases)}, alternating")
    seconds = child(name, cases, repetitions, remat)[0]["seconds"]
    facts = {key: result.get(key) for key in ("trace_seconds", "compile_seconds", "estimated_bytes", "skipped")}
    return {"size": name, "remat": remat, **facts, "compiling_bytes": compiling, "bytes": peaks, "seconds": seconds}


def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table's rows of one size."""
    for case, seconds in record["seconds"].items():
        own = record["seconds"].get(OURS)
        yield {
            "size": record["size"],
            "case": case + (" remat" if record["remat"] and case == OURS else ""),
            "median s": statistics.median(seconds),
            "ours/peer": measure.ratio_of_medians(own, seconds) if own and case != OURS else None,
            "trace s": record["trace_seconds"] if case == OURS else None,
            "compile s": record["compile_seconds"] if case == OURS else None,
            "peak GB": record["bytes"][case] / 1e9,
            "peak GB compiling": record["compiling_bytes"] / 1e9 if case == OURS else None,
        }


def main() -> int:
    parser = errors.Parser(prog="search_step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["digits", "proxy", "paper"])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    parser.add_argument("--remat", action="store_true", help="ours recomputes each cell in the backward pass")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repetitions < 1:
        raise errors.UserError(f"--repetitions = {options.repetitions}; allowed: at least 1")
    if options.child:
        size = SIZES[options.sizes[0]]
        size = size._replace(config=size.config._replace(remat=options.remat))
        print(json.dumps(in_this_process(size, options.child, options.repetitions)))
        return 0
    from benchmarks import peer  # noqa: F401  (its absence is an error before minutes of compiling, not after)

    records: list[dict[str, Any]] = []
    with cache():
        for name in options.sizes:
            records.append(measured(name, options.repetitions, options.remat))
            if options.output:  # after each size: what took minutes is not lost with the next one
                measure.write_json(options.output, {"machine": measure.machine(), "sizes": records})
    print(measure.table([row for record in records for row in rows(record)]))
    for record in records:
        if record["skipped"]:
            print(f"{record['size']}: {record['skipped']}: ours was not run")
    return 0


@contextlib.contextmanager
def cache() -> Iterator[None]:
    """A compilation cache that all child processes find in their environment, empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"
        yield
        del os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
