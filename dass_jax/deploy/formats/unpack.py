"""Reads the files that `packed` writes; everything in them is checked before it is used."""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dass_jax.deploy.formats import bits
from dass_jax.deploy.formats.packed import DTYPES, HEAD, MAGIC, PLAIN, STREAMS, scales_of
from dass_jax.deploy.graph import (
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Input,
    Multiply,
    Node,
    Pool,
    Resize,
    Subsample,
    Take,
    append,
)
from dass_jax.errors import UserError

T = TypeVar("T")
LARGEST_HEADER = 1 << 26
LARGEST_ARRAY = 1 << 28
"""Bytes of an inflated header and entries of one array that are accepted: a damaged length costs no memory."""


def load(data: bytes, origin: str = "packed file") -> Graph:
    """The graph of a file's bytes; what is read is checked before it is used.

    Raises:
      UserError: naming `origin`, if the bytes are not what `dump` writes.
    """
    return _of_file(data, origin, _read)


def about(data: bytes, origin: str = "packed file") -> str:
    """What a file's bytes say of themselves; empty if nothing. Raises UserError as `load`."""
    return _of_file(data, origin, lambda header, body: str(header.get("about", "")))


def _of_file(data: bytes, origin: str, read: Callable[[Any, memoryview], T]) -> T:
    """What `read` makes of the header and the body."""
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise UserError(f"{origin} does not begin with {MAGIC.decode()}; allowed: a file made by dass_jax.deploy")
    _, length, checksum = HEAD.unpack_from(data)
    if zlib.crc32(data[HEAD.size :]) != checksum:
        raise UserError(f"{origin} is damaged: its checksum differs; allowed: a whole file")
    try:
        inflate = zlib.decompressobj()
        header = json.loads(inflate.decompress(data[HEAD.size : HEAD.size + length], LARGEST_HEADER))
        return read(header, memoryview(data)[HEAD.size + length :])
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
    dtypes = ("u1", "u1", DTYPES[header["values"]], "u1", small)
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
    return Graph(tuple(nodes), _number(header["output"], 0, len(nodes) - 1))


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
        case ["resize", height, width]:
            if inputs[0].shape[0] * _number(height, 1) * _number(width, 1) > LARGEST_ARRAY:
                raise ValueError(f"a map of {inputs[0].shape[0]}×{height}×{width}")
            return Resize(height, width)
        case ["take", count, r]:
            count = _number(count, 1)
            if r >= 0:
                return Take(_read_positions(reader, count, r, inputs[0].shape[0]))
            return Take(_read_integers(reader, count, -r))
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


def _read_integers(reader: _Reader, count: int, width: int) -> np.ndarray:
    """Numbers of so many bits each, from the remainders."""
    found = _next(reader, "remainders", count * _number(width, 1, 32)).reshape(count, width)
    return np.asarray(found.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64)))


def _read_weight(reader: _Reader, shape: tuple[int, int, int, int], count: Any, r: Any) -> np.ndarray:
    size = int(np.prod(shape))
    _number(count, size if r in (-1, -2) else 0, size)
    if r == -2:
        return np.ones(shape)
    positions = np.arange(size) if r == -1 else _read_positions(reader, count, r, size)
    rows = np.zeros(size)
    rows[positions] = _next(reader, "values", count)
    if reader.values == "int8":
        live = np.unique(positions // (size // shape[0]))
        scales = np.zeros(shape[0])
        scales[live] = scales_of(_next(reader, "scales", len(live)))
        return (rows.reshape(shape[0], -1) * scales[:, None]).reshape(shape)
    return rows.reshape(shape)


def _read_map(reader: _Reader, channels: int, said: Any) -> np.ndarray:
    if said == []:
        return _next(reader, "biases", channels).astype(float)[:, None, None]
    height, width, count, r, rows, columns, *bits_of = said
    if channels * _number(height, 1) * _number(width, 1) > LARGEST_ARRAY:
        raise ValueError(f"a map of {channels}×{height}×{width}")
    mixed = _read_positions(reader, _number(count, 0, channels), r, channels)
    value = np.zeros((channels, height, width))
    rest = np.setdiff1d(np.arange(channels), mixed)
    value[rest] = _next(reader, "biases", len(rest))[:, None, None]
    shape = (count, _number(rows, 0, height), _number(columns, 0, width))
    table = _next(reader, "biases", int(np.prod(shape))).reshape(shape)
    row_of, column_of = (_read_integers(reader, *one) for one in zip((height, width), bits_of, strict=True))
    if max(row_of) >= rows or max(column_of) >= columns:
        raise ValueError("a map's row or column is not in its table")
    value[mixed] = table[:, row_of][:, :, column_of]
    return value
