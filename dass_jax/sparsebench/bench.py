"""The loop over the cells, which can stop after any of them and resumes with the next."""

import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.data import arrays, load
from dass_jax.sparsebench import sizes, table, training
from dass_jax.sparsebench.fields import Fields
from dass_jax.sparsebench.spaces import Space
from dass_jax.sparsebench.table import DENSE, Row

Check = Callable[[], None]
"""Raises where a signal has come."""


class Bench(NamedTuple):
    """What all cells share."""

    fields: Fields
    space: Space
    programs: training.Programs
    whole: sizes.Skeleton
    data: training.Data
    keys: jax.Array
    """[seeds]"""


def bench(c: Fields, space: Space) -> Bench:
    """Loads the data and traces what is common. Raises UserError."""
    wanted = load.Wanted(c.data.source, limit=c.data.limit, image_size=c.data.image_size)
    found = load.load(wanted)
    train, test = found.train, found.test
    assert isinstance(train, arrays.Split) and isinstance(test, arrays.Split)
    training.check(c, train.size, test.size)
    targets = [split.labels.astype(np.int32) for split in (train, test)]
    data = training.Data(train.images, targets[0], test.images, targets[1], found.mean, found.std)
    return Bench(
        fields=c,
        space=space,
        programs=training.programs(c, space.model, found.shape, found.classes),
        whole=sizes.skeleton(space, found.classes, found.shape),
        data=jax.device_put(data),
        keys=jnp.stack([jax.random.key(seed) for seed in range(c.seeds)]),
    )


def of_cell(b: Bench, cell: Any, check: Check) -> dict[str, list[float]]:
    """The figures of one cell: `Row.figures`. Between two programs `check` is called."""
    number, found = jnp.asarray(b.space.numbers(cell)), dict[str, list[float]]()
    rates, tests = training.rates(b.fields), len(b.data.test_labels)

    def note(stage: str, v: Any, masks: list[Any]) -> None:
        right = np.asarray(b.programs.right(number, v, b.data))
        own = [sizes.size(b.whole, each) for each in masks]
        found[f"test_{stage}"] = [100 * float(count) / tests for count in right]
        found[f"kept_{stage}"] = [each.weights for each in own]
        found[f"macs_{stage}"] = [each.macs for each in own]
        check()

    stages = jax.vmap(jax.random.split)(b.keys)
    dense = b.programs.dense(number, stages[:, 0], rates, b.data)
    everything = sizes.kept(b.whole, cell, 1.0, "layer").layers
    note(DENSE, dense, [everything] * b.fields.seeds)
    for distribution in b.fields.sparsity.distributions:
        for keep in b.fields.sparsity.keep:
            kept = sizes.kept(b.whole, cell, keep, distribution)
            # The same draws at each: what differs is what is kept.
            sparse = b.programs.sparse(number, dense, kept, stages[:, 1], rates, b.data)
            masks = jax.tree.map(np.asarray, sparse["masks"])
            each = [jax.tree.map(lambda leaf, n=n: leaf[n], masks) for n in range(b.fields.seeds)]
            note(table.stage(distribution, keep), sparse, each)
    return found


class Stop(NamedTuple):
    """When it ends before all is done."""

    seconds: float = math.inf
    """No cell is begun after so many, nor one that would probably not end before."""
    check: Check = lambda: None


WHEN_DONE = Stop()


def extend(
    b: Bench, path: pathlib.Path, places: Sequence[int], say: Callable[[str], None], stop: Stop = WHEN_DONE
) -> list[Row]:
    """Trains those that the folder's table lacks, and writes it after each; returns all of its rows.

    Args:
      places: of cells in the order of the sample.
    """
    rows = table.read(path, b.space)
    there = {row.order for row in rows}
    missing = [place for place in places if place not in there]
    start = time.monotonic()
    for done, place in enumerate(missing):
        begun = time.monotonic()
        spent = begun - start
        if spent + spent / max(1, done) > stop.seconds:
            break
        cell, count = b.space.order.at(place)
        found = of_cell(b, cell, stop.check)
        took = time.monotonic() - begun
        rows = sorted([*rows, Row(cell, count, place, took, found)], key=lambda row: row.order)
        table.write(path, rows, b.space)
        left = (time.monotonic() - start) / (done + 1) * (len(missing) - done - 1)
        means = " ".join(f"{np.mean(v):.1f}" for name, v in found.items() if name.startswith("test"))
        number = len(places) - len(missing) + done + 1
        say(f"cell {number}/{len(places)}  {b.space.text(cell)}  {means} %  {took:.0f} s, {left / 60:.0f} min left")
    return rows
