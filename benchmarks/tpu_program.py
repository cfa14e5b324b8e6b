"""What XLA makes of our programs for a TPU, compiled ahead of time on a machine that has none.

    pip install "jax[tpu]"
    python benchmarks/tpu_program.py [--sizes digits paper] [--precisions float32 bfloat16] [--devices 1 4]
        [--efforts -1 0] [--topology v5e:2x2] [--output FILE.json] [--text FOLDER]
    python benchmarks/tpu_program.py [--data 32 32 3 10 50000] [--devices 4] --run --config cifar10_dass_small …

`--sizes`: the step of a search (α, then θ, first order); or, "cell", the value and the gradient of one normal cell of
the paper's size, which compiles in a fraction of the time. `--run`: every program of the run that such words would
start, on data of the shape `--data`; the network is of a random architecture. A program runs on `devices` devices, by
`pmap` as in a run, and the batch is for all of them. Every case is compiled in a process of its own. FLOPs, bytes and
seconds are XLA's estimate for one device, of a loop for one turn; its seconds are only sound at effort −1.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, get_args
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import measure
from benchmarks.search_step import LEARNING_RATES, SIZES, Size, batches, say, search
from dass_jax import compose, config, errors, feed, pipeline
from dass_jax.architectures.darts import PRIMITIVES, edges
from dass_jax.config import Runtime, hints
from dass_jax.data.arrays import Dataset, Split
from dass_jax.nn import layers
from dass_jax.nn.mixed_cell import MixedCell
from dass_jax.runner import SEARCH, Chain, foreseen
from dass_jax.runtime import compilation, memory, parallel

PRECISIONS, EFFORTS = get_args(hints(Runtime)["precision"]), (-1.0, 0.0)
CIFAR, CELL = (32, 32, 3, 10, 50_000), "cell"
# libtpu asks the machine what it is, and elsewhere than on a TPU nobody answers.
SURROUNDINGS = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
# Several processes may compile: none of them has a device.
SURROUNDINGS["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
LOWERING, COMPILING = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
"""What JAX calls its last two steps where it says how long they took."""
LAYOUT_CHANGES = ("copy", "copy-start", "transpose")
"""Operations that compute nothing."""


def topology(name: str) -> Sequence[Any]:
    """The devices of a TPU that need not be there.

    Raises:
      UserError: without libtpu, or for a topology that it does not know.
    """
    os.environ |= {name: value for name, value in SURROUNDINGS.items() if name not in os.environ}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).strip().splitlines()[0]
        raise errors.UserError(
            f"--topology = {name!r}: {said}; allowed: one that libtpu knows, such as v5e:2x2, with it installed: "
            "pip install 'jax[tpu]'"
        ) from None


class OnTopology(compose.Setting):
    """A setting whose devices are not there: what would be put on them is only a shape."""

    @property
    def layout(self) -> parallel.Layout:
        found = super().layout
        assert found.like is not None
        shapes = found.like
        return found._replace(put_everywhere=lambda tree: shapes(jax.eval_shape(lambda: tree)))


def step(size: Size, precision: str, devices: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """What compiles the step of a search."""
    begin, update = search(size, jnp.dtype(precision), average=parallel.mean)
    own = size._replace(batch=size.batch // len(devices))

    def one(state: Any, inputs: Any, key: jax.Array) -> Any:
        return update(state, inputs, key, learning_rate=jax.tree.map(jnp.float32, LEARNING_RATES))

    like = parallel.layout(devices, 1, False).like
    assert like is not None
    shapes = jax.eval_shape(lambda: (begin(jax.random.key(0)), batches(own), jax.random.key(1)))
    return {"step": lambda: parallel.program(one, devices, (*like(shapes[:2]), shapes[2]), True)}


def cell(precision: str, devices: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """What compiles the value and the gradient of a normal cell: C 16, 32×32 pixels, batch 64."""
    norm = layers.batch_norm(True, affine=False, average=parallel.mean)
    own = MixedCell(16, 4, False, False, PRIMITIVES, norm)
    maps = jax.ShapeDtypeStruct((64, 32, 32, 64 // len(devices)), jnp.dtype(precision))
    weights = jax.ShapeDtypeStruct((len(edges(4)), len(PRIMITIVES)), jnp.float32)
    v = jax.eval_shape(own.init, jax.random.key(0), maps, maps, weights)

    def loss(given: Any, inputs: Any) -> jax.Array:
        v, weights = given
        y, _ = own.apply(v, *inputs, weights, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 2).sum()

    like = parallel.layout(devices, 1, False).like
    assert like is not None
    given = like(((v, weights), (maps, maps)))
    return {"value and gradient": lambda: parallel.program(jax.value_and_grad(loss, (0, 1)), devices, given, False)}


def run_of(words: Sequence[str], data: Sequence[int], devices: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """Name → what compiles that program of a run."""
    c = config.parse(words, "--run").config
    *shape, classes, images = data
    # One image, as many times as there would be different ones.
    split = Split(np.broadcast_to(np.uint8(0), (images, *shape)), np.zeros(images, np.int32))
    ones = np.ones(shape[2], np.float32)
    found = compose.setting(c, Dataset(split, split, classes, ones, ones, (shape[0], shape[1], shape[2])))
    s = OnTopology(*found._replace(devices=list(devices)))
    runner: Any = SimpleNamespace(programs={}, feed=feed.in_memory(s))
    searched = Chain(c.method.name, SEARCH, compose.search(s, c.method.name).phases, lambda *_: [])
    space = compose.make_space(s)
    architecture = space.whole if space.whole is not None else space.sample(np.random.default_rng(0))
    trained = pipeline.training(runner, s, c.method.name, architecture, None).chain
    return {**foreseen.programs(runner, s, searched), **foreseen.programs(runner, s, trained)}


def compiled(work: Callable[[], Any], effort: float) -> tuple[Any, dict[str, Any]]:
    """The program, traced as on a TPU, and the facts about it."""
    seconds, processor = {LOWERING: 0.0, COMPILING: 0.0}, {LOWERING: 0.0, COMPILING: 0.0}

    def note(event: str, took: float, **_: Any) -> None:
        if event in seconds:  # the last of each is the program's own
            seconds[event], processor[event] = took, time.process_time()

    jax.monitoring.register_event_duration_secs_listener(note)
    before = time.perf_counter()
    options = {**compilation.options("tpu"), "exec_time_optimization_effort": effort}
    with (
        mock.patch.object(jax, "default_backend", lambda: "tpu"),
        mock.patch.object(compilation, "options", lambda platform: options),
    ):
        program = work()
    total = time.perf_counter() - before
    need, costs = memory.needed(program), program.cost_analysis()
    assert need is not None
    operations = re.findall(r"^ *(?:ROOT )?%?\S+ = .*? ([a-z][a-z0-9-]*)\(", program.as_text(), re.MULTILINE)
    return program, {
        "trace_seconds": total - seconds[COMPILING],
        "compile_seconds": seconds[COMPILING],
        "compile_processor_seconds": processor[COMPILING] - processor[LOWERING],
        "fixed_bytes": need.fixed,
        "temporary_bytes": need.temporary,
        "flops": costs["flops"],
        "bytes": costs["bytes accessed"],
        # Negative where the compiler's model of time is not at work.
        "seconds": costs["optimal_seconds"] if costs.get("optimal_seconds", -1) > 0 else None,
        "operations": len(operations),
        "fusions": operations.count("fusion"),
        "convolutions": operations.count("convolution"),
        "layout_changes": sum(map(operations.count, LAYOUT_CHANGES)),
    }


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    giga = {"flops": "GFLOP", "bytes": "GB moved", "temporary_bytes": "GB temporary", "fixed_bytes": "GB fixed"}
    return {
        "program": record["program"].partition(" [")[0][:40],
        **{name: record[name] for name in ("precision", "devices", "effort")},
        "trace s": record["trace_seconds"],
        "compile s": record["compile_seconds"],
        "of processor": record["compile_processor_seconds"],
        **{title: record[name] / 1e9 for name, title in giga.items()},
        "XLA's ms": None if record["seconds"] is None else 1000 * record["seconds"],
        **{name.replace("_", " "): record[name] for name in ("operations", "fusions", "layout_changes")},
    }


def in_this_process(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One case; the body of a process that `main` starts."""
    [precision], [count], [effort] = options.precisions, options.devices, options.efforts
    devices = topology(options.topology)
    if count > len(devices):
        raise errors.UserError(f"--devices {count}; allowed: 1 to {len(devices)}, those of {options.topology}")
    if options.run is None:
        [name] = options.sizes
        parts = cell(precision, devices[:count]) if name == CELL else step(SIZES[name], precision, devices[:count])
        works = {f"{name} {part}": work for part, work in parts.items()}
    else:
        words = [*options.run, "--runtime.precision", precision]
        works = run_of(words, options.data, devices[:count])
    found = []
    for name, work in works.items():
        say(f"{name}, {precision}, {count} devices, effort {effort:g}")
        program, facts = compiled(work, effort)
        if options.text:
            folder = pathlib.Path(options.text)
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())[:80]}-{precision}-{count}.hlo"
            file.write_text(program.as_text(), encoding="utf-8")
        found.append({"program": name, "precision": precision, "devices": count, "effort": effort, **facts})
        gigabytes = (facts["fixed_bytes"] + facts["temporary_bytes"]) / 1e9
        say(f"  compiled in {facts['compile_seconds']:.1f} s, takes {gigabytes:.2f} GB of a device")
    return found


def child(options: argparse.Namespace, size: str | None, precision: str, devices: int, effort: float) -> Any:
    """What `in_this_process` returns in a new process; None if that has refused, and has said so."""
    words = ["--child", "--precisions", precision, "--devices", devices, "--efforts", effort]
    words += ["--topology", options.topology, *(["--text", options.text] if options.text else [])]
    words += ["--sizes", size] if size else ["--data", *options.data, "--run", *options.run]
    finished = measure.run_in_process([sys.executable, str(pathlib.Path(__file__).resolve()), *map(str, words)])
    if finished.code == 2:
        return None
    if finished.code:
        raise errors.UserError(f"{size or 'run'}, {precision}: its process ended with code {finished.code}")
    return json.loads(finished.output.splitlines()[-1])


def main() -> int:
    parser = errors.Parser(prog="tpu_program.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, CELL], default=["digits", "paper"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--devices", nargs="+", type=int, default=[1], help="that share a batch")
    parser.add_argument("--efforts", nargs="+", type=float, default=EFFORTS[:1], help="of the compiler, -1 to 1")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--data", nargs=5, type=int, default=CIFAR, metavar=("H", "W", "C", "CLASSES", "IMAGES"))
    parser.add_argument("--text", help="a folder for the compiled programs as text")
    parser.add_argument("--output", help="a JSON file with machine, versions and every number")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="the words of a run, to the end")
    options = parser.parse_args()
    if min(options.devices) < 1:
        raise errors.UserError(f"--devices = {min(options.devices)}; allowed: at least 1")
    # The programs are for a TPU that is not there; everything else here is for this machine's CPU.
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    if options.child:
        print(json.dumps(in_this_process(options)))
        return 0
    records: list[dict[str, Any]] = []
    for size in [None] if options.run else options.sizes:
        for precision in options.precisions:
            for devices in options.devices:
                for effort in options.efforts:
                    found = child(options, size, precision, devices, effort)
                    if found is None:
                        return 2
                    records += found
                    if options.output:  # after each case: what took minutes is not lost with the next one
                        measure.write_json(options.output, {"machine": measure.machine(), "programs": records})
    print(f"{options.topology}, jax {jax.__version__}; memory, FLOPs, bytes and XLA's time are of one device")
    print(measure.table([row(record) for record in records]))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
