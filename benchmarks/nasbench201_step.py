"""Seconds of one training step of the NAS-Bench-201 supernet, weights and choice together: ours against PyTorch's.

    python benchmarks/nasbench201_step.py [--cells 1] [--channels 16] [--batch 64] [--size 32] [--frozen]
                                          [--repetitions N] [--output FILE.json]

Both do the same: softmax of the logits, cross-entropy on a batch, one backward pass, clipping, SGD on θ and Adam on the
logits (with `--frozen` not). Ours runs in the loop in which a stage trains, the peer eagerly, in both memory layouts.
All take turns in one process, float32. The peer is the definition that the tests hold ours against. Beside them ours
once half of the operations have left, drawn at random.
"""

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
from dass_jax.methods import relaxed
from dass_jax.nn.skeletons import Sizes
from dass_jax.phases import single
from dass_jax.runtime import epoch
from dass_jax.spaces.nasbench201 import CELL, CHOICES, nasbench201
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import ALPHA, PARAMS

OURS, HALF, PEERS = "ours", "ours, half of the operations", ("peer NCHW", "peer channels_last")
LEARNING_RATE, CLIP = 0.025, 5.0
STEPS = 4
"""In one call of either."""


class Work(NamedTuple):
    """What is trained on what."""

    sizes: Sizes
    pixels: int
    """Height and width of an image."""
    batch: int
    frozen: bool
    """The logits stay."""


def batch(work: Work) -> epoch.Examples:
    """What both are trained on."""
    return subjects.noise(work.sizes.outputs, work.pixels, work.batch)


def half() -> dict[str, np.ndarray]:
    """15 of the 30 operations, two or three of each edge."""
    rows, columns = CHOICES[CELL].shape
    order = np.random.default_rng(0).permuted(np.tile(np.arange(columns), (rows, 1)), axis=1)
    return {CELL: order < np.resize([3, 2], rows)[:, None]}


def step(work: Work, live: Any = None) -> tuple[Callable[[], bilevel.State], Callable[..., Any]]:
    """(the state at first, the algorithm's `update` on {"lower": batch})."""
    space, c = nasbench201(work.sizes, live=live), relaxed.Relaxed()
    task = classification(work.sizes.outputs)
    loss = relaxed.supernet_loss(space.apply, task, relaxed.softmax_choice, relaxed.dense_weights)
    theta = bilevel.Level(PARAMS, loss, bilevel.with_rate(relaxed.sgd(c), "lower"))
    logits = bilevel.Level(ALPHA, loss, bilevel.with_rate(relaxed.alpha_transform(c), "upper"))
    algorithm = bilevel.descend(theta) if work.frozen else bilevel.joint({"lower": theta, "upper": logits})

    def init() -> bilevel.State:
        v = space.init(jax.random.key(0), (work.pixels, work.pixels, 3))
        first = {CELL: 1e-3 * jax.random.normal(jax.random.key(1), CHOICES[CELL].shape)}
        return algorithm.init({**v, ALPHA: first})

    return init, single(algorithm, "lower").update


def ours(work: Work, live: Any = None) -> Callable[[], Any]:
    """`STEPS` of our steps in the loop of an epoch, each call from where the last one ended."""
    init, update = step(work, live)
    loop = epoch.epoch(update, {"lower": lambda examples, rows, key, rates: Batch(*examples)})
    inputs = jax.device_put((batch(work), {"lower": np.zeros((STEPS, 1), np.int32)}, jax.random.key(2)))
    given = {"lower": LEARNING_RATE, "upper": relaxed.Relaxed.alpha_lr}
    rates = {"learning_rate": {level: np.full(STEPS, rate, np.float32) for level, rate in given.items()}}
    rest = (rates, np.int32(0), np.int32(STEPS))
    return measure.onward(loop, jax.jit(init)(), *inputs, *rest)


def peers(work: Work, case: str) -> Callable[[], Any]:
    """`STEPS` of the peer's steps in the given memory layout, with one thread for each core."""
    import torch
    from torch.nn import functional

    from tests.networks import torch_nasbench201

    torch.set_num_threads(measure.machine()["cores"])
    torch.manual_seed(0)
    layout = torch.channels_last if case == "peer channels_last" else torch.contiguous_format
    network = torch_nasbench201.supernet(*work.sizes, images=3).to(memory_format=layout)
    logits = (1e-3 * torch.randn(CHOICES[CELL].shape)).requires_grad_(not work.frozen)
    for_theta = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=3e-4)
    for_logits = torch.optim.Adam([logits], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    examples = batch(work)
    images = torch.from_numpy(np.moveaxis(examples.images, -1, 0).copy()).contiguous(memory_format=layout)
    labels = torch.from_numpy(examples.targets.astype(np.int64))

    def call() -> float:
        for _ in range(STEPS):
            loss = functional.cross_entropy(network(images, functional.softmax(logits, -1)), labels)
            for_theta.zero_grad()
            for_logits.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            for_theta.step()
            if not work.frozen:
                for_logits.step()
        return loss.item()

    return call


def measured(work: Work, repetitions: int) -> dict[str, list[float]]:
    """Seconds of one step in each repetition, by case."""
    cases = {OURS: ours(work), HALF: ours(work, half()), **{case: peers(work, case) for case in PEERS}}
    seconds = measure.alternately(cases, repetitions, rest=0.3)
    return {case: [one / STEPS for one in own] for case, own in seconds.items()}


def rows(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A table's rows."""
    return [
        {
            "case": case,
            "median s": statistics.median(own),
            "least s": min(own),
            "times ours": None if case == OURS else measure.ratio_of_medians(own, seconds[OURS]),
        }
        for case, own in seconds.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table, writes the record."""
    parser = errors.Parser(prog="nasbench201_step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1, help="in each of the three stages")
    parser.add_argument("--channels", type=int, default=16, help="of the first stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--frozen", action="store_true", help="the logits are not trained")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        raise errors.UserError(f"--repetitions = {options.repetitions}; allowed: at least 1")
    work = Work(Sizes(10, options.cells, options.channels), options.size, options.batch, options.frozen)
    seconds = measured(work, options.repetitions)
    print(measure.table(rows(seconds)))
    if options.output:
        measure.write_json(options.output, {"machine": measure.machine(), "work": work, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
