"""Whole networks of ENAS (arXiv 1802.03268, "macro") as plain data: an operation for each layer, and which earlier
feature maps are joined to it.

Feature map 0 is the stem's, map l + 1 that of layer l (from 0). Layer l reads map l, always, and by bit j (j < l) also
map j. The published integers are, layer by layer, the operation and its bits: l + 1 integers for layer l.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
"""In the order of their numbers."""

_FORM = "a list of integers: for layer l (0, 1, …) the operation, 0 to 5, and l bits"


class Arc(NamedTuple):
    """`operations`: the number of each layer's; `skips`: for layer l the l bits of the maps 0 … l − 1."""

    operations: tuple[int, ...]
    skips: tuple[tuple[int, ...], ...]


def length(layers: int) -> int:
    """Integers of an arc, and where those of the layer with that number begin."""
    return layers * (layers + 1) // 2


def flat(arc: Arc) -> list[int]:
    """The published form: operation and bits, layer by layer."""
    return [x for operation, bits in zip(arc.operations, arc.skips, strict=True) for x in (operation, *bits)]


def of_flat(integers: Any, origin: str = "arc") -> Arc:
    """Inverse of `flat`.

    Raises:
      UserError: naming `origin`, the layer and what is allowed there.
    """
    if not isinstance(integers, Sequence) or isinstance(integers, str) or not integers:
        raise UserError(f"{origin} = {short(integers)}; allowed: {_FORM}")
    layers = next((n for n in range(1, len(integers) + 1) if length(n) >= len(integers)), 0)
    if length(layers) != len(integers):
        sizes = f"{length(layers - 1)} or {length(layers)}" if layers > 1 else "1"
        raise UserError(f"{origin}: {len(integers)} integers; allowed: {sizes}, {_FORM}")
    operations, skips = [], []
    for layer in range(layers):
        operation, *bits = integers[length(layer) : length(layer + 1)]
        operations.append(_one_of(operation, range(len(OPERATIONS)), f"{origin}: operation of layer {layer}"))
        skips.append(tuple(_one_of(bit, range(2), f"{origin}: bit {j} of layer {layer}") for j, bit in enumerate(bits)))
    return Arc(tuple(operations), tuple(skips))


def _one_of(value: Any, allowed: range, place: str) -> int:
    if type(value) is not int or value not in allowed:
        raise UserError(f"{place} = {short(value)}; allowed: {allowed.start} to {allowed.stop - 1}")
    return value


def to_text(arc: Arc) -> str:
    """A word for each layer, `operation:bits`: `0: 3:0 0:10`."""
    return " ".join(
        f"{operation}:{''.join(map(str, bits))}" for operation, bits in zip(arc.operations, arc.skips, strict=True)
    )


def from_text(text: str, origin: str = "arc") -> Arc:
    """Inverse of `to_text`; the first layer's colon may be missing.

    Raises:
      UserError: naming `origin`, the layer and what is allowed there.
    """
    integers: list[int] = []
    for layer, word in enumerate(text.split()):
        operation, _, bits = word.partition(":")
        if not operation.isdecimal() or len(bits) != layer or set(bits) - {"0", "1"}:
            raise UserError(f"{origin}: layer {layer} = {short(word)}; allowed: OPERATION:BITS with {layer} bits")
        integers += [int(operation), *map(int, bits)]
    return of_flat(integers, origin)


def to_json(arc: Arc) -> Json:
    """`{"arc": [integers]}`."""
    return {"arc": flat(arc)}


def from_json(data: Any, origin: str = "architecture") -> Arc:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    return of_flat(members(data, ("arc",), origin, "'arc'")["arc"], f"{origin}: arc")


def map_name(index: int) -> str:
    """What a feature map is called."""
    return f"layer {index - 1}" if index else "stem"


def graphs(arc: Arc) -> tuple[Graph, ...]:
    """The network as one graph: a layer's operation on the edge from its input, other maps as mere connections."""
    nodes = tuple(map_name(index) for index in range(len(arc.operations) + 1))
    edges: list[Edge] = []
    for layer, (operation, bits) in enumerate(zip(arc.operations, arc.skips, strict=True)):
        edges.append(Edge(nodes[layer], nodes[layer + 1], OPERATIONS[operation]))
        edges += [Edge(nodes[j], nodes[layer + 1], "") for j, bit in enumerate(bits) if bit]
    return (Graph("network", nodes, tuple(edges)),)


def pools(layers: int) -> tuple[int, ...]:
    """Layers (from 0) after which all maps are halved: a third and two thirds of the depth."""
    return tuple(sorted({layers // 3 - 1, 2 * layers // 3 - 1} - {-1}))


def halved(arc: Arc) -> tuple[tuple[int, ...], ...]:
    """For each of `pools` the maps that something later reads: its own input, or a skip."""
    layers = len(arc.operations)
    found: list[tuple[int, ...]] = []
    later: set[int] = set()
    """Maps that are read after the pool that comes next."""
    bounds = [*pools(layers), layers - 1]
    for pool, end in zip(bounds[-2::-1], bounds[:0:-1], strict=True):
        for layer in range(pool + 1, end + 1):
            later |= {layer, *(j for j, bit in enumerate(arc.skips[layer]) if bit)}
        later = {index for index in later if index <= pool + 1}
        found.insert(0, tuple(sorted(later)))
    return tuple(found)


def warnings(arc: Arc) -> dict[str, str]:
    """What is wrong with a network of which no operation has weights."""
    return {} if min(arc.operations) < 4 else {"network": "no operation is a convolution"}


_PUBLISHED = (
    "0 3:0 0:10 2:001 2:0000 3:11010 2:000001 2:0110111 1:01110101 0:000000000 2:0000010000 0:10011000011 "
    "2:010000010110 1:0010001110101 0:11010100000100 2:001000000010101 2:0100010011110010 2:00001010100101001 "
    "3:011010000010101000 3:0110000000001100001 0:10010110001000001100 3:010110010110110100100 "
    "0:1010100000000101001000 0:11000111010001010011000"
)
PUBLISHED = {"enas_macro": from_text(_PUBLISHED)}
"""The authors' network of 24 layers, from their script for CIFAR-10."""


def first_layers(arc: Arc, layers: int) -> Arc:
    """An arc's first layers, which are an arc too."""
    return Arc(arc.operations[:layers], arc.skips[:layers])


FAMILY = Family(
    name="enas_macro",
    kind=Arc,
    to_json=to_json,
    from_json=from_json,
    graphs=graphs,
    warnings=warnings,
    published=PUBLISHED,
    from_text=from_text,
    is_text=lambda text: ":" in text and re.fullmatch(r"[\d: ]+", text) is not None,
    to_text=to_text,
)
