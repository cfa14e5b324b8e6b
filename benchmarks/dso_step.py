"""Seconds of a turn of DSO-NAS' search, weights then factors: ours, with a part of the connections too, and PyTorch's.

    python benchmarks/dso_step.py [--stages 2 2 2] [--channels 16] [--batch 64] [--size 32] [--part 0.5] [--remat]
                                  [--repetitions N] [--output FILE.json]

All do the same: cross-entropy on a batch and Nesterov SGD on the weights, then on another batch an accelerated proximal
step on the factors. Ours runs in the loop in which a search runs, the peer eagerly, in both memory layouts. All take
turns in one process, float32. The peer is the definition that the tests hold ours against. The part of the connections
is that of a block drawn at random and swept, which has most of its operations still. Memory is what our programs have
at most, by XLA's own plan; with `--remat` also that of the one that works out each block anew on the way back.
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from benchmarks import measure, subjects
from dass_jax import bilevel, errors
from dass_jax.architectures.dso import BRANCHES, connections, targets
from dass_jax.methods import dso as method
from dass_jax.nn.level_blocks import columns
from dass_jax.runtime import epoch
from dass_jax.spaces import dso as space_of
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

OURS, PART, PEERS = "ours", "ours, a part", ("peer NCHW", "peer channels_last")
REMAT = "ours, remat"
CLASSES, ETA, GAMMA, MOMENTUM, DECAY, CLIP = 10, 0.1, 1e-3, 0.9, 3e-4, 2.0


class Work(NamedTuple):
    """What is searched on what."""

    stages: tuple[int, ...]
    channels: int
    pixels: int
    """Height and width of an image."""
    batch: int
    part: float
    """Of the connections."""
    remat: bool = False
    """Measure `space.remat` too."""

    @property
    def fields(self) -> space_of.Fields:
        number = len(connections(4, 4))
        return space_of.Fields(
            stages=self.stages, channels=self.channels, random_connections=max(1, round(self.part * number))
        )


def examples(work: Work) -> epoch.Examples:
    """What both are trained on."""
    return subjects.noise(CLASSES, work.pixels, work.batch)


def part_of(work: Work) -> dict[str, np.ndarray]:
    """The living connections of a random block, {matrix: bool}."""
    found = space_of.sample(work.fields, np.random.default_rng(0))
    return {name: matrix > 0 for name, matrix in space_of.encode(work.fields, found).items()}


def step(work: Work, live: Any = None, remat: bool = False) -> tuple[Callable[[], bilevel.State], Callable[..., Any]]:
    """(the state at first, the search's `update`), of the program of the living connections; None: of all."""
    fields = dataclasses.replace(work.fields, remat=remat)
    whole, space = (space_of.dso(fields, CLASSES, live=own) for own in (None, live))
    problem = subjects.searched(space, CLASSES, (work.pixels, work.pixels, 3))
    algorithm = method.step(method.Fields(gamma=GAMMA), problem, space)

    def init() -> bilevel.State:
        v = method.fresh(problem, whole, jax.random.key(0))
        own = v if live is None else {**v, **{name: whole.carried(v[name], live) for name in (PARAMS, BATCH_STATS)}}
        alive = v[method.CONNECTIONS]["alive"] if live is None else live
        return algorithm.init({**own, method.CONNECTIONS: {**v[method.CONNECTIONS], "alive": alive}})

    return init, algorithm.update


def ours(
    work: Work, live: Any = None, remat: bool = False, planned: Callable[[int], Any] = lambda size: None
) -> Callable[[], Any]:
    """A turn of ours in the loop of an epoch, each call from where the last one ended; `planned` as `measure.onward`
    has it."""
    init, update = step(work, live, remat)

    def prepare(given: epoch.Examples, rows: Any, key: Any, rates: Any) -> Batch:
        return Batch(*given)

    loop = epoch.epoch(update, dict.fromkeys(("lower", "upper"), prepare))
    rows = {level: np.zeros((1, 1), np.int32) for level in ("lower", "upper")}
    inputs = jax.device_put((examples(work), rows, jax.random.key(2)))
    rates = {"learning_rate": {level: np.full(1, ETA, np.float32) for level in rows}}
    rest = (rates, np.int32(0), np.int32(1))
    return measure.onward(loop, jax.jit(init)(), *inputs, *rest, planned=planned)


def peers(work: Work, case: str) -> Callable[[], Any]:
    """A turn of the peer's in the given memory layout, with one thread for each core."""
    import torch
    from torch.nn import functional

    from tests.networks.torch_dso import Net

    torch.set_num_threads(measure.machine()["cores"])
    layout = torch.channels_last if case == "peer channels_last" else torch.contiguous_format
    c, given = work.fields, examples(work)
    space = space_of.dso(c, CLASSES)
    v = jax.jit(lambda: space.init(jax.random.key(0), (work.pixels, work.pixels, 3)))()
    values = {
        name: torch.from_numpy(np.array(x))
        for name, x in flatten({PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS]}).items()
    }
    weights = {name: x.requires_grad_() for name, x in values.items() if name.startswith("params")}
    factors = {name: torch.from_numpy(x).requires_grad_() for name, x in space.encode(space.whole).items()}
    velocity = {name: torch.zeros_like(x) for name, x in factors.items()}
    sizes = c.levels, len(c.operations)
    rows, names = targets(*sizes), columns(*sizes)
    blocks = [connections(*sizes)] * sum(c.stages)
    images = torch.from_numpy(np.moveaxis(given.images, -1, 0).copy()).contiguous(memory_format=layout)
    labels = torch.from_numpy(given.targets.astype(np.int64))
    optimizer = torch.optim.SGD(weights.values(), ETA, MOMENTUM, weight_decay=DECAY, nesterov=True)

    def loss() -> Any:
        def factor(block: int, source: str, target: str) -> Any:
            return factors["block"][rows.index(target), names.index(source)]

        branches = [
            [(name, factors["reductions"][stage, j]) for j, name in enumerate(BRANCHES)]
            for stage in range(len(c.stages) - 1)
        ]
        return functional.cross_entropy(
            Net(values, True)(images, c.stages, c.operations, blocks, factor, branches), labels
        )

    def call() -> float:
        for w, g in zip(weights.values(), torch.autograd.grad(loss(), list(weights.values())), strict=True):
            w.grad = g.clamp(-CLIP, CLIP)
        optimizer.step()
        value = loss()
        for name, g in zip(factors, torch.autograd.grad(value, list(factors.values())), strict=True):
            with torch.no_grad():
                z = functional.softshrink(factors[name] - ETA * g.clamp(-CLIP, CLIP), ETA * GAMMA)
                velocity[name] = z - factors[name] + MOMENTUM * velocity[name]
                factors[name].copy_((z + MOMENTUM * velocity[name]).clamp(min=0))
        return value.item()

    return call


def measured(work: Work, repetitions: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """(seconds of one turn in each repetition, bytes planned for ours), by case."""
    planned: dict[str, int] = {}
    programs = {OURS: (None, False), PART: (part_of(work), False), **({REMAT: (None, True)} if work.remat else {})}
    cases = {
        case: ours(work, live, remat, functools.partial(planned.__setitem__, case))
        for case, (live, remat) in programs.items()
    }
    cases |= {case: peers(work, case) for case in PEERS}
    return measure.alternately(cases, repetitions, rest=0.3), planned


def table_rows(seconds: dict[str, list[float]], planned: dict[str, int]) -> list[dict[str, Any]]:
    """A table's rows."""
    return [
        {
            "case": case,
            "median s": statistics.median(own),
            "least s": min(own),
            "over ours": measure.ratio_of_medians(own, seconds[OURS]),
            "planned GB": planned[case] / 1e9 if case in planned else None,
        }
        for case, own in seconds.items()
    ]


def claims(work: Work, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The ratios that are asked for, of the medians."""
    peer, part = PEERS[1], f"ours over {100 * work.part:g} % of the connections"
    return [
        {
            "ratio": f"{peer} over ours",
            "is": measure.ratio_of_medians(seconds[peer], seconds[OURS]),
            "wanted": "at least 1, aim 1.5",
        },
        {
            "ratio": part,
            "is": measure.ratio_of_medians(seconds[OURS], seconds[PART]),
            "wanted": "at least 1.4" if work.part == 0.5 else "",
        },
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table, writes the record."""
    parser = errors.Parser(prog="dso_step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 2, 2], help="blocks of each stage")
    parser.add_argument("--channels", type=int, default=16, help="of the first stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--part", type=float, default=0.5, help="of the connections that live")
    parser.add_argument("--remat", action="store_true", help="also with each block worked out anew on the way back")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        raise errors.UserError(f"--repetitions = {options.repetitions}; allowed: at least 1")
    work = Work(tuple(options.stages), options.channels, options.size, options.batch, options.part, options.remat)
    seconds, planned = measured(work, options.repetitions)
    print(measure.table(table_rows(seconds, planned)))
    print(measure.table(claims(work, seconds)))
    if options.output:
        found = {"machine": measure.machine(), "work": work, "seconds": seconds, "planned_bytes": planned}
        measure.write_json(options.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
