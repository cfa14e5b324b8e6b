"""What a search step has to do, what this machine could do, and where the time of our step goes; one CPU, float32.

    python benchmarks/profile_step.py [--size proxy] [--output FILE.json]

Prints the step's floating point operations (counted by PyTorch on the peer, which does the same mathematics), the bytes
that our compiled step reads and writes (XLA's count), the floors that follow from the machine's speed in a large matrix
product and in a large copy, and a profile of one step by kind of work.
"""

import collections
import glob
import gzip
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp

from benchmarks import measure, search_step
from dass_jax import errors

KINDS = (
    ("depthwise, gradient of the weights", r"transpose.*depthwise.*(sums_of_products|gradient_of_weights)"),
    ("depthwise, gradient of the input", r"transpose.*depthwise"),
    ("depthwise, forward", r"depthwise"),
    ("pools", r"_pools"),
    ("weighted sums of maps and their gradients", r"jit\((product|weighted_terms|_gradient_of_summed_maps)\)"),
    ("normalisation and its gradient", r"norm"),
    ("pointwise products", r"pointwise|dot_general"),
)
"""The first whose pattern is found in the name of the operation that a kernel came from."""


def flops(size: search_step.Size) -> int:
    """Floating point operations of the convolutions and products of a step, a multiplication and an addition each."""
    from torch.utils.flop_counter import FlopCounterMode

    step = search_step.peers(size, "peer NCHW")
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def limits(repetitions: int = 5) -> dict[str, float]:
    """The machine's operations per second in a product of 2,048² matrices, and bytes per second in a copy of 256 MB."""
    n = 2048
    a, b = jnp.ones((n, n)), jnp.ones(64 * 2**20)
    cases = {"product": jax.jit(lambda: a @ a), "copy": jax.jit(lambda: -b)}
    programs = {name: measure.compiled(case.lower()) for name, case in cases.items()}
    fastest = {name: min(times) for name, times in measure.alternately(programs, repetitions).items()}
    return {"flops": 2 * n**3 / fastest["product"], "bytes": 2 * b.nbytes / fastest["copy"]}


def kind(operation: str) -> str:
    """What kind of work an operation is, by JAX's name for where it comes from."""
    return next((name for name, pattern in KINDS if re.search(pattern, operation)), "other")


def origins(program: str) -> dict[str, str]:
    """Each instruction of a program in XLA's text form → the operation that it came from. Loops and calls are left out:
    what they consist of is there, and their time is the sum of its."""
    found = {}
    for line in program.splitlines():
        match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = .*?([a-z\-]+)\(", line)
        if match and match[2] not in ("while", "call"):
            operation = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = operation[1] if operation else ""
    return found


def spent(events: list[dict[str, Any]], origin: dict[str, str]) -> dict[str, float]:
    """Seconds by kind of work, the largest first."""
    seconds: collections.Counter[str] = collections.Counter()
    for event in events:
        name = event.get("name", "")
        if event.get("ph") == "X" and name in origin:
            seconds[kind(origin[name])] += event["dur"] / 1e6
    return dict(seconds.most_common())


def profile(size: search_step.Size) -> dict[str, Any]:
    """Seconds of a step, of its parts under the profiler, and XLA's count of bytes."""
    compiled, run = search_step.stepper(size, {})
    seconds = measure.alternately({"ours": run}, 3)["ours"]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            traced = time.perf_counter() - start
        (file,) = glob.glob(f"{folder}/**/perfetto_trace.json.gz", recursive=True)
        with gzip.open(file) as stream:
            events = json.load(stream)["traceEvents"]
    parts = spent(events, origins(compiled.as_text()))
    return {
        "seconds": seconds,
        "traced_seconds": traced,
        "bytes": compiled.cost_analysis()["bytes accessed"],
        "parts": parts,
    }


def main() -> int:
    parser = errors.Parser(prog="profile_step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=search_step.SIZES, default="proxy")
    parser.add_argument("--output", help="a JSON file with machine, versions and all figures")
    options = parser.parse_args()
    size = search_step.SIZES[options.size]
    found = {"size": options.size, "flops": flops(size), "limits": limits(), **profile(size)}
    if options.output:
        measure.write_json(options.output, {"machine": measure.machine(), **found})
    own, able = min(found["seconds"]), found["limits"]
    floors = {"arithmetic": found["flops"] / able["flops"], "memory": found["bytes"] / able["bytes"]}
    print(f"{options.size}: {own:.3g} s a step, {found['flops'] / 1e9:.3g} GFLOP, {found['bytes'] / 1e9:.3g} GB moved")
    print(f"machine: {able['flops'] / 1e9:.3g} GFLOP/s, {able['bytes'] / 1e9:.3g} GB/s")
    print("floors: " + ", ".join(f"{name} {floor:.3g} s ({own / floor:.2g} ×)" for name, floor in floors.items()))
    total = sum(found["parts"].values())
    print(measure.table([{"kind": k, "s": s, "%": 100 * s / total} for k, s in found["parts"].items()]))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
