"""`python -m dass_jax.latency.lookup`: a table of operations that predicts the dense latency of any genotype, batch 1.

It is a table of DARTS' operations and the one file here that knows a space; the other commands take any network.

An entry is what one more operation of a kind costs at a place: its channels, image and stride. What all networks of the
same sizes have in common (stem, 1×1 convolutions before each cell, sums, classifier) is one number, `rest`, so that a
few random reference networks are predicted right in their mean. How far off others are is measured on other genotypes.
Where nodes are not connected the 1×1 convolutions are smaller: such a network is predicted a little too slow.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dass_jax.architectures.darts import OPERATIONS, Genotype, reductions
from dass_jax.errors import Parser, check_new_file, guarded, number_of, show
from dass_jax.latency import parts
from dass_jax.latency.clock import TIMES
from dass_jax.schema import Range, check_arguments

CHAIN = 4
"""Operations in a row in the longer of the two chains whose difference is an entry of stride 1."""

REFERENCES, FIRST_REFERENCE = 4, 10**6
"""How many random genotypes say what is common to all, and the first one's seed: far from those that errors are of."""


class Sizes(NamedTuple):
    """Of a derived network on square images with the stem for small ones."""

    cells: int = 20
    channels: int = 36
    nodes: int = 4
    image: int = 32
    classes: int = 10


class Place(NamedTuple):
    """Where an operation is: its channels, the side of its input and its stride."""

    channels: int
    side: int
    stride: int


class Table(NamedTuple):
    """Milliseconds. Keys are those of `key`."""

    entries: dict[str, float]
    rest: float


def key(operation: str, place: Place) -> str:
    """`"sep_conv_3x3, 72 channels, 16×16, stride 1"`."""
    return f"{operation}, {place.channels} channels, {place.side}×{place.side}, stride {place.stride}"


def places(sizes: Sizes) -> list[tuple[Place, Place]]:
    """For each cell: the place of operations on its inputs, and that of operations on its nodes."""
    found, channels, side = [], sizes.channels, sizes.image
    for index in range(sizes.cells):
        stride = 2 if index in reductions(sizes.cells) else 1
        channels, before, side = channels * stride, side, -(-side // stride)
        found.append((Place(channels, before, stride), Place(channels, side, 1)))
    return found


def operations(genotype: Genotype, sizes: Sizes) -> list[str]:
    """The keys of all operations of a network."""
    found = []
    for index, (on_inputs, on_nodes) in enumerate(places(sizes)):
        cell = genotype.reduce if index in reductions(sizes.cells) else genotype.normal
        for node in cell:
            found += [key(operation, on_inputs if source < 2 else on_nodes) for operation, source in node]
    return found


def predicted(table: Table, genotype: Genotype, sizes: Sizes) -> float:
    """Milliseconds of a genotype's network, dense."""
    return table.rest + sum(table.entries[name] for name in operations(genotype, sizes))


def references(nodes: int) -> list[Genotype]:
    """Whose networks give `rest`."""
    return [sampled(seed, nodes) for seed in range(FIRST_REFERENCE, FIRST_REFERENCE + REFERENCES)]


def sampled(seed: int, nodes: int) -> Genotype:
    """A random genotype."""
    import numpy as np

    from dass_jax.spaces.darts import sample

    return sample(np.random.default_rng(seed), nodes)


def chain(operation: str, place: Place, length: int) -> Any:
    """The graph of so many operations in a row."""
    from dass_jax.latency import dense
    from dass_jax.nn import layers
    from dass_jax.nn.primitives import primitive

    norm = layers.batch_norm(False, affine=True)
    image = (place.side, place.side, place.channels)
    return dense.chain(lambda name: primitive(operation, place.channels, place.stride, norm, None, name), length, image)


def network(genotype: Genotype, sizes: Sizes) -> Any:
    """The graph of a genotype's dense network."""
    from dass_jax.latency import dense
    from dass_jax.networks.derived import NetworkConfig, derived

    config = NetworkConfig(sizes.classes, sizes.cells, sizes.channels, auxiliary=False)
    return dense.network(derived(genotype, config), (sizes.image, sizes.image, 3))


def graphs(sizes: Sizes) -> dict[str, tuple[Any, Any, int]]:
    """For each key two graphs, of which the first has so many more of that operation than the second."""
    found = {}
    for place in sorted({place for pair in places(sizes) for place in pair}):
        more = CHAIN if place.stride == 1 else 1
        for operation in OPERATIONS:
            if (operation, place.stride) != ("skip_connect", 1):
                found[key(operation, place)] = (
                    chain(operation, place, more),
                    chain(operation, place, 1 if place.stride == 1 else 0),
                    more - (place.stride == 1),
                )
    return found


def measured(sizes: Sizes, runner: Callable[[Any], Callable[[], Any]], warm_up: int, repetitions: int) -> Table:
    """The table of this machine.

    Args:
      runner: a graph → a call that runs it on one image.
    """
    from dass_jax.latency import clock

    pairs = graphs(sizes)
    times = clock.in_turns(
        {f"{name}/{part}": runner(pair[part]) for name, pair in pairs.items() for part in (0, 1)}, warm_up, repetitions
    )
    entries = {
        name: round((times[f"{name}/0"].median - times[f"{name}/1"].median) / more, 5)
        for name, (_, _, more) in pairs.items()
    }
    for place in {place for pair in places(sizes) for place in pair if place.stride == 1}:
        entries[key("skip_connect", place)] = 0.0
    known = references(sizes.nodes)
    times_of_known = _networks(known, sizes, runner, warm_up, repetitions)
    rests = [time - predicted(Table(entries, 0.0), one, sizes) for time, one in zip(times_of_known, known, strict=True)]
    return Table(entries, round(statistics.fmean(rests), 5))


def _networks(
    found: Sequence[Genotype], sizes: Sizes, runner: Callable[[Any], Callable[[], Any]], warm_up: int, repetitions: int
) -> list[float]:
    """Milliseconds of whole networks, in turns among themselves: beside small chains they would find their weights in
    the cache."""
    from dass_jax.latency import clock

    calls = {str(number): runner(network(one, sizes)) for number, one in enumerate(found)}
    return [time.median for time in clock.in_turns(calls, warm_up, repetitions).values()]


def errors(
    table: Table, sizes: Sizes, runner: Callable[[Any], Callable[[], Any]], number: int, warm_up: int, repetitions: int
) -> dict[str, Any]:
    """Measured and predicted milliseconds of random genotypes, their mean relative error and rank correlation."""
    found = [sampled(seed, sizes.nodes) for seed in range(number)]
    there = _networks(found, sizes, runner, warm_up, repetitions)
    return parts.compared(there, [predicted(table, one, sizes) for one in found])


RANGES = {"cells": Range(1, 200), "channels": Range(1, 4096), "nodes": Range(1, 8), "image": Range(1, 4096)}
RANGES |= {"classes": Range(1, 10**6), "check": Range(0, 1000), **TIMES}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.latency.lookup",
        description="Measures a table of operations that predicts the dense latency of any genotype of these sizes.",
    )
    for name, default in Sizes()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--runtime", choices=("onnx", "xla"), help="default: onnx where it is installed")
    parser.add_argument("--check", type=int, default=12, help="random genotypes to measure the error on; default: 12")
    parser.add_argument("--warm-up", type=int, default=20, help="untimed runs; default: 20")
    parser.add_argument("--repetitions", type=int, default=100, help="timed runs; default: 100")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write the table as JSON")
    found = parser.parse_args(argv)
    check_arguments(found, RANGES)
    check_new_file(found.out, "--out")
    return found


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    given = parse(argv)
    from dass_jax.latency import dense
    from dass_jax.runtime.progress import Progress

    sizes, progress = Sizes(*(getattr(given, name) for name in Sizes._fields)), Progress()
    runner = dense.runner(given.runtime)
    with progress.busy("measuring operations"):
        table = measured(sizes, runner, given.warm_up, given.repetitions)
    off: Mapping[str, Any] = {}
    if given.check:
        with progress.busy(f"measuring {number_of(given.check, 'random genotype')}"):
            off = errors(table, sizes, runner, given.check, given.warm_up, given.repetitions)
    if given.out is not None:
        content = {"sizes": sizes._asdict(), **table._asdict(), "check": off}
        given.out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in table.entries.items():
        show(f"{name:<50}{value:>10.4f} ms")
    show(f"{'everything else':<50}{table.rest:>10.4f} ms")
    if off:
        said = f"mean relative error {100 * off['mean_relative_error']:.1f} %"
        known = number_of(given.check, "random genotype")
        show(f"{known}: {said}, rank correlation {off['rank_correlation']}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
