"""SMASH architectures as integers of fixed shape, which are data of one compiled program.

    {"bank_size": int32 [3], "block_1": int32 [rows · fields], "block_2", "block_3", "noise": float32 [k · slices]}

A row is an operation: 0 or 1 for each bank that it may read, the same for writing, and then as `FIELDS` says; a row of
zeros is none, and those come last. Banks are read and written in ascending order, so that no more is needed: an empty
bank is zero, and what is written into it is added as to any other. The noise is what the hyper-network gets beside the
architecture.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from dass_jax.architectures import smash_sizes
from dass_jax.architectures.smash import Architecture, Block, Op
from dass_jax.architectures.smash_sizes import Sizes
from dass_jax.errors import UserError
from dass_jax.schema import Count, Range

BANK_SIZE, NOISE = "bank_size", "noise"
BLOCK_NAMES = ("block_1", "block_2", "block_3")
FIELDS = ("units", "kernel_h", "kernel_w", "dilation_h", "dilation_w", "groups")
"""Units of filters; then places in `Ranges`, from 0, but for dilations, from 1."""
_ROWS = (20, 28, 40)
"""Operations of the published sizes' blocks: of a hundred architectures one has more in some block."""
_SLICES = (52, 102, 199)


@dataclasses.dataclass(frozen=True)
class Fields:
    """Blocks of memory banks, and the hyper-network that writes the weights of 1×1 convolutions."""

    depth: Annotated[int, Range(1, 1000)] = 12
    """What decides how much the first block may hold; each following one twice as much."""
    width: Annotated[int, Range(1, 64)] = 4
    """Of the memory: the first block's input has 2 · width · unit channels."""
    unit: Annotated[int, Range(1, 256)] = 8
    """Channels of a unit, of which banks and filters have whole numbers (N)."""
    filters: Annotated[int, Range(1, 4096)] = 64
    """Most filters of an operation (N_max)."""
    max_bottleneck: Annotated[int, Range(1, 8)] = 1
    """Most channels between the two convolutions of an operation, in multiples of `filters`. Weights are generated for
    1; the published networks have 2."""
    stem: Annotated[int, Range(1, 15)] = 7
    """Height and width of the first convolution's window, an odd number."""
    kernel: Annotated[int, Range(3, 15)] = 7
    """Largest height and width of an operation's window; all odd numbers from 3 are drawn."""
    dilation: Annotated[int, Range(1, 8)] = 3
    """Largest dilation."""
    extent: Annotated[int, Range(3, 31)] = 9
    """Pixels that a dilated window may reach over."""
    groups: Annotated[int, Range(1, 64)] = 8
    """Most groups of an operation; all powers of two up to it are drawn."""
    least_budget: Annotated[float, Range(0, 1, open_low=True)] = 0.3
    """Least budget of a block, as a share of the largest: operations are drawn until it is used up."""
    most_budget: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    """Most of it. With `least_budget` equal to it all architectures have the same budget, random ones too."""
    hyper_growth: Count = 10
    """Channels that each layer of the hyper-network adds."""
    hyper_first: Count = 8
    """Layers of its first block."""
    hyper_second: Count = 10
    """Layers of its second block."""
    hyper_third: Count = 4
    """Layers of its third block."""
    legacy: bool = False
    """Write the number of groups one channel too early into the hyper-network's input, as the published code does."""


class Ranges(NamedTuple):
    """What a space's architectures are drawn from."""

    sizes: Sizes
    kernels: tuple[int, ...]
    dilations: tuple[int, ...]
    """Of each kernel the largest."""
    groups: tuple[int, ...]
    rows: tuple[int, ...]
    """Most operations of each block."""
    budget: tuple[float, float] = (0.3, 1.0)
    """Least and most share of a block's slices."""

    @property
    def fields(self) -> int:
        """Integers of a row."""
        return 2 * self.sizes.banks + len(FIELDS)

    @property
    def slices(self) -> int:
        """S: slices of the hyper-network's output. The last one belongs to no operation."""
        return sum(memory.slices for memory in smash_sizes.memories(self.sizes)) + 1


def ranges(c: Fields) -> Ranges:
    """Of a configuration. Raises UserError for fields that do not go together."""
    sizes = smash_sizes.of_fields(c)
    smash_sizes.check(sizes, "space")
    if c.stem % 2 == 0:
        raise UserError(f"space.stem = {c.stem}; allowed: an odd number")
    for name in ("kernel", "extent"):
        if getattr(c, name) % 2 == 0:
            raise UserError(f"space.{name} = {getattr(c, name)}; allowed: an odd number")
    if c.extent < c.kernel:
        raise UserError(f"space.extent = {c.extent}; allowed: at least space.kernel = {c.kernel}")
    if c.least_budget > c.most_budget:
        raise UserError(
            f"space.least_budget = {c.least_budget:g}; allowed: at most space.most_budget = {c.most_budget:g}"
        )
    groups = tuple(2**n for n in range(c.groups.bit_length()))
    if sizes.unit % groups[-1] or c.groups != groups[-1]:
        raise UserError(f"space.groups = {c.groups}; allowed: a power of two that divides space.unit = {sizes.unit}")
    kernels = tuple(range(3, c.kernel + 1, 2))
    dilations = tuple(min(c.dilation, (c.extent - 1) // (kernel - 1)) for kernel in kernels)
    rows = tuple(
        min(memory.slices - 1, max(most, -(-most * memory.slices // slices)))
        for memory, most, slices in zip(smash_sizes.memories(sizes), _ROWS, _SLICES, strict=True)
    )
    return Ranges(sizes, kernels, dilations, groups, rows, (c.least_budget, c.most_budget))


class Rows(NamedTuple):
    """A block's choice, taken apart: int32 [rows] but for the banks, int32 [rows, banks]."""

    read: Any
    write: Any
    units: Any
    kernel_h: Any
    kernel_w: Any
    dilation_h: Any
    dilation_w: Any
    groups: Any


def rows_of(r: Ranges, flat: Any) -> Rows:
    """Of a block's integers, NumPy's or JAX'."""
    banks, table = r.sizes.banks, flat.reshape(-1, r.fields)
    return Rows(table[:, :banks], table[:, banks : 2 * banks], *(table[:, 2 * banks + n] for n in range(len(FIELDS))))


def encode(r: Ranges, a: Architecture) -> dict[str, np.ndarray]:
    """The choice of an architecture, with noise of zero.

    Raises:
      UserError: if it is not of this space.
    """
    smash_sizes.check_fits(r.sizes, a)
    noise = np.zeros(r.sizes.most * r.slices, np.float32)
    found = {BANK_SIZE: np.array([block.bank_size for block in a.blocks], np.int32), NOISE: noise}
    used = [sum(smash_sizes.slices_of(block, op) for op in block.ops) for block in a.blocks]
    for number, (name, block, rows) in enumerate(zip(BLOCK_NAMES, a.blocks, r.rows, strict=True), 1):
        place = f"architecture: block {number}"
        most = smash_sizes.memories(r.sizes)[number - 1].slices
        if len(block.ops) > rows or used[number - 1] > most:
            raise UserError(
                f"{place}: ops = {len(block.ops)} with {used[number - 1]} slices of weights; allowed: up to {rows} "
                f"with {most}"
            )
        table = np.zeros((rows, r.fields), np.int32)
        for index, op in enumerate(block.ops):
            table[index] = _row(r, op, f"{place}, op {index}")
        found[name] = table.reshape(-1)
    return found


def _row(r: Ranges, op: Op, place: str) -> np.ndarray:
    row, banks = np.zeros(r.fields, np.int32), r.sizes.banks
    row[list(op.read)], row[[banks + bank for bank in op.write]] = 1, 1
    if not set(op.kernel) <= set(r.kernels):
        raise UserError(f"{place}: kernel = {list(op.kernel)}; allowed: {', '.join(map(str, r.kernels))}")
    kernels = [r.kernels.index(side) for side in op.kernel]
    for kernel, dilation in zip(kernels, op.dilation, strict=True):
        if dilation > r.dilations[kernel]:
            raise UserError(f"{place}: dilation = {list(op.dilation)}; allowed: up to {r.dilations[kernel]}")
    if op.groups not in r.groups:
        raise UserError(f"{place}: groups = {op.groups}; allowed: {', '.join(map(str, r.groups))}")
    row[2 * banks :] = op.filters // r.sizes.unit, *kernels, *op.dilation, r.groups.index(op.groups)
    return row


def decode(r: Ranges, choice: Any) -> Architecture:
    """The architecture of a choice."""
    sizes = np.asarray(choice[BANK_SIZE]).tolist()
    parts = [rows_of(r, np.asarray(choice[name])) for name in BLOCK_NAMES]
    return Architecture(tuple(_block(r, *each) for each in zip(sizes, parts, strict=True)))


def _block(r: Ranges, size: int, rows: Rows) -> Block:
    live = [jax.tree.map(lambda x, n=n: x[n].tolist(), rows) for n in np.flatnonzero(rows.units)]

    def op(row: Any) -> Op:
        read, write = (tuple(n for n, bit in enumerate(bits) if bit) for bits in (row.read, row.write))
        kernel = r.kernels[row.kernel_h], r.kernels[row.kernel_w]
        dilation = row.dilation_h, row.dilation_w
        return Op(read, write, row.units * r.sizes.unit, kernel, dilation, r.groups[row.groups])

    return Block(size, tuple(map(op, live)))
