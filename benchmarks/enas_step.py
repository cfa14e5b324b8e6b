"""Seconds of ENAS' steps: a child's through the shared program, the same child compiled alone, and PyTorch's; and those
of the controller's samples with their rewards, compared with bare forward passes of the same children.

    python benchmarks/enas_step.py [--space enas_macro] [--layers 12] [--channels 36] [--batch 32] [--size 32]
                                   [--children 2] [--samples 20] [--repetitions N] [--output FILE.json]

A child's step: cross-entropy on a batch, Nesterov SGD on the weights that are part of it. In the shared program which
child it is, is data; alone its integers are the program's own, and nothing else differs. Ours run in the loop in which
a search runs, the peer eagerly, in both memory layouts: it is the definition that the tests hold ours against. An
update of the controller draws its samples, rewards each on a batch of its own and takes a step; the forward passes are
of as many children, through the shared program, each on a batch too. All take turns in one process, float32.
"""

import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, subjects
from dass_jax import bilevel, errors, methods, schema
from dass_jax.architectures import enas_macro, enas_micro
from dass_jax.methods import enas, sampled
from dass_jax.methods.enas import CONTROLLER
from dass_jax.methods.sampled import ARCHITECTURE, CHILD, SAMPLED
from dass_jax.phases import single
from dass_jax.runtime import epoch
from dass_jax.schema import Range
from dass_jax.spaces import SPACES
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

SHARED, ALONE, PEERS = "shared", "alone", ("peer NCHW", "peer channels_last")
SAMPLES, FORWARD = "samples with rewards", "forward passes"
CLASSES, COLOURS, GIVEN = 10, 3, "given"
DEFAULTS = {"enas_macro": (12, 36), "enas_micro": (6, 20)}
"""Layers and channels of the published searches."""
LIMITS = {SHARED: "at most 1.3", FORWARD: "at most 1.5", PEERS[1]: "at least 1, aim 1.5"}


class Work(NamedTuple):
    """What is searched on what."""

    space: str
    layers: int
    channels: int
    pixels: int
    """Height and width of an image."""
    batch: int
    samples: int
    """Of an update of the controller."""

    @property
    def made(self) -> Any:
        """The space."""
        entry = SPACES[self.space]
        return entry.make(entry.schema(self.layers, self.channels), CLASSES, bilevel.levels.same, None)

    @property
    def fields(self) -> enas.Fields:
        """Of the search."""
        return enas.Fields(batch_size=self.batch, samples=self.samples)


def examples(work: Work) -> epoch.Examples:
    """What ours and the peer are trained on."""
    return subjects.noise(CLASSES, work.pixels, work.batch)


def problem_of(work: Work, space: Any) -> methods.Problem:
    """The search's."""
    return subjects.searched(space, CLASSES, (work.pixels, work.pixels, COLOURS))


def children(work: Work, number: int) -> list[Any]:
    """So many architectures, drawn uniformly."""
    generator = np.random.default_rng(0)
    return [work.made.sample(generator) for _ in range(number)]


def step(work: Work, child: Any, alone: bool) -> tuple[Callable[[], bilevel.State], Callable[..., Any]]:
    """(the state at first, `update`) of a child's step: the search's own, or the same with the child's integers as part
    of the program."""
    space, c = work.made, work.fields
    problem, choice = problem_of(work, space), space.encode(child)
    shared = sampled.child(c, problem, space, lambda v, key: v[GIVEN])
    plain = {name: tuple(numbers.tolist()) for name, numbers in choice.items()}
    loss = sampled.child_loss(space, problem.task, sampled.dense_weights)
    own = bilevel.Level(
        PARAMS,
        lambda v, batch, key: loss({**v, ARCHITECTURE: plain}, batch, key),
        bilevel.with_rate(bilevel.sgd_of_parts(c.momentum, c.weight_decay), CHILD),
    )
    descent = bilevel.descend(own, problem.average)

    def compiled_alone(state: bilevel.State, batch: Batch, key: jax.Array, **extra: Any) -> Any:
        moving = space.sampled.moving(state.variables[PARAMS], choice)
        return descent.update(state, batch, key, moving=moving, **extra)

    def init() -> bilevel.State:
        v = sampled.fresh(problem, space, jax.random.key(0))
        given = {GIVEN: jax.tree.map(jnp.asarray, choice)}
        return shared.init({**v, **given})

    algorithm = bilevel.Algorithm(shared.init, compiled_alone) if alone else shared
    return init, single(algorithm, CHILD).update


def looped(work: Work, init: Any, update: Any, level: str, rate: float, batches: int) -> Callable[[], Any]:
    """A step in the loop of an epoch, each call from where the last one ended."""
    loop = epoch.epoch(update, {level: lambda examples, rows, key, rates: Batch(*examples[:2])})
    rows = {level: np.zeros((1, *([batches] if batches > 1 else []), 1), np.int32)}
    inputs = jax.device_put((examples(work), rows, jax.random.key(2)))
    rates = {"learning_rate": {level: np.full(1, rate, np.float32)}}
    return measure.onward(loop, jax.jit(init)(), *inputs, rates, np.int32(0), np.int32(1))


def ours(work: Work, child: Any, alone: bool) -> Callable[[], Any]:
    """A child's step."""
    return looped(work, *step(work, child, alone), CHILD, work.fields.theta_lr, 1)


def controller(work: Work) -> Callable[[], Any]:
    """An update of the controller."""
    space, c = work.made, work.fields
    problem = problem_of(work, space)
    algorithm = enas.controller(c, problem, space)

    def init() -> bilevel.State:
        return algorithm.init(enas.fresh(c, problem, space, jax.random.key(0)))

    return looped(work, init, single(algorithm, CONTROLLER).update, CONTROLLER, c.controller_lr, work.samples)


def forward(work: Work) -> Callable[[], Any]:
    """As many children as an update of the controller draws, each on a batch: the figures that rewards are made of."""
    space, c = work.made, work.fields
    problem = problem_of(work, space)

    def passes(v: Any, given: epoch.Examples) -> Any:
        def of_one(choice: Any) -> Any:
            outputs, _ = space.apply(v[PARAMS], v[BATCH_STATS], choice, given.images, True)
            return problem.task.measured(outputs, given.targets)

        return v, jax.lax.map(of_one, v[SAMPLED]["choices"])

    v = jax.jit(lambda: enas.fresh(c, problem, space, jax.random.key(0)))()
    return measure.onward(passes, v, jax.device_put(examples(work)))


def peers(work: Work, child: Any, case: str) -> Callable[[], Any]:
    """A step of the peer's in the given memory layout, with one thread for each core."""
    import torch
    from torch.nn import functional

    from tests.networks import torch_enas

    torch.set_num_threads(measure.machine()["cores"])
    layout = torch.channels_last if case == PEERS[1] else torch.contiguous_format
    space, c, given = work.made, work.fields, examples(work)
    v = jax.jit(lambda: space.init(jax.random.key(0), (work.pixels, work.pixels, COLOURS)))()
    values = {path: torch.from_numpy(np.array(x)).requires_grad_() for path, x in flatten({PARAMS: v[PARAMS]}).items()}
    network = torch_enas.Variables(values)
    images = torch.from_numpy(np.moveaxis(given.images, -1, 0).copy()).contiguous(memory_format=layout)
    labels = torch.from_numpy(given.targets.astype(np.int64))
    optimizer = torch.optim.SGD(values.values(), c.theta_lr, c.momentum, weight_decay=2 * c.weight_decay, nesterov=True)

    def outputs() -> Any:
        if work.space == "enas_macro":
            return torch_enas.macro_child(network, *child, enas_macro.pools(work.layers), images)
        reductions = enas_micro.reductions(work.layers)
        return torch_enas.micro_child(network, child, work.layers, reductions, work.channels, images)

    def call() -> float:
        loss = functional.cross_entropy(outputs(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def measured(work: Work, number: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition by case; those of a child have its number, from 1."""
    cases: dict[str, Callable[[], Any]] = {}
    for place, child in enumerate(children(work, number), 1):
        cases |= {f"{case}, child {place}": ours(work, child, case == ALONE) for case in (SHARED, ALONE)}
        cases |= {f"{case}, child {place}": peers(work, child, case) for case in PEERS}
    cases |= {SAMPLES: controller(work), FORWARD: forward(work)}
    return measure.alternately(cases, repetitions, rest=0.3)


def claims(seconds: dict[str, list[float]], number: int) -> list[dict[str, Any]]:
    """The ratios that are asked for, of the medians: those of children are geometric means over them."""

    def over_children(one: str, other: str) -> float:
        pairs = ((seconds[f"{one}, child {n}"], seconds[f"{other}, child {n}"]) for n in range(1, number + 1))
        return statistics.geometric_mean(measure.ratio_of_medians(*pair) for pair in pairs)

    return [
        {"ratio": f"{SHARED} over {ALONE}", "is": over_children(SHARED, ALONE), "wanted": LIMITS[SHARED]},
        *(
            {"ratio": f"{peer} over {SHARED}", "is": over_children(peer, SHARED), "wanted": LIMITS.get(peer, "")}
            for peer in PEERS
        ),
        {
            "ratio": f"{SAMPLES} over {FORWARD}",
            "is": measure.ratio_of_medians(seconds[SAMPLES], seconds[FORWARD]),
            "wanted": LIMITS[FORWARD],
        },
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the tables, writes the record."""
    parser = errors.Parser(
        prog="enas_step.py", description="Seconds of ENAS' steps, of children and of the controller."
    )
    parser.add_argument("--space", choices=DEFAULTS, default="enas_macro")
    parser.add_argument("--layers", type=int, help="default: as published, 12 of networks, 6 of cells")
    parser.add_argument("--channels", type=int, help="default: as published, 36 of networks, 20 of cells")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--children", type=int, default=2, help="drawn at random; each is compiled alone too")
    parser.add_argument("--samples", type=int, default=20, help="of an update of the controller")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    options = parser.parse_args(arguments)
    for name, value in zip(("layers", "channels"), DEFAULTS[options.space], strict=True):
        setattr(options, name, getattr(options, name) or value)
    schema.check_arguments(
        options, {"children": Range(1, 100), "samples": Range(2, 1000), "repetitions": Range(1, 10**6)}
    )
    work = Work(options.space, options.layers, options.channels, options.size, options.batch, options.samples)
    seconds = measured(work, options.children, options.repetitions)
    print(measure.table([{"case": c, "median s": statistics.median(s), "least s": min(s)} for c, s in seconds.items()]))
    print(measure.table(claims(seconds, options.children)))
    if options.output:
        measure.write_json(options.output, {"machine": measure.machine(), "work": work, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
