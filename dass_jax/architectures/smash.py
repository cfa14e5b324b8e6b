"""The architectures of SMASH (arXiv 1708.05344) as plain data: blocks of memory banks that operations read and write.

A bank has `bank_size` units of channels. The block's input fills the first banks; an operation joins the banks that it
reads, in their order, and adds its output to those that it writes. What a unit is, and how many banks the input fills,
says the network's size (`architectures.smash_sizes`).
"""

from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError

BLOCKS = 3
"""Blocks of a network, each on an image of half the size."""


class Op(NamedTuple):
    """1×1 convolution of what is read, ReLU, k×k convolution, added to what is written."""

    read: tuple[int, ...]
    """Banks, ascending; none: it adds zero."""
    write: tuple[int, ...]
    """Banks, ascending, at least one. The j-th gets the output's group of channels j modulo their number."""
    filters: int
    """Output channels."""
    kernel: tuple[int, int]
    """Height and width, odd."""
    dilation: tuple[int, int]
    groups: int


class Block(NamedTuple):
    """Operations in the order in which they are computed."""

    bank_size: int
    """Units of channels in a bank."""
    ops: tuple[Op, ...]


class Architecture(NamedTuple):
    """Three blocks."""

    blocks: tuple[Block, ...]


def to_json(a: Architecture) -> Json:
    """`{"blocks": [{"bank_size": 8, "ops": [{"read": [0], "write": [1], "filters": 64, "kernel": [3, 3], …}]}]}`."""
    return {"blocks": [{"bank_size": block.bank_size, "ops": [_listed(op) for op in block.ops]} for block in a.blocks]}


def _listed(op: Op) -> Json:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in op._asdict().items()}


def from_json(data: Any, origin: str = "architecture") -> Architecture:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    blocks = _object(data, ("blocks",), origin)["blocks"]
    if not isinstance(blocks, list) or len(blocks) != BLOCKS:
        raise UserError(f"{origin}: blocks = {short(blocks)}; allowed: a list of {BLOCKS} blocks")
    return Architecture(tuple(_block(block, f"{origin}: block {number}") for number, block in enumerate(blocks, 1)))


def _block(data: Any, place: str) -> Block:
    found = _object(data, Block._fields, place)
    if not isinstance(found["ops"], list):
        raise UserError(f"{place}: ops = {short(found['ops'])}; allowed: a list of operations")
    ops = tuple(_op(op, f"{place}, op {number}") for number, op in enumerate(found["ops"]))
    return Block(_integer(found["bank_size"], f"{place}: bank_size"), ops)


def _op(data: Any, place: str) -> Op:
    found = _object(data, Op._fields, place)
    write = _banks(found["write"], f"{place}: write")
    if not write:
        raise UserError(f"{place}: write = []; allowed: at least one bank")
    kernel, dilation = (_pair(found[name], f"{place}: {name}") for name in ("kernel", "dilation"))
    if not all(side % 2 for side in kernel):
        raise UserError(f"{place}: kernel = {list(kernel)}; allowed: odd height and width")
    filters, groups = (_integer(found[name], f"{place}: {name}") for name in ("filters", "groups"))
    return Op(_banks(found["read"], f"{place}: read"), write, filters, kernel, dilation, groups)


def _object(data: Any, keys: tuple[str, ...], place: str) -> Json:
    names = ", ".join(keys)
    found = members(data, keys, place, names)
    for key in keys:
        if key not in data:
            raise UserError(f"{place}: {key} is missing; allowed: an object with {names}")
    return found


def _integer(value: Any, place: str) -> int:
    if type(value) is not int or not 0 < value < 2**20:
        raise UserError(f"{place} = {short(value)}; allowed: a positive integer")
    return value


def _pair(value: Any, place: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{place} = {short(value)}; allowed: a list of height and width")
    return _integer(value[0], place), _integer(value[1], place)


def _banks(value: Any, place: str) -> tuple[int, ...]:
    good = isinstance(value, list) and all(type(bank) is int and bank >= 0 for bank in value)
    if not good or value != sorted(set(value)):
        raise UserError(f"{place} = {short(value)}; allowed: a list of different banks, ascending from 0")
    return tuple(value)


def graphs(a: Architecture) -> tuple[Graph, ...]:
    """A graph for each block: a bank is a node for each of its states, "bank 1" and, once it is written again, "bank 1
    after op 3", so that what is read when can be seen; operations are nodes with their reads and writes as edges."""
    return tuple(_graph(f"block {number}", block) for number, block in enumerate(a.blocks, 1))


def _graph(name: str, block: Block) -> Graph:
    reads = [bank for op in block.ops for bank in op.read]
    now = {bank: f"bank {bank}" for bank in sorted({*reads, *(b for op in block.ops for b in op.write)})}
    first = {bank: next((n for n, op in enumerate(block.ops) if bank in (*op.read, *op.write)), 0) for bank in now}
    nodes = [now[bank] for bank in now if bank in block.ops[first[bank]].read]
    filled, edges = {bank for bank in now if now[bank] in nodes}, []
    for number, op in enumerate(block.ops):
        node = f"op {number}"
        nodes.append(node)
        edges += [Edge(now[bank], node, "") for bank in op.read]
        for bank in op.write:
            state = f"bank {bank} after op {number}"
            nodes.append(state)
            edges.append(Edge(node, state, label(op)))
            if bank in filled:
                edges.append(Edge(now[bank], state, "add"))
            filled.add(bank)
            now[bank] = state
    return Graph(name, tuple(nodes) or ("input",), tuple(edges))


def label(op: Op) -> str:
    """What an operation is, in a few characters: `64 3×5, dilated 1×2, 4 groups`."""
    dilated = "" if op.dilation == (1, 1) else f", dilated {op.dilation[0]}×{op.dilation[1]}"
    grouped = "" if op.groups == 1 else f", {op.groups} groups"
    return f"{op.filters} {op.kernel[0]}×{op.kernel[1]}{dilated}{grouped}"


def warnings(a: Architecture) -> dict[str, str]:
    """Blocks that compute nothing."""
    return {f"block {n}": "it has no operation" for n, block in enumerate(a.blocks, 1) if not block.ops}


FAMILY = Family("smash", Architecture, to_json, from_json, graphs, warnings)
