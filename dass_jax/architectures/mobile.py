"""The blocks of DSO-NAS' mobile networks (Zhang et al., TPAMI 2020, Section 4.3) as plain data: which of six inverted
residuals are left in each. A search leaves one; a block of several adds up what they give."""

from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError, nearest

OPERATIONS = ("k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6")
"""By the side k of the depthwise window and the expansion e of the channels."""


class Mobile(NamedTuple):
    """An architecture."""

    blocks: tuple[tuple[str, ...], ...]
    """For each block its operations, at least one, in the order of `OPERATIONS`."""


def whole(blocks: int) -> Mobile:
    """All operations of so many blocks."""
    return Mobile((OPERATIONS,) * blocks)


def to_json(a: Mobile) -> Json:
    """`{"blocks": [["k3e6"], ["k5e3"], …]}`."""
    return {"blocks": [list(block) for block in a.blocks]}


def from_json(data: Any, origin: str = "architecture") -> Mobile:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    blocks = members(data, Mobile._fields, origin, "blocks")["blocks"]
    if not isinstance(blocks, list) or not blocks:
        raise UserError(f"{origin}: blocks = {short(blocks)}; allowed: a list of at least one block")
    return Mobile(tuple(_block(block, f"{origin}: blocks[{i}]") for i, block in enumerate(blocks)))


def _block(data: Any, place: str) -> tuple[str, ...]:
    known = ", ".join(OPERATIONS)
    if not isinstance(data, list) or not data:
        raise UserError(f"{place} = {short(data)}; allowed: a list of at least one of {known}")
    for name in data:
        if name not in OPERATIONS:
            hint = nearest(name, OPERATIONS) if isinstance(name, str) else ""
            raise UserError(f"{place}: {short(name)}{hint}; allowed: {known}")
    if len(set(data)) < len(data):
        raise UserError(f"{place} = {short(data)}; allowed: each operation once")
    return tuple(sorted(data, key=OPERATIONS.index))


def graphs(a: Mobile) -> tuple[Graph, ...]:
    """The blocks one after the other, with their operations as edges."""
    nodes = ("in", *map(str, range(1, len(a.blocks) + 1)))
    edges = [Edge(nodes[i], nodes[i + 1], name) for i, block in enumerate(a.blocks) for name in block]
    return (Graph("blocks", nodes, tuple(edges)),)


FAMILY = Family("mobile", Mobile, to_json, from_json, graphs)
