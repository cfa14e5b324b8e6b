"""Seconds of one training step of the NAS-Bench-201 supernet, weights and choice together: ours against PyTorch's.

    python benchmarks/nasbench201_step.py [--cells 1] [--channels 16] [--batch 64] [--size 32] [--frozen]
                                          [--repetitions N] [--output FILE.json]

Both do the same: softmax of the logits, cross-entropy on a batch, one backward pass, clipping, SGD on θ and Adam on the
logits (with `--frozen` not). Ours runs in the loop in which a stage trains, the peer eagerly, in both memory layouts.
All take turns in one process, float32. The peer is the definition that the tests hold ours against.
"""

import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
import optax

from benchmarks import measure
from dass_jax import compose, errors
from dass_jax.config import Search
from dass_jax.methods.losses import cross_entropy
from dass_jax.nn.skeletons import Sizes
from dass_jax.runtime import loop
from dass_jax.spaces.nasbench201 import CELL, CHOICES, nasbench201
from dass_jax.variables import BATCH_STATS, PARAMS

OURS, PEERS = "ours", ("peer NCHW", "peer channels_last")
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


class State(NamedTuple):
    """What a step changes."""

    theta: Any
    logits: Any
    batch_stats: Any
    optimizers: Any
    """Of θ and of the logits."""


def batch(work: Work) -> loop.Examples:
    """Images [3, H, W, B] of noise and labels [B]: what a step costs does not depend on what is in the images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, work.pixels, work.pixels, work.batch)).astype(np.float32)
    return loop.Examples(images, rng.integers(work.sizes.outputs, size=work.batch).astype(np.int32))


def step(work: Work) -> tuple[Callable[[], State], Callable[..., Any]]:
    """(the state at first, (state, batch, key, learning_rate) → (state, loss))."""
    space = nasbench201(work.sizes)
    for_logits, for_theta = compose.search_transforms(Search())

    def init() -> State:
        v = space.init(jax.random.key(0), (work.pixels, work.pixels, 3))
        logits = {CELL: 1e-3 * jax.random.normal(jax.random.key(1), CHOICES[CELL].shape)}
        return State(v[PARAMS], logits, v[BATCH_STATS], (for_theta.init(v[PARAMS]), for_logits.init(logits)))

    def update(state: State, batch: loop.Examples, key: Any, learning_rate: Any) -> tuple[State, Any]:
        def loss(theta: Any, logits: Any) -> Any:
            choice = jax.tree.map(lambda z: jax.nn.softmax(z, -1), logits)
            outputs, moved = space.apply(theta, state.batch_stats, choice, batch.images, True)
            return cross_entropy(outputs, batch.labels), moved

        levels = 0 if work.frozen else (0, 1)
        (value, moved), found = jax.value_and_grad(loss, levels, has_aux=True)(state.theta, state.logits)
        to_theta, to_logits = (found, None) if work.frozen else found
        own, others = state.optimizers
        change, own = for_theta.update(to_theta, own, state.theta, learning_rate=learning_rate)
        theta = optax.apply_updates(state.theta, change)
        logits = state.logits
        if not work.frozen:
            change, others = for_logits.update(to_logits, others, logits)
            logits = optax.apply_updates(logits, change)
        return State(theta, logits, moved, (own, others)), {"loss": value}

    return init, update


def ours(work: Work) -> Callable[[], Any]:
    """`STEPS` of our steps in the loop of an epoch, each call from where the last one ended."""
    init, update = step(work)
    epoch = loop.epoch(update, lambda examples, rows, key, drop_path: examples)
    inputs = jax.device_put((batch(work), np.zeros((STEPS, 1), np.int32), jax.random.key(2)))
    rest = (np.float32(LEARNING_RATE), np.float32(0), np.int32(0), np.int32(STEPS))
    state = jax.jit(init)()
    run = measure.compiled(jax.jit(epoch, donate_argnums=0).lower(state, *inputs, *rest))

    def call() -> Any:
        nonlocal state
        state, infos = run(state, *inputs, *rest)
        return infos

    return call


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
    labels = torch.from_numpy(examples.labels.astype(np.int64))

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
    cases = {OURS: ours(work), **{case: peers(work, case) for case in PEERS}}
    seconds = measure.alternately(cases, repetitions, rest=0.3)
    return {case: [one / STEPS for one in own] for case, own in seconds.items()}


def rows(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A table's rows."""
    return [
        {
            "case": case,
            "median s": statistics.median(own),
            "least s": min(own),
            "peer/ours": None if case == OURS else measure.ratio_of_medians(own, seconds[OURS]),
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
