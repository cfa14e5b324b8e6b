"""`python -m dass_jax.latency.parts --space NAME`: a table of a space's parts, measured on the device at hand, that
predicts the dense latency of any of its networks.

An entry is what one more part of a kind costs: the difference between a chain of several and one of a single part, or,
where a part changes the shape, between one and none. What all networks have in common is one number, `rest`, by which
a few random reference networks are predicted right in their mean. How far off others are is measured on other ones.
A search reads the table as `space.latency`.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dass_jax.errors import Parser, UserError, check_new_file, guarded, number_of
from dass_jax.latency.clock import TIMES
from dass_jax.schema import Range, check_arguments

CHAIN = 4
"""Parts in a row in the longer of two chains."""
REFERENCES, FIRST_REFERENCE = 4, 10**6
"""How many random architectures say what is common to all, and the first one's seed: far from those that errors are
of."""
RANGES = {"image_size": Range(1, 4096), "batch": Range(1, 65_536), "check": Range(0, 1000), **TIMES}


class Table(NamedTuple):
    """Milliseconds."""

    entries: dict[str, float]
    rest: float


class Subject(NamedTuple):
    """A space at one size, and how its networks are made."""

    timed: Any
    """`spaces.latencies.Timed`."""
    sample: Callable[[int], Any]
    """Seed → architecture."""
    network: Callable[[Any], Any]
    """Architecture → its graph."""


def subject(name: str, fields: Any, images: Any) -> Subject:
    """That of a space's fields, for images as `count` knows them. The network has the space's values of all fields that
    both have. Raises UserError for a space that has no such parts."""
    import numpy as np

    from dass_jax.latency import dense
    from dass_jax.networks import NETWORKS
    from dass_jax.nn.layers import one_device
    from dass_jax.spaces import SPACES

    entry, shape = SPACES[name], (images.size, images.size, images.channels)
    if entry.timed is None:
        known = ", ".join(name for name, entry in SPACES.items() if entry.timed is not None)
        raise UserError(f"--space = {name!r}; allowed: {known}")
    schema = NETWORKS[name].schema
    own = schema(**{field: value for field, value in vars(fields).items() if field in vars(schema())})
    space = entry.make(fields, images.classes, one_device, None)

    def network(architecture: Any) -> Any:
        return dense.network(NETWORKS[name].make(architecture, own, images.classes, False, one_device, None), shape)

    return Subject(
        entry.timed(fields, images.classes, shape), lambda seed: space.sample(np.random.default_rng(seed)), network
    )


def graphs(timed: Any) -> dict[str, tuple[Any, Any, int]]:
    """For each part two graphs, of which the first has so many more of it than the second."""
    from dass_jax.latency import dense
    from dass_jax.nn import layers

    norm = layers.batch_norm(False, affine=True)

    def pair(part: Any) -> tuple[Any, Any, int]:
        channels, height, width = part.shape
        least, most = (1, CHAIN) if part.repeats else (0, 1)

        def chain(length: int) -> Any:
            return dense.chain(lambda name: part.make(norm, name), length, (height, width, channels))

        return chain(most), chain(least), most - least

    return {name: pair(part) for name, part in timed.parts.items()}


def predicted(table: Table, uses: Mapping[str, int]) -> float:
    """Milliseconds of a network of these parts."""
    return table.rest + sum(number * table.entries[name] for name, number in uses.items())


def measured(
    of: Subject, runner: Callable[[Any], Callable[[], Any]], warm_up: int, repetitions: int, check: int
) -> tuple[Table, dict[str, Any]]:
    """The table of this machine, and how it predicts so many random networks (`compared`; of none {}).

    Args:
      runner: a graph → a call that runs it.
    """
    from dass_jax.latency import clock

    pairs = graphs(of.timed)
    calls = {f"{name}/{place}": runner(pair[place]) for name, pair in pairs.items() for place in (0, 1)}
    times = clock.in_turns(calls, warm_up, repetitions)
    entries = {
        name: round((times[f"{name}/0"].median - times[f"{name}/1"].median) / more, 5)
        for name, (_, _, more) in pairs.items()
    }
    # Whole networks in turns among themselves: beside small chains they would find their weights in the cache.
    seeds = [*range(FIRST_REFERENCE, FIRST_REFERENCE + REFERENCES), *range(check)]
    found = [of.sample(seed) for seed in seeds]
    calls = {str(seed): runner(of.network(one)) for seed, one in zip(seeds, found, strict=True)}
    there = [time.median for time in clock.in_turns(calls, warm_up, repetitions).values()]
    uses = [of.timed.uses(one) for one in found]
    alone = Table(entries, 0.0)
    rests = [time - predicted(alone, own) for time, own in zip(there[:REFERENCES], uses, strict=False)]
    table = Table(entries, round(statistics.fmean(rests), 5))
    wanted = [predicted(table, own) for own in uses[REFERENCES:]]
    return table, compared(there[REFERENCES:], wanted) if check else {}


def compared(measured: Sequence[float], predicted: Sequence[float]) -> dict[str, Any]:
    """Both lists of milliseconds, their mean relative error and rank correlation."""
    import numpy as np
    from scipy import stats

    there, wanted = np.array(measured), np.array(predicted)
    return {
        "measured_ms": [round(float(value), 4) for value in there],
        "predicted_ms": [round(float(value), 4) for value in wanted],
        "mean_relative_error": round(float(np.mean(np.abs(wanted - there) / there)), 4),
        "rank_correlation": round(float(stats.spearmanr(there, wanted).statistic), 4) if len(there) > 2 else None,
    }


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and flags of the space's fields. Raises UserError."""
    from dass_jax import count

    parser = Parser(
        prog="python -m dass_jax.latency.parts",
        description="Measures a table of a space's parts that predicts the dense latency of any of its networks.",
        epilog="Every field of the space is a flag too: --backbone cpu, --stages 2 2.",
        allow_abbrev=False,
    )
    parser.add_argument("--space", metavar="NAME", required=True)
    parser.add_argument("--dataset", choices=count.DATASETS, default="cifar10", help="whose images; default: cifar10")
    parser.add_argument("--image-size", type=int, help="height and width in pixels; default: the data set's")
    parser.add_argument("--batch", type=int, default=1, help="images in a call; default: 1")
    parser.add_argument("--runtime", choices=("onnx", "xla"), default="xla", help="default: xla")
    parser.add_argument("--check", type=int, default=20, help="random networks to measure the error on; default: 20")
    parser.add_argument("--warm-up", type=int, default=20, help="untimed runs; default: 20")
    parser.add_argument("--repetitions", type=int, default=100, help="timed runs; default: 100")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write the table as JSON")
    found, rest = parser.parse_known_args(argv)
    check_arguments(found, RANGES)
    check_new_file(found.out, "--out")
    return found, rest


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    given, rest = parse(argv)
    import jax

    from dass_jax import count
    from dass_jax.latency import dense
    from dass_jax.runtime.progress import Progress
    from dass_jax.spaces import SPACES

    images, progress = count.DATASETS[given.dataset], Progress()
    images = images._replace(size=given.image_size or images.size)
    entry = count.member("space", given.space, SPACES)
    fields = count.fields_of(rest, entry.schema, images.usual, given.space)
    entry.check(fields)
    of, runner = subject(given.space, fields, images), dense.runner(given.runtime, given.batch)
    with progress.busy(f"measuring {number_of(len(of.timed.parts), 'part')} and {REFERENCES + given.check} networks"):
        table, off = measured(of, runner, given.warm_up, given.repetitions, given.check)
    for name, value in table.entries.items():
        print(f"{name:<50}{value:>10.4f} ms")
    print(f"{'everything else':<50}{table.rest:>10.4f} ms")
    if odd := sum(value < 0 for value in table.entries.values()):
        print(
            f"{odd} of {number_of(len(table.entries), 'part')} measured as less than nothing: the differences drown in "
            "noise; a quiet machine or more --repetitions help"
        )
    if off:
        said = f"mean relative error {100 * off['mean_relative_error']:.1f} %"
        print(f"{number_of(given.check, 'random network')}: {said}, rank correlation {off['rank_correlation']}")
    if given.out is not None:
        about = {
            "space": given.space,
            "fields": vars(fields),
            "image": [images.size, images.size, images.channels],
            "device": "cpu" if given.runtime == "onnx" else jax.devices()[0].device_kind,
            "runtime": given.runtime,
            "batch": given.batch,
        }
        text = json.dumps({**about, **table._asdict(), "check": off}, indent=2, ensure_ascii=False)
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
