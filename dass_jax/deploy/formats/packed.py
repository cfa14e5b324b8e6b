"""The compact sparse file: a short header, then positions and values of the live weights. No pickle, no code.

    bytes 0–7    b"DASSPACK"
    bytes 8–11   length of the header, 12–15 its CRC-32 continued over the body, both little-endian
    header       JSON, deflated: nodes with their sizes, the length of each of the body's streams, and what the file
                 says of itself
    body         streams: unary, remainders (`bits`), values, scales, biases

A convolution is the positions of its non-zero weights and their values, in float32, in float16, or in int8 with one
scale for each output channel (symmetric: scale · q, q from −127 to 127); biases are float16 with the last two. A scale
is a byte, an eighth of an octave a step: most channels of a very sparse network have one to three weights, which a
wider one would cost as much as it saves. Weights that are all 1 are not stored. A bias that is a map is stored once for
each of its different rows and columns. Other integers are bits among the remainders.
"""

import json
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from dass_jax.deploy.formats import bits
from dass_jax.deploy.graph import (
    Activation,
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Halve,
    Mean,
    Multiply,
    Pool,
    Resize,
    Subsample,
    Take,
)
from dass_jax.errors import UserError

MAGIC = b"DASSPACK"
HEAD = struct.Struct("<8sII")
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1"}
STREAMS = ("unary", "remainders", "values", "scales", "biases")
STEPS, LOWEST = 8, -26
"""A scale of int8 weights is 2^(byte / STEPS + LOWEST)."""
PLAIN = {"relu": Activation("relu"), "relu6": Activation("relu6"), "sigmoid": Activation("sigmoid")} | {
    "add": Add(),
    "multiply": Multiply(),
    "concat": Concat(),
    "halve": Halve(),
    "mean": Mean(),
}
"""Operations that are only a name."""


class _Writer(NamedTuple):
    values: str
    small: str
    """The dtype of biases."""
    streams: dict[str, list[np.ndarray]]


def dump(graph: Graph, values: str = "float16", about: str = "") -> bytes:
    """The file's bytes.

    Args:
      values: of the weights, "float32", "float16" or "int8".
      about: text that is kept in the header.

    Raises:
      UserError: if `values` is none of these, or a number is too large for float16.
    """
    if values not in DTYPES:
        raise UserError(f"values = {values!r}; allowed: {', '.join(DTYPES)}")
    writer = _Writer(values, DTYPES["float32" if values == "float32" else "float16"], {name: [] for name in STREAMS})
    nodes = [[_written(writer, node.operation), *node.inputs] for node in graph.nodes[1:]]
    packed = {
        name: np.packbits(_joined(parts, np.uint8)).tobytes() if name in STREAMS[:2] else _bytes(parts)
        for name, parts in writer.streams.items()
    }
    header = {
        "version": 1,
        "values": values,
        "input": graph.nodes[0].shape,
        "output": graph.output,
        "streams": [len(packed[name]) for name in STREAMS],
        "nodes": nodes,
        **({"about": about} if about else {}),
    }
    head = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    body = b"".join(packed[name] for name in STREAMS)
    return HEAD.pack(MAGIC, len(head), zlib.crc32(body, zlib.crc32(head))) + head + body


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _bytes(parts: list[np.ndarray]) -> bytes:
    return b"".join(part.tobytes() for part in parts)


def _written(writer: _Writer, operation: Any) -> Any:
    """What the header says of an operation; its arrays go to the streams."""
    for name, plain in PLAIN.items():
        if type(operation) is type(plain) and operation == plain:
            return name
    match operation:
        case Conv():
            settings = [operation.stride, operation.padding, operation.dilation, operation.groups]
            return [
                "conv",
                operation.weight.shape[:3],
                settings,
                _weight(writer, operation),
                _map(writer, operation.bias),
            ]
        case Constant():
            return ["constant", len(operation.value), _map(writer, operation.value)]
        case Pool():
            return [operation.kind, operation.stride]
        case Subsample():
            return ["subsample", operation.offset]
        case Resize():
            return ["resize", *operation]
        case Take():
            return ["take", len(operation.channels), _channels(writer, operation.channels)]
    raise ValueError(f"operation {operation!r} is not one of a graph's")


def _positions(writer: _Writer, positions: np.ndarray) -> int:
    """Writes increasing positions; the width of the remainders."""
    gaps = bits.to_gaps(positions)
    r = bits.best_r(gaps)
    for name, part in zip(STREAMS, bits.write(gaps, r), strict=False):
        writer.streams[name].append(part)
    return r


def _small(writer: _Writer, numbers: np.ndarray) -> np.ndarray:
    """In the dtype of biases."""
    with np.errstate(over="ignore"):
        found = numbers.astype(writer.small)
    if not np.isfinite(found).all():
        raise UserError(f"values = {writer.values!r}, but a number is {np.abs(numbers).max():g}; allowed: 'float32'")
    return found


def _weight(writer: _Writer, conv: Conv) -> list[int]:
    """[non-zero weights, width of the remainders]; a layer without zeros has no positions, and width −1; of one whose
    weights are 1 there is nothing but width −2."""
    rows = conv.weight.reshape(len(conv.weight), -1)
    if (rows == 1).all():
        return [rows.size, -2]
    positions = np.flatnonzero(rows)
    r = -1 if len(positions) == rows.size else _positions(writer, positions)
    if writer.values != "int8":
        found = conv.weight.astype(writer.small) if writer.values == "float32" else _small(writer, conv.weight)
        writer.streams["values"].append(found.ravel()[positions])
        return [len(positions), r]
    codes = _scales(np.abs(rows).max(1, initial=0))
    units = rows / scales_of(codes)[:, None]
    writer.streams["values"].append(np.rint(units).astype(np.int8).ravel()[positions])
    writer.streams["scales"].append(codes[rows.any(1)])
    return [len(positions), r]


def _scales(largest: np.ndarray) -> np.ndarray:
    """The byte of the smallest scale with which 127 reaches each row's largest weight."""
    wanted = STEPS * (np.log2(np.maximum(largest, 1e-30) / 127) - LOWEST)
    if wanted.max(initial=0) > 255:
        raise UserError(f"values = 'int8', but a weight is {largest.max():g}; allowed: 'float32'")
    return np.maximum(np.ceil(wanted - 1e-9), 0).astype(np.uint8)


def scales_of(codes: np.ndarray) -> np.ndarray:
    """The scales that bytes stand for."""
    return np.exp2(codes / STEPS + LOWEST)


def _integers(writer: _Writer, numbers: np.ndarray) -> int:
    """Writes numbers of 0 and more among the remainders; the bits of each, at least 1."""
    width = max(1, int(numbers.max(initial=0)).bit_length())
    writer.streams["remainders"].append(((numbers[:, None] >> np.arange(width)) & 1).astype(np.uint8).ravel())
    return width


def _channels(writer: _Writer, channels: np.ndarray) -> int:
    """The width of the remainders of increasing channels; of others minus the bits of each."""
    if (np.diff(channels) > 0).all():
        return _positions(writer, channels)
    return -_integers(writer, channels)


def _map(writer: _Writer, value: np.ndarray) -> list[int]:
    """[] for one number per channel; else [height, width, mixed channels, remainder width, rows, columns, bits of the
    row of each pixel, bits of the column]."""
    value = _small(writer, value)
    if value.shape[1:] == (1, 1):
        writer.streams["biases"].append(value.ravel())
        return []
    mixed = np.flatnonzero((value != value[:, :1, :1]).any((1, 2)))
    part = value[mixed]
    rows, row_of = np.unique(part.transpose(1, 0, 2).reshape(value.shape[1], -1), axis=0, return_inverse=True)
    columns, column_of = np.unique(part.transpose(2, 0, 1).reshape(value.shape[2], -1), axis=0, return_inverse=True)
    first = [
        np.array([np.argmax(of == k) for k in range(len(found))], int)
        for found, of in ((rows, row_of), (columns, column_of))
    ]
    writer.streams["biases"] += [np.delete(value[:, 0, 0], mixed), part[:, first[0]][:, :, first[1]].ravel()]
    r = _positions(writer, mixed)
    tables = len(rows), len(columns), _integers(writer, row_of.ravel()), _integers(writer, column_of.ravel())
    return [*value.shape[1:], len(mixed), r, *tables]
