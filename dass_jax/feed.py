"""How examples reach the compiled programs: from a data set on the devices, or part by part from where they are kept.

Both run the same steps on the same examples in the same order. What is streamed is read ahead by a thread pool
(`data.stream`) while the devices work on the part before; at most two parts are on the devices and two on the host.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import build
from dass_jax.build import Setting
from dass_jax.data import stream
from dass_jax.data.arrays import Source, Split
from dass_jax.runtime import loop, parallel, plan
from dass_jax.runtime.stage import Stage

PART_BYTES = 64 * 2**20
"""Images in a part take at most this, but for a single step that takes more: enough that starting a program costs
nothing beside its work, and little beside the memory of a training step."""

Compile = Callable[[str, Any, tuple[Any, ...], bool], Any]
"""(name of the program, function, arguments, whether the first is donated) → the program, compiled."""
Advance = Callable[[Any, int], tuple[Any, Any]]
"""(state on the devices, epoch) → (state on the devices, infos of the epochs of one call, as NumPy arrays)."""


class Feed(NamedTuple):
    """The two things that programs are fed for."""

    advance: Callable[[Setting, Stage, Any, int, Compile], Advance]
    """(setting, with the seeds that run now, stage, state on the devices, epochs in a call, compile) → what runs a
    call."""
    evaluate: Callable[[str, Any, Any, int, Compile], Callable[[], Any]]
    """(name, `loop.evaluation`, network on the devices, batch size, compile) → what sums over the test split."""


def of(s: Setting) -> Feed:
    """The feed that a setting's data need."""
    return streamed(s) if isinstance(s.dataset.train, Source) else in_memory(s)


def in_memory(s: Setting) -> Feed:
    """The whole data set lies on every device."""
    train, test = (parallel.replicate(split, s.devices) for split in build.examples(s))

    def advance(s: Setting, stage: Stage, state: Any, together: int, compile: Compile) -> Advance:
        def inputs(first: int) -> tuple[Any, ...]:
            each = [_inputs(s, stage, epoch) for epoch in range(first, first + together)]
            indices, keys, *rates = zip(*each, strict=True)
            return np.stack(indices), jnp.stack(keys), *(jax.tree.map(_stacked, *rate) for rate in rates)

        name = f"{stage.program}, {together} epochs a call"
        program = compile(name, loop.several(stage.epoch), (state, train, *inputs(0)), True)

        def run(state: Any, first: int) -> tuple[Any, Any]:
            state, infos = program(state, train, *inputs(first))
            return state, parallel.unreplicate(infos)

        return run

    def evaluate(name: str, function: Any, network: Any, batch: int, compile: Compile) -> Callable[[], Any]:
        arguments = network, test, *loop.in_order(s.dataset.test.size, batch)
        program = compile(name, function, arguments, False)
        return lambda: parallel.unreplicate(program(*arguments))

    return Feed(advance, evaluate)


def streamed(s: Setting, part_bytes: int = PART_BYTES) -> Feed:
    """Parts of at most `part_bytes` are read, put on the devices and dropped."""
    train, test = s.dataset.train, s.dataset.test
    assert isinstance(train, Source) and isinstance(test, Source)
    devices = len(s.devices)

    def steps_in_part(total: int, images: int) -> int:
        """The largest divisor of an epoch's `total` steps, each of `images`, that keeps a part small."""
        return loop.largest_divisor(total, max(1, part_bytes // (images * math.prod(s.image_shape))))

    def parts(source: Source, rows: np.ndarray, view: stream.View, order: np.ndarray) -> Iterator[loop.Examples]:
        """The examples of `rows` [N], put into `order` [parts, devices, images]; each with its view by its place."""
        flat = order.ravel()
        read = stream.batches(
            source, rows[flat], lambda image, n: view(image, int(flat[n])), s.image_shape, order[0].size
        )
        for split in read:
            yield parallel.distribute(_shaped(split, devices), s.devices)

    def advance(s: Setting, stage: Stage, state: Any, together: int, compile: Compile) -> Advance:
        count = len(s.seeds)
        indices, *rest = _inputs(s, stage, 0)
        total = indices.shape[0] if count == 1 else indices.shape[1]
        steps = steps_in_part(total, indices.size // total)
        like = plan.parted(indices, count, steps, devices)
        empty = _abstract(like.places[0].shape, s.image_shape)
        name = f"{stage.program}, {steps} steps a call"
        program = compile(name, stage.steps, (state, empty, like.indices, *rest, np.int32(0)), True)

        def run(state: Any, epoch: int) -> tuple[Any, Any]:
            indices, *rest = _inputs(s, stage, epoch)
            parted = plan.parted(indices, count, steps, devices)
            view = build.view(s, stage.name, epoch, indices.size)
            found: list[Any] = []
            for number, examples in enumerate(parts(train, indices.ravel(), view, parted.places)):
                state, infos = program(state, examples, parted.indices, *rest, np.int32(number * steps))
                found.append(infos)
                if number:
                    found[-2] = parallel.unreplicate(found[-2])  # waits until the part before is done
            found[-1] = parallel.unreplicate(found[-1])
            return state, _means(found, 0 if count == 1 else 1)

        return run

    def evaluate(name: str, function: Any, network: Any, batch: int, compile: Compile) -> Callable[[], Any]:
        rows, counted = loop.in_order(test.size, batch)
        steps = steps_in_part(len(rows), batch)
        parted = plan.parted(rows, 1, steps, devices)
        weights = counted.reshape(-1, steps, batch)
        empty = _abstract(parted.places[0].shape, s.image_shape)
        program = compile(
            f"{name}, {steps} steps a call", function, (network, empty, parted.indices, weights[0]), False
        )

        def run() -> Any:
            read = parts(test, rows.ravel(), build.centred(s), parted.places)
            each = [
                parallel.unreplicate(program(network, examples, parted.indices, weight))
                for examples, weight in zip(read, weights, strict=True)
            ]
            return jax.tree.map(lambda *sums: np.sum(sums, axis=0, dtype=np.float64), *each)

        return run

    return Feed(advance, evaluate)


def _inputs(s: Setting, stage: Stage, epoch: int) -> tuple[Any, ...]:
    """(indices, key, learning rate, drop-path rate) of an epoch."""
    rates = stage.learning_rate(epoch), stage.drop_path(epoch)
    return stage.indices(epoch), build.key(s, stage.name, epoch), *jax.tree.map(np.float32, rates)


def _stacked(*rates: float) -> np.ndarray:
    """One rate of every epoch [epochs]."""
    return np.array(rates, np.float32)


def _shaped(split: Split, devices: int) -> loop.Examples:
    """A leading axis for the devices, whose images lie one after another."""
    return loop.Examples(*(x.reshape(devices, -1, *x.shape[1:]) for x in split))


def _abstract(images: tuple[int, ...], shape: tuple[int, ...]) -> loop.Examples:
    return loop.Examples(jax.ShapeDtypeStruct((*images, *shape), np.uint8), jax.ShapeDtypeStruct(images, np.int32))


def _means(infos: list[Any], axis: int) -> Any:
    """The mean over the steps, which are in parts along `axis`; with a leading axis for the one epoch."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis).mean(axis)[None], *infos)
