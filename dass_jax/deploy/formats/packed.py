"""The compact sparse file: a short header, then positions and values of the live weights. No pickle, no code.

    bytes 0–7    b"DASSPACK"
    bytes 8–11   length of the header, 12–15 its CRC-32 continued over the body, both little-endian
    header       JSON, deflated: nodes with their sizes, and the length of each of the body's streams
    body         streams: unary, remainders (`bits`), values, scales, biases, integers

A convolution is the positions of its non-zero weights and their values, in float32, in float16, or in int8 with one
scale for each output channel (symmetric: scale · q, q from −127 to 127); biases and scales are float16 with the last
two. A bias that is a map is stored once for each of its different rows and columns.
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
    Input,
    Mean,
    Multiply,
    Node,
    Pool,
    Subsample,
    Take,
    append,
)
from dass_jax.errors import UserError

MAGIC = b"DASSPACK"
HEAD = struct.Struct("<8sII")
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1"}
STREAMS = ("unary", "remainders", "values", "scales", "biases", "integers")
LARGEST_HEADER = 1 << 26
LARGEST_ARRAY = 1 << 28
"""Bytes of an inflated header and entries of one array that `load` accepts: a damaged length costs no memory."""
PLAIN = {"relu": Activation("relu"), "relu6": Activation("relu6"), "sigmoid": Activation("sigmoid")} | {
    "add": Add(),
    "multiply": Multiply(),
    "concat": Concat(),
    "mean": Mean(),
}
"""Operations that are only a name."""


class _Writer(NamedTuple):
    values: str
    small: str
    """The dtype of biases and scales."""
    streams: dict[str, list[np.ndarray]]


def dump(graph: Graph, values: str = "float16") -> bytes:
    """The file's bytes.

    Args:
      values: of the weights, "float32", "float16" or "int8".

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
            return ["conv", operation.weight.shape[:3], settings, _weight(writer, operation), _map(writer, operation.bias)]
        case Constant():
            return ["constant", len(operation.value), _map(writer, operation.value)]
        case Pool():
            return [operation.kind, operation.stride]
        case Subsample():
            return ["subsample", operation.offset]
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
    """[non-zero weights, width of the remainders]; a layer without zeros has no positions, and width −1."""
    rows = conv.weight.reshape(len(conv.weight), -1)
    positions = np.flatnonzero(rows)
    r = -1 if len(positions) == rows.size else _positions(writer, positions)
    if writer.values != "int8":
        found = conv.weight.astype(writer.small) if writer.values == "float32" else _small(writer, conv.weight)
        writer.streams["values"].append(found.ravel()[positions])
        return [len(positions), r]
    largest = np.abs(rows).max(1, initial=0)
    scales = _small(writer, largest / 127)
    scales = np.where(scales.astype(float) * 127 < largest, np.nextafter(scales, np.float16(np.inf)), scales)
    units = rows / np.maximum(scales.astype(float), 1e-30)[:, None]
    writer.streams["values"].append(np.rint(units).astype(np.int8).ravel()[positions])
    writer.streams["scales"].append(scales[rows.any(1)].astype(writer.small))
    return [len(positions), r]


def _channels(writer: _Writer, channels: np.ndarray) -> int:
    """The width of the remainders of increasing channels, −1 for others, which are written as they are."""
    if (np.diff(channels) > 0).all():
        return _positions(writer, channels)
    writer.streams["integers"].append(channels.astype("<u4"))
    return -1


def _map(writer: _Writer, value: np.ndarray) -> list[int]:
    """[] for one number per channel; else [height, width, mixed channels, remainder width, rows, columns]."""
    value = _small(writer, value)
    if value.shape[1:] == (1, 1):
        writer.streams["biases"].append(value.ravel())
        return []
    mixed = np.flatnonzero((value != value[:, :1, :1]).any((1, 2)))
    part = value[mixed]
    rows, row_of = np.unique(part.transpose(1, 0, 2).reshape(value.shape[1], -1), axis=0, return_inverse=True)
    columns, column_of = np.unique(part.transpose(2, 0, 1).reshape(value.shape[2], -1), axis=0, return_inverse=True)
    first = [np.array([np.argmax(of == k) for k in range(len(found))], int) for found, of in ((rows, row_of), (columns, column_of))]
    writer.streams["biases"] += [np.delete(value[:, 0, 0], mixed), part[:, first[0]][:, :, first[1]].ravel()]
    writer.streams["integers"] += [row_of.astype("<u4"), column_of.astype("<u4")]
    return [*value.shape[1:], len(mixed), _positions(writer, mixed), len(rows), len(columns)]


def load(data: bytes, origin: str = "packed file") -> Graph:
    """The graph of a file's bytes; what is read is checked before it is used.

    Raises:
      UserError: naming `origin`, if the bytes are not what `dump` writes.
    """
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise UserError(f"{origin} does not begin with {MAGIC.decode()}; allowed: a file made by dass_jax.deploy")
    _, length, checksum = HEAD.unpack_from(data)
    if zlib.crc32(data[HEAD.size :]) != checksum:
        raise UserError(f"{origin} is damaged: its checksum differs; allowed: a whole file")
    try:
        inflate = zlib.decompressobj()
        header = json.loads(inflate.decompress(data[HEAD.size : HEAD.size + length], LARGEST_HEADER))
        return _read(header, memoryview(data)[HEAD.size + length :])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, zlib.error, RecursionError) as error:
        raise UserError(f"{origin} is damaged: {error}; allowed: a file made by dass_jax.deploy") from error


class _Reader(NamedTuple):
    values: str
    small: str
    streams: dict[str, np.ndarray]
    at: dict[str, int]
    """How far each stream has been read."""


def _read(header: dict[str, Any], body: memoryview) -> Graph:
    if header["version"] != 1 or header["values"] not in DTYPES:
        raise ValueError(f"version {header['version']!r} with values {header['values']!r}")
    small = DTYPES["float32" if header["values"] == "float32" else "float16"]
    dtypes = ("u1", "u1", DTYPES[header["values"]], small, small, "<u4")
    ends = np.cumsum(header["streams"])
    if len(ends) != len(STREAMS) or min(header["streams"]) < 0 or ends[-1] != len(body):
        raise ValueError("the streams do not fill the file")
    streams = {
        name: np.frombuffer(body[end - size : end], dtype)
        for name, dtype, end, size in zip(STREAMS, dtypes, ends, header["streams"], strict=True)
    }
    streams |= {name: np.unpackbits(streams[name]) for name in STREAMS[:2]}
    reader = _Reader(header["values"], small, streams, dict.fromkeys(STREAMS, 0))
    channels, height, width = (_number(value, 1) for value in header["input"])
    nodes = [Node(Input((channels, height, width)), (), (channels, height, width))]
    for said, *inputs in header["nodes"]:
        sources = [_number(source, 0, len(nodes) - 1) for source in inputs]
        operation = _operation(reader, said, [nodes[source] for source in sources])
        if len(sources) != {Constant: 0, Add: 2, Multiply: 2, Concat: max(len(sources), 1)}.get(type(operation), 1):
            raise ValueError(f"{said!r} with {len(sources)} inputs")
        append(nodes, operation, *sources)
    output = _number(header["output"], 0, len(nodes) - 1)
    if nodes[output].shape[1:] != (1, 1):
        raise ValueError(f"the output is {nodes[output].shape}")
    return Graph(tuple(nodes), output)


def _number(value: Any, low: int, high: int = 1 << 20) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} where a whole number from {low} to {high} was expected")
    return value


def _next(reader: _Reader, name: str, count: int) -> np.ndarray:
    start = reader.at[name]
    reader.at[name] = start + count
    if start + count > len(reader.streams[name]):
        raise ValueError(f"the {name} end too early")
    return reader.streams[name][start : start + count]


def _operation(reader: _Reader, said: Any, inputs: list[Node]) -> Any:
    if isinstance(said, str):
        return PLAIN[said]
    match said:
        case ["conv", [out, per_group, k], [stride, padding, dilation, groups], [count, r], bias]:
            shape = (_number(out, 1), _number(per_group, 1), _number(k, 1, 64), k)
            if out * per_group * k * k > LARGEST_ARRAY:
                raise ValueError(f"a weight of {shape}")
            settings = (_number(stride, 1), _number(padding, 0), _number(dilation, 1), _number(groups, 1))
            return Conv(_read_weight(reader, shape, count, r), _read_map(reader, out, bias), *settings)
        case ["constant", channels, bias]:
            return Constant(_read_map(reader, _number(channels, 1), bias))
        case ["max" | "avg" as kind, stride]:
            return Pool(kind, _number(stride, 1, 2))
        case ["subsample", offset]:
            return Subsample(_number(offset, 0, 1))
        case ["take", count, r]:
            count = _number(count, 1)
            if r >= 0:
                return Take(_read_positions(reader, count, r, inputs[0].shape[0]))
            return Take(_next(reader, "integers", count).astype(int))
    raise ValueError(f"operation {said!r}")


def _read_positions(reader: _Reader, count: int, r: int, limit: int) -> np.ndarray:
    _number(r, 0, bits.LARGEST_R)
    unary, remainders = (reader.streams[name][reader.at[name] :] for name in STREAMS[:2])
    gaps, *taken = bits.read(unary, remainders, count, r)
    for name, size in zip(STREAMS, taken, strict=False):
        reader.at[name] += size
    positions = bits.to_positions(gaps)
    if count and positions[-1] >= limit:
        raise ValueError(f"position {positions[-1]} of {limit}")
    return positions


def _read_weight(reader: _Reader, shape: tuple[int, int, int, int], count: Any, r: Any) -> np.ndarray:
    size = int(np.prod(shape))
    _number(count, size if r == -1 else 0, size)
    positions = np.arange(size) if r == -1 else _read_positions(reader, count, r, size)
    rows = np.zeros(size)
    rows[positions] = _next(reader, "values", count)
    if reader.values == "int8":
        live = np.unique(positions // (size // shape[0]))
        scales = np.zeros(shape[0])
        scales[live] = _next(reader, "scales", len(live))
        return (rows.reshape(shape[0], -1) * scales[:, None]).reshape(shape)
    return rows.reshape(shape)


def _read_map(reader: _Reader, channels: int, said: Any) -> np.ndarray:
    if said == []:
        return _next(reader, "biases", channels).astype(float)[:, None, None]
    height, width, count, r, rows, columns = said
    if channels * _number(height, 1) * _number(width, 1) > LARGEST_ARRAY:
        raise ValueError(f"a map of {channels}×{height}×{width}")
    mixed = _read_positions(reader, _number(count, 0, channels), r, channels)
    value = np.zeros((channels, height, width))
    rest = np.setdiff1d(np.arange(channels), mixed)
    value[rest] = _next(reader, "biases", len(rest))[:, None, None]
    shape = (count, _number(rows, 0, height), _number(columns, 0, width))
    table = _next(reader, "biases", int(np.prod(shape))).reshape(shape)
    row_of, column_of = (_next(reader, "integers", size).astype(int) for size in (height, width))
    if max(row_of) >= rows or max(column_of) >= columns:
        raise ValueError("a map's row or column is not in its table")
    value[mixed] = table[:, row_of][:, :, column_of]
    return value
