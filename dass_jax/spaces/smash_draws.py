"""Draws of SMASH architectures, by the rules of the authors' public code (arXiv 1708.05344, Section 3.2).

    budget of a block = ⌊u · all slices⌋,   u ~ U(least, most · (0.5 + 0.5·p))

Least and most are 0.3 and 1 as published. p rises from 0 to 1 over a training: architectures grow, and larger windows
come in at p = 1/4 and 3/4. Operations are drawn until the budget is used up. All of it is a traced function of a key,
so that each step draws its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dass_jax.architectures import smash_sizes
from dass_jax.architectures.smash_sizes import Memory
from dass_jax.spaces.smash_codes import BANK_SIZE, BLOCK_NAMES, NOISE, Ranges, Rows, rows_of

CHANGED = 0.05
"""Probability that a perturbation draws a property of an operation again."""
_PROPERTIES = 6
"""Of an operation that are drawn from few values: units, number of writes, kernels and dilations come from these."""


class Bounds(NamedTuple):
    """Of a block, traced."""

    size: Any
    """Units of a bank."""
    available: Any
    """Banks."""
    windows: Any
    """Kernels that may be drawn, the first ones."""


class Standing(NamedTuple):
    """Between two operations."""

    written: Any
    """R: banks."""
    left: Any
    """Half slices of the budget."""


def draw(r: Ranges, key: jax.Array, of_noise: jax.Array, progress: Any) -> dict[str, jax.Array]:
    """A choice, see `smash_codes`.

    Args:
      of_noise: the key of its noise.
      progress: p, in [0, 1].
    """
    keys, progress = jax.random.split(key, 3), jnp.asarray(progress)
    found: dict[str, Any] = {NOISE: jax.random.normal(of_noise, (r.sizes.most * r.slices,))}
    blocks = [
        _block(r, memory, block, keys[block], progress) for block, memory in enumerate(smash_sizes.memories(r.sizes))
    ]
    found[BANK_SIZE] = jnp.stack([size for size, _ in blocks])
    return {**found, **{name: table.reshape(-1) for name, (_, table) in zip(BLOCK_NAMES, blocks, strict=True)}}


def _block(r: Ranges, memory: Memory, block: int, key: jax.Array, progress: Any) -> tuple[jax.Array, jax.Array]:
    """Bank size and rows; drawn again while there are more operations than rows."""
    sizes = jnp.asarray(smash_sizes.bank_sizes(r.sizes, memory), jnp.int32)
    least, most = r.budget

    def attempt(state: Any) -> Any:
        key, own, inner = jax.random.split(state[0], 3)
        first, second = jax.random.uniform(own, (2,))
        size = sizes[_integer(first, len(sizes))]
        top = most * (0.5 + 0.5 * progress)
        low = jnp.minimum(least, top)
        share = low + second * (top - low)
        # The product is below all slices, but it may be rounded up to them.
        half_slices = 2 * jnp.minimum(jnp.floor(share * memory.slices).astype(jnp.int32), memory.slices - 1)
        bounds = Bounds(size, _available(r, memory, size, share), _windows(r, progress))
        start = Standing(memory.inputs // (r.sizes.unit * size), half_slices)
        return key, *_filled(r, bounds, start, inner, r.rows[block])

    first = (key, jnp.asarray(1, jnp.int32), jnp.zeros((r.rows[block], r.fields), jnp.int32), jnp.asarray(True))
    _, size, table, _ = jax.lax.while_loop(lambda state: state[3], attempt, first)
    return size, table


def _filled(r: Ranges, bounds: Bounds, start: Standing, key: jax.Array, rows: int) -> tuple[Any, Any, Any]:
    """Bank size, rows, and whether there was no row left for an operation of the budget."""
    least = _step(bounds) * bounds.size

    def more(state: Any) -> Any:
        number, standing, _ = state
        return (number < rows) & (standing.left >= least)

    def add(state: Any) -> Any:
        number, standing, table = state
        row, standing = _operation(r, bounds, standing, jax.random.fold_in(key, number))
        return number + 1, standing, jax.lax.dynamic_update_index_in_dim(table, flat(row), number, 0)

    begin = (jnp.asarray(0, jnp.int32), start, jnp.zeros((rows, r.fields), jnp.int32))
    _, standing, table = jax.lax.while_loop(more, add, begin)
    return bounds.size, table, standing.left >= least


def _available(r: Ranges, memory: Memory, size: Any, share: Any) -> Any:
    banks = jnp.ceil(share * r.sizes.depth * r.sizes.most).astype(jnp.int32) // size
    inputs, most = memory.inputs // (r.sizes.unit * size), memory.width // (r.sizes.unit * size)
    return jnp.minimum(inputs + banks, most)


def _windows(r: Ranges, progress: Any) -> Any:
    count = jnp.minimum(1 + (progress >= 0.25).astype(jnp.int32), len(r.kernels))
    return jnp.where(progress >= 0.75, len(r.kernels), count)


def _step(bounds: Bounds) -> Any:
    """m: reads come in ones, or in twos where a bank is half a slice more."""
    return 1 + bounds.size % 2


def _operation(r: Ranges, bounds: Bounds, standing: Standing, key: jax.Array) -> tuple[Rows, Standing]:
    """An operation, and what it leaves."""
    banks, most = r.sizes.banks, r.sizes.most
    u = jax.random.uniform(key, (3 * banks + most + _PROPERTIES + 1,))
    of_read, of_write, of_count = (u[n * banks :][:banks] for n in range(3))
    of_units, rest = u[3 * banks :][:most], u[3 * banks + most :]
    number = _reads(standing, bounds, rest[0])
    read = chosen(of_read, jnp.arange(banks) < standing.written, number)
    units = _units(bounds, number, of_units)
    write = _writes(standing, bounds, units, of_write, of_count)
    kernels = [_integer(x, bounds.windows) for x in rest[1:3]]
    largest = jnp.asarray(r.dilations, jnp.int32)
    dilations = [1 + _integer(x, largest[kernel]) for x, kernel in zip(rest[3:5], kernels, strict=True)]
    row = Rows(read, write, units, kernels[0], kernels[1], dilations[0], dilations[1], _integer(rest[5], len(r.groups)))
    return row, Standing(written_after(standing.written, write), standing.left - number * bounds.size)


def _reads(standing: Standing, bounds: Bounds, u: Any) -> Any:
    m = _step(bounds)
    return jnp.minimum(m * (1 + _integer(u, standing.written // m)), standing.left // bounds.size // m * m)


def _units(bounds: Bounds, reads: Any, u: jax.Array) -> Any:
    """g: multiples of a bank's units, most likely as many as are read."""
    options = bounds.size * jnp.arange(1, len(u) + 1)
    weights = -jnp.log(0.01 + 10.0 * jnp.abs(options - reads * bounds.size))
    return options[_category(u, jnp.where(options <= len(u), weights, -jnp.inf))].astype(jnp.int32)


def _writes(standing: Standing, bounds: Bounds, units: Any, u: jax.Array, of_count: jax.Array) -> jax.Array:
    """Banks among the written ones and as many empty ones as the output would fill; of these the first are taken."""
    banks, groups = jnp.arange(len(u)), units // bounds.size
    counts, most = banks + 1, jnp.maximum(standing.written // 2, groups)
    possible = (counts >= groups) & (counts <= most)
    count = 1 + _category(of_count, jnp.where(possible, -counts.astype(u.dtype), -jnp.inf))
    room = jnp.minimum(standing.written + groups, bounds.available)
    return first_empty(chosen(u, banks < room, count), standing.written)


def first_empty(write: jax.Array, written: Any) -> jax.Array:
    """The banks to write, with empty ones replaced by the first empty ones."""
    banks = jnp.arange(len(write))
    empty = (write * (banks >= written)).sum()
    return jnp.where(banks < written, write, (banks < written + empty).astype(jnp.int32))


def written_after(written: Any, write: jax.Array) -> Any:
    """R after a write."""
    return jnp.maximum(written, (jnp.arange(1, len(write) + 1) * write).max()).astype(jnp.int32)


def chosen(u: jax.Array, possible: jax.Array, count: Any) -> jax.Array:
    """int32 [n]: 1 for `count` of the possible ones (all, if they are fewer), drawn without replacement."""
    u = jnp.where(possible, u, 2.0)
    rank = (u[None] < u[:, None]).sum(1) + ((u[None] == u[:, None]) & jnp.tri(len(u), k=-1, dtype=bool)).sum(1)
    return (possible & (rank < count)).astype(jnp.int32)


def _integer(u: Any, count: Any) -> Any:
    """From 0 to count − 1, of a number in [0, 1)."""
    return jnp.minimum((u * count).astype(jnp.int32), jnp.asarray(count, jnp.int32) - 1)


def _category(u: jax.Array, logits: jax.Array) -> Any:
    """A category of softmax(logits), by Gumbel's trick from numbers in [0, 1)."""
    tiny = jnp.finfo(u.dtype).tiny
    return jnp.argmax(logits - jnp.log(-jnp.log(jnp.maximum(u, tiny)))).astype(jnp.int32)


def flat(row: Rows) -> jax.Array:
    """An operation as the integers of a row."""
    return jnp.concatenate([row.read, row.write, jnp.stack(row[2:]).astype(jnp.int32)]).astype(jnp.int32)


def perturb(r: Ranges, choice: Any, key: jax.Array) -> dict[str, jax.Array]:
    """A choice near another one, with its bank sizes, numbers of operations and noise. Of each operation reads, units,
    writes, kernels, dilations and groups are drawn again, each with probability `CHANGED`; reads also where a bank is
    read that is no more written, and a dilation is cut to what the new kernel allows. A block that would need more
    slices than the largest budget stays as it is."""
    found = dict(choice)
    for block, (name, memory) in enumerate(zip(BLOCK_NAMES, smash_sizes.memories(r.sizes), strict=True)):
        size, own = choice[BANK_SIZE][block], jax.random.fold_in(key, block)
        table = _changed(r, memory, size, rows_of(r, choice[name]), own)
        slices = (rows_of(r, table).read.sum() * size + 1) // 2
        found[name] = jnp.where(slices <= int(r.budget[1] * memory.slices), table.reshape(-1), choice[name])
    return found


def _changed(r: Ranges, memory: Memory, size: Any, rows: Rows, key: jax.Array) -> jax.Array:
    bounds = Bounds(size, _available(r, memory, size, 1.0), _windows(r, jnp.ones(())))
    largest = jnp.asarray(r.dilations, jnp.int32)

    def step(state: Any, old: Rows) -> Any:
        written, number = state
        own = jax.random.fold_in(key, number)
        whole = Standing(written, jnp.asarray(2 * memory.slices, jnp.int32))
        new, _ = _operation(r, bounds, whole, own)
        coins = jax.random.uniform(jax.random.fold_in(own, 1), (8 + 2 * r.sizes.banks,))
        again = coins[:8] < CHANGED
        unwritten = (old.read * (jnp.arange(r.sizes.banks) >= written)).any()
        kept = first_empty(old.write, written)
        units = jnp.where(again[1], new.units, old.units)
        of_write, of_count = coins[8:].reshape(2, -1)
        writes = _writes(whole, bounds, units, of_write, of_count)
        too_far = (kept * (jnp.arange(r.sizes.banks) >= bounds.available)).any()
        rewritten = jnp.where(again[2] | too_far, writes, kept)
        picked = [jnp.where(coin, mine, its) for coin, mine, its in zip(again[3:], new[3:], old[3:], strict=True)]
        for kernel, dilation in ((0, 2), (1, 3)):
            picked[dilation] = jnp.minimum(picked[dilation], largest[picked[kernel]])
        read = jnp.where(again[0] | unwritten, new.read, old.read)
        row = Rows(read, rewritten, units, picked[0], picked[1], picked[2], picked[3], picked[4])
        live = old.units > 0
        after = jnp.where(live, written_after(written, rewritten), written)
        return (after, number + 1), jnp.where(live, flat(row), jnp.zeros(r.fields, jnp.int32))

    start = jnp.asarray(memory.inputs // (r.sizes.unit * size), jnp.int32), jnp.asarray(0, jnp.int32)
    return jax.lax.scan(step, start, rows)[1]
