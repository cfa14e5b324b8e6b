"""What less memory costs: the search step with cells recomputed in the backward pass, and with batches in parts.

    python benchmarks/less_memory.py [--sizes proxy] [--repetitions N] [--output FILE.json]

For each case one process says how much memory it needs with its program from a cache; one more times all, alternating.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import measure, search_step
from dass_jax import errors


class Case(NamedTuple):
    """A way to work through a batch."""

    remat: bool
    parts: int


CASES = {
    "plain": Case(False, 1),
    "remat": Case(True, 1),
    "accumulate 4": Case(False, 4),
    "remat, accumulate 4": Case(True, 4),
}


def in_this_process(name: str, cases: list[str], repetitions: int) -> dict[str, Any]:
    """Times the cases, alternating; the body of a process that `main` starts."""
    size, made, records = search_step.SIZES[name], {}, {}
    for case in cases:
        own = size._replace(config=size.config._replace(remat=CASES[case].remat))
        records[case] = dict[str, Any]()
        made[case] = search_step.ours(own, records[case], CASES[case].parts)
    return {"records": records, "seconds": measure.alternately(made, repetitions)}


def measured(name: str, repetitions: int) -> dict[str, Any]:
    """All that is known of one size."""
    child = functools.partial(search_step.child, name, script=__file__)
    compiling, peaks = {}, {}
    for case in CASES:
        search_step.say(f"{name}: {case}, compiled from a cold cache")
        compiling[case] = child([case], 1)[0]["records"][case]
        search_step.say(f"{name}: memory of {case}")
        peaks[case] = child([case], 1)[1]
    search_step.say(f"{name}: {repetitions} repetitions of all, alternating")
    seconds = child(list(CASES), repetitions)[0]["seconds"]
    return {"size": name, "compiling": compiling, "bytes": peaks, "seconds": seconds}


def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table's rows of one size."""
    plain = record["seconds"]["plain"]
    for case, seconds in record["seconds"].items():
        yield {
            "size": record["size"],
            "case": case,
            "median s": statistics.median(seconds),
            "time/plain": statistics.median(own / whole for own, whole in zip(seconds, plain, strict=True)),
            "planned GB": record["compiling"][case]["estimated_bytes"] / 1e9,
            "peak GB": record["bytes"][case] / 1e9,
            "compile s": record["compiling"][case]["compile_seconds"],
        }


def main() -> int:
    parser = errors.Parser(prog="less_memory.py", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=search_step.SIZES, default=["proxy"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repetitions < 1:
        raise errors.UserError(f"--repetitions = {options.repetitions}; allowed: at least 1")
    if options.child:
        print(json.dumps(in_this_process(options.sizes[0], options.child, options.repetitions)))
        return 0
    records: list[dict[str, Any]] = []
    with search_step.cache():
        for name in options.sizes:
            records.append(measured(name, options.repetitions))
            if options.output:  # after each size: what took minutes is not lost with the next one
                measure.write_json(options.output, {"machine": measure.machine(), "sizes": records})
    print(measure.table([row for record in records for row in rows(record)]))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
