"""How large the memory of a SMASH network is, and what of an architecture fits into it. Source: the authors' public
code for arXiv 1708.05344, whose numbers the defaults give."""

import math
from typing import Any, NamedTuple

from dass_jax.architectures.smash import BLOCKS, Architecture, Block, Op
from dass_jax.errors import UserError

BOTTLENECK = 4
"""Most times that an operation's mid channels are its filters."""
COMPRESSION = 2
"""Units of input channels that a slice of the generated weights has."""


class Sizes(NamedTuple):
    """Of a network."""

    depth: int = 12
    width: int = 4
    unit: int = 8
    """N: channels of a unit, of which banks and filters have whole numbers."""
    filters: int = 64
    """N_max: most filters of an operation."""
    max_bottleneck: int = 1
    """Most mid channels, in multiples of `filters`; the published networks have 2."""

    @property
    def most(self) -> int:
        """k: most units of an operation's filters, and of a bank."""
        return self.filters // self.unit

    @property
    def banks(self) -> int:
        """Banks of a memory, if they are as small as can be."""
        return 8 * self.width


def of_fields(c: Any) -> Sizes:
    """The sizes that fields of their names describe."""
    return Sizes(*(getattr(c, name) for name in Sizes._fields))


class Memory(NamedTuple):
    """Of a block."""

    inputs: int
    """Channels that come in."""
    width: int
    """Channels of all banks."""
    slices: int
    """Slices of generated weights that all operations together may have, with the whole budget."""


def memories(s: Sizes) -> tuple[Memory, ...]:
    """Of the blocks."""
    base = 2 * s.unit
    step, found, inputs = base * s.width, list[Memory](), base * s.width
    for block in range(BLOCKS):
        width = 4 * step if block == BLOCKS - 1 else inputs + 2 * step
        reference = inputs + s.depth * 2**block * step
        found.append(Memory(inputs, width, reference // (COMPRESSION * s.unit)))
        inputs = width // 2 // base * base
    return tuple(found)


def bank_sizes(s: Sizes, memory: Memory) -> tuple[int, ...]:
    """What a bank may have of units: an odd number only where the input fills two banks, as reads then come in pairs so
    that an operation has whole slices."""
    return tuple(size for size in range(1, s.most + 1) if memory.inputs // (s.unit * size) >= 1 + size % 2)


def mid_channels(s: Sizes, inputs: int, filters: int) -> int:
    """n_b: channels between the two convolutions of an operation that reads so many."""
    bottleneck = min(max(inputs // filters, 1), BOTTLENECK) if filters else 1
    return min(bottleneck * filters, inputs, s.max_bottleneck * s.filters)


def slices_of(block: Block, op: Op) -> int:
    """Slices of generated weights."""
    return math.ceil(len(op.read) * block.bank_size / COMPRESSION)


def used_banks(s: Sizes, memory: Memory, block: Block) -> int:
    """D: banks that what follows the block sees, from the first on."""
    written = max((bank + 1 for op in block.ops for bank in op.write), default=0)
    return max(written, memory.inputs // (s.unit * block.bank_size))


def check(s: Sizes, table: str) -> None:
    """Raises UserError for sizes that do not go together; `table` is the configuration's."""
    if s.filters % s.unit:
        raise UserError(f"{table}.filters = {s.filters}; allowed: a multiple of {table}.unit = {s.unit}")
    if s.filters > 2 * s.unit * s.width:
        raise UserError(
            f"{table}.filters = {s.filters}; allowed: at most 2·{table}.unit·{table}.width = {2 * s.unit * s.width}: "
            "the largest bank is filled by a block's input"
        )


def check_fits(s: Sizes, a: Architecture, origin: str = "architecture") -> None:
    """Raises UserError if a network of these sizes cannot have the architecture."""
    for number, (block, memory) in enumerate(zip(a.blocks, memories(s), strict=True), 1):
        place, sizes = f"{origin}: block {number}", bank_sizes(s, memory)
        if block.bank_size not in sizes:
            raise UserError(f"{place}: bank_size = {block.bank_size}; allowed: {', '.join(map(str, sizes))}")
        banks = memory.width // (s.unit * block.bank_size)
        written = set(range(memory.inputs // (s.unit * block.bank_size)))
        for index, op in enumerate(block.ops):
            _check_op(s, block, op, banks, written, f"{place}, op {index}")
            written |= set(op.write)


def _check_op(s: Sizes, block: Block, op: Op, banks: int, written: set[int], place: str) -> None:
    unwritten = [bank for bank in op.read if bank not in written]
    if unwritten:
        raise UserError(f"{place}: read = {list(op.read)}; allowed: banks that were written, {sorted(written)}")
    if block.bank_size % 2 and len(op.read) % 2:
        raise UserError(f"{place}: read = {list(op.read)}; allowed: an even number of banks of odd size")
    if op.write[-1] >= banks:
        raise UserError(f"{place}: write = {list(op.write)}; allowed: banks 0 to {banks - 1}")
    size = s.unit * block.bank_size
    if op.filters % size or op.filters > s.filters:
        raise UserError(f"{place}: filters = {op.filters}; allowed: a multiple of {size} up to {s.filters}")
    if s.unit % op.groups:
        raise UserError(f"{place}: groups = {op.groups}; allowed: a divisor of {s.unit}")
