"""How examples reach the compiled programs: from a data set on the devices, or part by part from where they are kept.

Both run the same steps on the same examples in the same order. What is streamed is read ahead by a thread pool
(`data.stream`) while the devices work on the part before; at most two parts are on the devices and two on the host.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import compose
from dass_jax.compose import Setting
from dass_jax.data import stream
from dass_jax.data.arrays import Source, Split
from dass_jax.runtime import loop, parallel, plan
from dass_jax.runtime.calls import Series
from dass_jax.runtime.stage import Stage

PART_BYTES = 64 * 2**20
"""Images in a part take at most this, but for a single step that takes more: enough that starting a program costs
nothing beside its work, and little beside the memory of a training step."""

Compile = Callable[..., Any]
"""(name of the program, function, arguments, whether the first is donated) → the program, compiled."""
Advance = Callable[[int], Series]
"""Epoch → the steps of that epoch and those of the same call that follow it, on a state on the devices; infos have
leading axes over epochs and steps, with the one over several seeds in between."""


class Feed(NamedTuple):
    """The two things that programs are fed for."""

    advance: Callable[[Setting, Stage, Any, int, Compile], Advance]
    """(setting, with the seeds that run now, stage, state on the devices, epochs in a call, compile) → their steps."""
    evaluate: Callable[[Setting, str, Any, Any, int, Compile], Series]
    """(setting, name, `loop.evaluation`, network on the devices, batch size, compile) → the steps over the test split,
    on that network; the last axis of their sums is that of the steps."""


def of(s: Setting) -> Feed:
    """The feed that a setting's data need."""
    return streamed(s) if isinstance(s.dataset.train, Source) else in_memory(s)


def in_memory(s: Setting) -> Feed:
    """The whole data set lies on every device."""

    @functools.cache
    def on(devices: tuple[jax.Device, ...]) -> tuple[Any, Any]:
        """(training, test) examples on each of the devices, which are fewer for fewer seeds if they share them."""
        train, test = map(s._replace(devices=list(devices)).layout.put_everywhere, compose.examples(s))
        return train, test

    def advance(s: Setting, stage: Stage, state: Any, together: int, compile: Compile) -> Advance:
        train, _ = on(tuple(s.devices))

        def inputs(first: int) -> tuple[Any, ...]:
            each = [_inputs(s, stage, epoch) for epoch in range(first, first + together)]
            indices, keys, *rates = zip(*each, strict=True)
            return np.stack(indices), jnp.stack(keys), *(jax.tree.map(_stacked, *rate) for rate in rates)

        steps = _steps(s, stage.indices(0))
        skip = s.config.runtime.nonfinite == "skip"
        arguments = (state, train, *inputs(0), *loop.bounds(0, 0, together, steps))
        epochs = _of_all_seeds(s, loop.several(stage.epoch, skip), (0, None, 1, 1, *[None] * 4), (0, 1))
        program = compile(f"{stage.program}, {together} epochs a call", epochs, arguments, True)

        def of_epochs(epoch: int) -> Series:
            given = inputs(epoch)

            def call(state: Any, first: int, last: int) -> tuple[Any, Any]:
                state, infos = program(state, train, *given, *loop.bounds(first, last, together, steps))
                # [epochs, seeds, steps]
                return state, s.layout.get(infos)

            return Series(together * steps, together * steps, call)

        return of_epochs

    def evaluate(s: Setting, name: str, function: Any, network: Any, batch: int, compile: Compile) -> Series:
        _, test = on(tuple(s.devices))
        rows, counted = loop.in_order(s.dataset.test.size, batch)
        arguments = (network, test, rows, counted, np.int32(0), np.int32(0))
        program = compile(name, _of_all_seeds(s, function, (0, *[None] * 5), 0), arguments, False)

        def call(network: Any, first: int, last: int) -> tuple[Any, Any]:
            sums = program(network, test, rows, counted, np.int32(first), np.int32(last))
            return network, s.layout.get(sums)

        return Series(len(rows), len(rows), call)

    return Feed(advance, evaluate)


def streamed(s: Setting, part_bytes: int = PART_BYTES) -> Feed:
    """Parts of at most `part_bytes` are read, put on the devices and dropped."""
    train, test = s.dataset.train, s.dataset.test
    assert isinstance(train, Source) and isinstance(test, Source)
    devices = len(s.devices)
    here = set(parallel.own_devices(s.devices))
    mine = [n for n, device in enumerate(s.devices) if device in here]

    def steps_in_part(total: int, images: int) -> int:
        """The largest divisor of an epoch's `total` steps, each of `images`, that keeps a part small."""
        return loop.largest_divisor(total, max(1, part_bytes // (images * math.prod(s.image_shape))))

    def parts(source: Source, rows: np.ndarray, view: stream.View, order: np.ndarray) -> Iterator[loop.Examples]:
        """The examples of `rows` [N], put into `order` [parts, devices, images], as far as they are for devices
        of this process; each with its view by its place."""
        order = order[:, mine]
        flat = order.ravel()
        read = stream.batches(
            source, rows[flat], lambda image, n: view(image, int(flat[n])), s.image_shape, order[0].size
        )
        for split in read:
            yield parallel.distribute(_shaped(split, len(mine)), s.devices)

    def advance(s: Setting, stage: Stage, state: Any, together: int, compile: Compile) -> Advance:
        count = len(s.seeds)
        indices, *rest = _inputs(s, stage, 0)
        total = _steps(s, indices)
        steps = steps_in_part(total, indices.size // total)
        like = plan.parted(indices, count, steps, devices)
        empty, none = _blank(like.places[0].shape, s), np.int32(0)
        arguments = (state, empty, like.indices, *rest, none, none, none)
        program = compile(f"{stage.program}, {steps} steps a call", stage.epoch, arguments, True)

        def of_epoch(epoch: int) -> Series:
            indices, *rest = _inputs(s, stage, epoch)
            parted = plan.parted(indices, count, steps, devices)
            view = compose.view(s, stage.name, epoch, indices.size)

            def start(state: Any, examples: loop.Examples, number: int, *bounds: Any) -> Any:
                return program(state, examples, parted.indices, *rest, *bounds, np.int32(number * steps))

            def read(number: int) -> Iterator[loop.Examples]:
                return parts(train, indices.ravel(), view, parted.places[number:])

            return _in_parts(total, steps, read, start, np.newaxis)

        return of_epoch

    def evaluate(s: Setting, name: str, function: Any, network: Any, batch: int, compile: Compile) -> Series:
        rows, counted = loop.in_order(test.size, batch)
        steps = steps_in_part(len(rows), batch)
        parted = plan.parted(rows, 1, steps, devices)
        weights = counted.reshape(-1, steps, batch)
        empty = _blank(parted.places[0].shape, s)
        arguments = (network, empty, parted.indices, weights[0], np.int32(0), np.int32(0))
        program = compile(f"{name}, {steps} steps a call", function, arguments, False)

        def start(network: Any, examples: loop.Examples, number: int, *bounds: Any) -> Any:
            return network, program(network, examples, parted.indices, weights[number], *bounds)

        def read(number: int) -> Iterator[loop.Examples]:
            return parts(test, rows.ravel(), compose.centred(s), parted.places[number:])

        return _in_parts(len(rows), steps, read, start, ...)

    return Feed(advance, evaluate)


def _in_parts(
    total: int,
    steps: int,
    read: Callable[[int], Iterator[loop.Examples]],
    start: Callable[..., tuple[Any, Any]],
    axis: Any,
) -> Series:
    """The `total` steps whose examples come in parts of `steps`.

    Args:
      read: number → that part and those after it.
      start: (state, part, its number, first, last) → (state, infos on the devices); first and last are counted from the
        part's first step, and the last axis of the infos is that of its steps.
      axis: what is put before the axes of the infos.
    """
    held: dict[int, loop.Examples] = {}
    coming: list[Iterator[loop.Examples]] = []

    def call(state: Any, first: int, last: int) -> tuple[Any, Any]:
        number = min(first, total - 1) // steps
        begin, end = number * steps, (number + 1) * steps
        if not coming:
            coming.append(read(number))
        if number not in held:
            held[number] = next(coming[0])
        state, infos = start(state, held[number], number, np.int32(first - begin), np.int32(last - begin))
        if last == end < total:
            held[number + 1] = next(coming[0])  # while the devices work
        infos = parallel.unreplicate(infos)
        if last == end:
            del held[number]

        def placed(own: np.ndarray) -> np.ndarray:
            whole = np.zeros((*own.shape[:-1], total), own.dtype)
            whole[..., begin:end] = own
            return whole[axis]

        return state, jax.tree.map(placed, infos)

    return Series(total, steps, call)


def _of_all_seeds(
    s: Setting, function: Callable[..., Any], in_axes: tuple[int | None, ...], out_axes: Any
) -> Callable[..., Any]:
    """`function` as it is, or if the devices share the seeds and it is of one, that of all."""
    return parallel.each_seed(function, s.devices, in_axes, out_axes) if s.spread else function


def _steps(s: Setting, indices: np.ndarray) -> int:
    """Of an epoch with these indices."""
    return indices.shape[0 if len(s.seeds) == 1 else 1]


def _inputs(s: Setting, stage: Stage, epoch: int) -> tuple[Any, ...]:
    """(indices, key, learning rate, drop-path rate) of an epoch."""
    rates = stage.learning_rate(epoch), stage.drop_path(epoch)
    return stage.indices(epoch), compose.key(s, stage.name, epoch), *jax.tree.map(np.float32, rates)


def _stacked(*rates: float) -> np.ndarray:
    """One rate of every epoch [epochs]."""
    return np.array(rates, np.float32)


def _shaped(split: Split, devices: int) -> loop.Examples:
    """A leading axis for the devices, whose images lie one after another."""
    return loop.Examples(*(x.reshape(devices, -1, *x.shape[1:]) for x in split))


def _blank(images: tuple[int, ...], s: Setting) -> loop.Examples:
    """[devices, images] black ones, to compile a program for. `pmap` of several processes takes no mere shapes."""
    here = len(parallel.own_devices(s.devices)), *images[1:]
    black = loop.Examples(np.zeros((*here, *s.image_shape), np.uint8), np.zeros(here, np.int32))
    return parallel.distribute(black, s.devices)
