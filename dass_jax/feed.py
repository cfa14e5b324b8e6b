"""How examples reach the compiled programs: from a data set on the devices, or part by part from where they are kept.

Both run the same steps on the same examples in the same order. What is streamed is read ahead by a thread pool
(`data.stream`) while the devices work on the part before; at most two parts are on the devices and two on the host.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax import compose, phases
from dass_jax.bilevel.by_turns import TURN
from dass_jax.compose import Setting
from dass_jax.data import stream
from dass_jax.data.arrays import Source, Split
from dass_jax.phases import COUNTED, Phase
from dass_jax.runtime import epoch, parallel
from dass_jax.runtime.calls import Series
from dass_jax.runtime.epoch import Examples

PART_BYTES = 64 * 2**20
"""Images in a part take at most this, but for a single step that takes more: enough that starting a program costs
nothing beside its work, and little beside the memory of a training step."""
STREAMED_IN_AXES = (0, None, 0, 0, None, None, None, None)
IN_AXES = STREAMED_IN_AXES[:-1]
"""Of `epoch.epoch`'s arguments: each seed has its state, indices and key, and all share images and rates."""
EVALUATION_IN_AXES = (0, None, None, None, None, None)

Compile = Callable[..., Any]
"""(name of the program, function, arguments, whether the first is donated) → the program, compiled."""
Advance = Callable[[int], Series]
"""Epoch → its steps, on a state on the devices; infos are [seeds, steps]."""


class Feed(NamedTuple):
    """The two things that programs are fed for."""

    advance: Callable[[Setting, Phase, Any, Compile], Advance]
    """(setting, with the seeds that run now, phase, state on the devices, compile) → the steps of its epochs."""
    evaluate: Callable[[Setting, str, Any, Any, int, Compile], Series]
    """(setting, name, `epoch.evaluation`, network on the devices, batch size, compile) → the steps over the test split,
    on that network; their sums are [seeds, steps, …]."""


class Inputs(NamedTuple):
    """What an epoch's program takes beside state and examples."""

    indices: dict[str, np.ndarray]
    """Level → int32 [seeds, steps, batches, B]; without the third axis where there is one batch."""
    keys: jax.Array
    rates: Any
    """Tree of float32 [steps]."""
    steps: int


def of(s: Setting) -> Feed:
    """The feed that a setting's data need."""
    return streamed(s) if isinstance(s.dataset.train, Source) else in_memory(s)


def inputs(s: Setting, phase: Phase, number: int) -> Inputs:
    """What an epoch (from 0) of a phase sees: its examples in an order of their own for each seed, keys and rates."""
    draws = phase.draws or phase.name
    seen = {level: feed for level, feed in phase.feeds.items() if feed is not None}
    rows: dict[str, list[np.ndarray]] = {level: [] for level in seen}
    for seed in s.seeds:
        for place, (level, feed) in enumerate(reversed(seen.items())):  # the lowest level draws first
            draw = (*compose.draw_seed(seed, draws), number, *([place] if len(seen) > 1 else []))
            rows[level].append(rows_of_epoch(feed, compose.split_rows(s, feed.split, seed), draw))
    lengths = {level: min(map(len, each)) for level, each in rows.items()}
    indices = {level: np.stack([own[: lengths[level]] for own in each]) for level, each in rows.items()}
    steps, beside = min(lengths.values(), default=1), {}
    if phase.by_turns:
        turns = np.repeat(np.arange(len(lengths)), list(lengths.values()))
        steps, beside = len(turns), {TURN: turns}
        indices = {level: spread(own, turns == turn) for turn, (level, own) in enumerate(indices.items())}
    indices = {level: array[:, :steps] for level, array in indices.items()}
    sizes = {level: len(compose.split_rows(s, feed.split, s.seeds[0])) for level, feed in seen.items() if feed.whole}
    counted = {
        level: np.clip(size - seen[level].batch * np.arange(steps), 0, seen[level].batch)
        for level, size in sizes.items()
    }
    progress = (number + np.arange(steps) / steps) / phase.epochs
    rates = {"progress": progress, **phase.rates(progress), **beside, **({COUNTED: counted} if counted else {})}
    return Inputs(
        {level: array[:, :, 0] if seen[level].batches == 1 else array for level, array in indices.items()},
        compose.key(s, draws, number),
        jax.tree.map(lambda rate: np.broadcast_to(np.asarray(rate, np.float32), (steps,)).copy(), rates),
        steps,
    )


def rows_of_epoch(feed: phases.Feed, split: np.ndarray, draw: tuple[int, ...]) -> np.ndarray:
    """The rows of a level's steps in an epoch, int32 [steps, batches, B]: its split once through in an order of its
    own, or as often as it takes, or all of it in order, filled up."""
    if feed.whole:
        return split[epoch.in_order(len(split), feed.batch)[0]].astype(np.int32)[:, None]
    batches = epoch.shuffled(split, feed.batch, draw)
    wanted = len(batches) // feed.batches if feed.steps is None else feed.steps
    passes = itertools.count(1)
    while len(batches) < wanted * feed.batches:
        batches = np.concatenate([batches, epoch.shuffled(split, feed.batch, (*draw, next(passes)))])
    return batches[: wanted * feed.batches].reshape(wanted, feed.batches, feed.batch)


def spread(indices: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A level's indices [seeds, its steps, …] at its own among all steps, `own` bool [steps]; zeros at the others."""
    found = np.zeros((len(indices), len(own), *indices.shape[2:]), indices.dtype)
    found[:, own] = indices
    return found


def epoch_of(s: Setting, phase: Phase) -> Callable[..., Any]:
    """`epoch.epoch` of a phase, for one seed."""
    prepares = {level: None if feed is None else compose.prepare(s, feed, level) for level, feed in phase.feeds.items()}
    return epoch.epoch(phase.algorithm.update, prepares, s.config.runtime.nonfinite == "skip", phase.by_turns)


def in_memory(s: Setting) -> Feed:
    """The whole data set lies on every device."""

    @functools.cache
    def on(devices: tuple[jax.Device, ...]) -> tuple[Any, Any]:
        """(training, test) examples on each of the devices, which are fewer for fewer seeds if they share them."""
        train, test = map(s._replace(devices=list(devices)).layout.put_everywhere, compose.examples(s))
        return train, test

    def advance(s: Setting, phase: Phase, state: Any, compile: Compile) -> Advance:
        train, _ = on(tuple(s.devices))
        first = inputs(s, phase, 0)
        none = np.int32(0)
        arguments = (state, train, *first[:3], none, none)
        program = compile(phase.program or phase.name, s.layout.over(epoch_of(s, phase), IN_AXES), arguments, True)

        def of_epoch(number: int) -> Series:
            given = inputs(s, phase, number)

            def call(state: Any, first: int, last: int) -> tuple[Any, Any]:
                state, infos = program(state, train, *given[:3], np.int32(first), np.int32(last))
                return state, s.layout.get(infos)

            return Series(given.steps, given.steps, call)

        return of_epoch

    def evaluate(s: Setting, name: str, function: Any, network: Any, batch: int, compile: Compile) -> Series:
        _, test = on(tuple(s.devices))
        rows, counted = epoch.in_order(s.dataset.test.size, batch)
        arguments = (network, test, rows, counted, np.int32(0), np.int32(0))
        program = compile(name, s.layout.over(function, EVALUATION_IN_AXES), arguments, False)

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
        most = max(1, part_bytes // max(1, images * math.prod(s.image_shape)))
        return parallel.largest_divisor(total, most)

    def parts(source: Source, rows: np.ndarray, view: stream.View, order: np.ndarray) -> Iterator[Examples]:
        """The examples of `rows` [N], put into `order` [parts, devices, images], as far as they are for devices
        of this process; each with its view by its place."""
        order = order[:, mine]
        flat = order.ravel()
        read = stream.batches(
            source, rows[flat], lambda image, n, **how: view(image, int(flat[n]), **how), s.image_shape, order[0].size
        )
        for split in read:
            yield parallel.distribute(_shaped(split, s, len(mine)), s.devices)

    def advance(s: Setting, phase: Phase, state: Any, compile: Compile) -> Advance:
        first = inputs(s, phase, 0)
        total = first.steps
        steps = steps_in_part(total, sum(array.size for array in first.indices.values()) // total)
        like = _parted(first.indices, steps, devices)
        empty, none = _blank(like.places[0].shape, s), np.int32(0)
        rates = jax.tree.map(lambda rate: rate[:steps], first.rates)
        arguments = (state, empty, like.indices, first.keys, rates, none, none, none)
        name = f"{phase.program or phase.name}, {steps} steps a call"
        program = compile(name, s.layout.over(epoch_of(s, phase), STREAMED_IN_AXES), arguments, True)

        def of_epoch(number: int) -> Series:
            given = inputs(s, phase, number)
            flat = _flat(given.indices, len(s.seeds))
            view = compose.view(s, phase.draws or phase.name, number, flat.size)

            def start(state: Any, examples: Examples, part: int, *bounds: Any) -> Any:
                begin = part * steps
                rates = jax.tree.map(lambda rate: rate[begin : begin + steps], given.rates)
                return program(state, examples, like.indices, given.keys, rates, *bounds, np.int32(begin))

            def read(part: int) -> Iterator[Examples]:
                return parts(train, flat, view, like.places[part:]) if flat.size else iter([empty])

            return _in_parts(total, steps, read, start)

        return of_epoch

    def evaluate(s: Setting, name: str, function: Any, network: Any, batch: int, compile: Compile) -> Series:
        rows, counted = epoch.in_order(test.size, batch)
        steps = steps_in_part(len(rows), batch)
        like = epoch.parted((1, len(rows), 1, batch), steps, devices)
        indices, weights = like.indices[0, :, 0], counted.reshape(-1, steps, batch)
        empty = _blank(like.places[0].shape, s)
        arguments = (network, empty, indices, weights[0], np.int32(0), np.int32(0))
        program = compile(
            f"{name}, {steps} steps a call", s.layout.over(function, EVALUATION_IN_AXES), arguments, False
        )

        def start(network: Any, examples: Examples, number: int, *bounds: Any) -> Any:
            return network, program(network, examples, indices, weights[number], *bounds)

        def read(number: int) -> Iterator[Examples]:
            return parts(test, rows.ravel(), compose.centred(s), like.places[number:])

        return _in_parts(len(rows), steps, read, start)

    return Feed(advance, evaluate)


class _Parted(NamedTuple):
    """`epoch.Plan` of several levels, whose images lie one level after another."""

    places: np.ndarray
    indices: dict[str, np.ndarray]


def _flat(indices: dict[str, np.ndarray], seeds: int) -> np.ndarray:
    """All rows that an epoch names: seed by seed, and of a seed level by level."""
    if not indices:
        return np.zeros(0, np.int32)
    return np.concatenate([array.reshape(seeds, -1) for array in indices.values()], axis=1).ravel()


def _parted(indices: dict[str, np.ndarray], steps: int, devices: int) -> _Parted:
    """Parts of `steps` steps of an epoch with these indices (`Inputs.indices`); places are in their flat form."""
    whole = sum(array[0].size for array in indices.values())
    places, found, named, lying = [], {}, 0, 0
    for level, array in indices.items():
        shape = array.shape if array.ndim == 4 else (*array.shape[:2], 1, array.shape[2])
        plan, size = epoch.parted(shape, steps, devices), array[0].size
        places.append(plan.places // size * whole + named + plan.places % size)
        own = plan.indices + np.int32(lying)
        found[level] = own if array.ndim == 4 else own[:, :, 0]
        named, lying = named + size, lying + plan.places.shape[-1]
    nothing = np.zeros((1, devices, 0), np.int64)  # without indices an epoch is one step
    return _Parted(np.concatenate(places, axis=-1) if places else nothing, found)


def _in_parts(
    total: int, steps: int, read: Callable[[int], Iterator[Examples]], start: Callable[..., tuple[Any, Any]]
) -> Series:
    """The `total` steps whose examples come in parts of `steps`.

    Args:
      read: number → that part and those after it.
      start: (state, part, its number, first, last) → (state, infos on the devices); first and last are counted from the
        part's first step, and the infos are [seeds, steps of a part, …].
    """
    held: dict[int, Examples] = {}
    coming: list[Iterator[Examples]] = []

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
            whole = np.zeros((own.shape[0], total, *own.shape[2:]), own.dtype)
            whole[:, begin:end] = own
            return whole

        return state, jax.tree.map(placed, infos)

    return Series(total, steps, call)


def _shaped(split: Split, s: Setting, devices: int) -> Examples:
    """A leading axis for the devices, whose images lie one after another."""
    return Examples(*(x.reshape(devices, -1, *x.shape[1:]) for x in split), *_statistics(s, devices))


def _statistics(s: Setting, devices: int) -> Iterator[np.ndarray]:
    """`compose.statistics` for each device."""
    return (np.broadcast_to(x, (devices, *x.shape)) for x in compose.statistics(s))


def _blank(images: tuple[int, ...], s: Setting) -> Examples:
    """[devices, images] black ones, to compile a program for. `pmap` of several processes takes no mere shapes."""
    here = len(parallel.own_devices(s.devices)), *images[1:]
    nothing = np.zeros((*here, *s.image_shape), np.uint8), s.dataset.no_labels(*here)
    black = Examples(*nothing, *_statistics(s, here[0]))
    return parallel.distribute(black, s.devices)
