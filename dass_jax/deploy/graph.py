"""An inference network as plain data: nodes in the order of evaluation, each with an operation and its inputs.

A node's value is an array [C, H, W] for each image; vectors are [C, 1, 1], so that a linear layer is a 1×1 convolution.
Arrays are NumPy's, weights float64: they are rounded once, by whatever runs or writes the graph.
`evaluate` defines what every operation computes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, int, int]


class Input(NamedTuple):
    """The image, always node 0."""

    shape: Shape


class Constant(NamedTuple):
    """The same for every image."""

    value: np.ndarray
    """[C, H, W]."""


class Conv(NamedTuple):
    """Cross-correlation with zero padding, plus a bias; either dense (groups 1) or depthwise (groups = I = O)."""

    weight: np.ndarray
    """[O, I / groups, k, k]."""
    bias: np.ndarray
    """[O, 1, 1], or a map [O, H', W'] that differs from pixel to pixel."""
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


class Pool(NamedTuple):
    """3×3 window with padding 1: the `kind` "max" or "avg" of the pixels inside the image."""

    kind: str
    stride: int


class Activation(NamedTuple):
    """`name` is a key of `evaluate.ACTIVATIONS`."""

    name: str


class Add(NamedTuple):
    """The sum of two inputs; [C, 1, 1] is broadcast."""


class Multiply(NamedTuple):
    """The product of two inputs; [C, 1, 1] is broadcast."""


class Concat(NamedTuple):
    """All inputs' channels, one after the other."""


class Take(NamedTuple):
    """The channels with these indices."""

    channels: np.ndarray


class Subsample(NamedTuple):
    """x[:, offset::2, offset::2] of ⌈H/2⌉ × ⌈W/2⌉ pixels, zero beyond the image."""

    offset: int


class Halve(NamedTuple):
    """The mean of each 2×2 pixels; of an odd size the last row or column is left out."""


class Mean(NamedTuple):
    """The mean over the image."""


class Resize(NamedTuple):
    """Bilinear interpolation to a size that is not smaller: pixels are at their centres, and edges repeat."""

    height: int
    width: int


class Node(NamedTuple):
    operation: Any
    inputs: tuple[int, ...]
    shape: Shape


class Graph(NamedTuple):
    """`output` is the node of the outputs, [O, 1, 1], or [O, H, W] where pixels have outputs."""

    nodes: tuple[Node, ...]
    output: int


def is_depthwise(conv: Conv) -> bool:
    """Whether each channel is convolved by itself."""
    return conv.groups > 1 or conv.weight.shape[:2] == (1, 1)


def is_pointwise(conv: Conv) -> bool:
    """Whether it is a product with the matrix weight[:, :, 0, 0] at every pixel."""
    return conv.groups == 1 and conv.weight.shape[2] == 1 and conv.stride == 1 and conv.padding == 0


def scale(factor: np.ndarray, offset: np.ndarray) -> Conv:
    """factor · x + offset, both [C], as a depthwise convolution."""
    return Conv(factor[:, None, None, None], offset[:, None, None], groups=len(factor))


def window_size(size: int, conv: Conv) -> int:
    """Height or width after a convolution."""
    return (size + 2 * conv.padding - conv.dilation * (conv.weight.shape[-1] - 1) - 1) // conv.stride + 1


def shape_of(operation: Any, shapes: Sequence[Shape]) -> Shape:
    """The shape that an operation gives.

    Raises:
      ValueError: if the inputs do not fit it.
    """
    first = shapes[0] if shapes else (0, 0, 0)
    match operation:
        case Input():
            return operation.shape
        case Constant():
            channels, height, width = operation.value.shape
            return channels, height, width
        case Conv():
            out, per_group, k, _ = operation.weight.shape
            shape = (out, window_size(first[1], operation), window_size(first[2], operation))
            fits = operation.bias.shape in (shape, (out, 1, 1)) and operation.weight.shape[3] == k
            groups_fit = operation.groups == 1 or operation.groups == out == first[0]
            if not (fits and groups_fit and per_group * operation.groups == first[0] and min(shape) > 0):
                raise ValueError(f"a convolution by {operation.weight.shape} of {first}: they do not fit")
            return shape
        case Pool():
            return first[0], -(-first[1] // operation.stride), -(-first[2] // operation.stride)
        case Subsample():
            return first[0], -(-first[1] // 2), -(-first[2] // 2)
        case Halve():
            return first[0], first[1] // 2, first[2] // 2
        case Mean():
            return first[0], 1, 1
        case Resize(height, width):
            if height < first[1] or width < first[2]:
                raise ValueError(f"interpolation of {first} to {height}×{width}: it is smaller")
            return first[0], height, width
        case Take():
            if operation.channels.size and not 0 <= operation.channels.min() <= operation.channels.max() < first[0]:
                raise ValueError(f"channels up to {operation.channels.max()} taken out of {first[0]}")
            return len(operation.channels), *first[1:]
        case Add() | Multiply():
            largest = max(shapes, key=lambda shape: shape[1] * shape[2])
            if any(shape not in (largest, (largest[0], 1, 1)) for shape in shapes) or len(shapes) != 2:
                raise ValueError(f"{type(operation).__name__} of {shapes}: they do not fit")
            return largest
        case Concat():
            if len({shape[1:] for shape in shapes}) != 1:
                raise ValueError(f"concatenation of {shapes}: they do not fit")
            return sum(shape[0] for shape in shapes), *first[1:]
    return first  # an activation


def append(nodes: list[Node], operation: Any, *inputs: int) -> int:
    """Adds a node at the end and gives its index.

    Raises:
      ValueError: as `shape_of`.
    """
    nodes.append(Node(operation, inputs, shape_of(operation, [nodes[index].shape for index in inputs])))
    return len(nodes) - 1


def outputs_of(graph: Graph) -> tuple[int, ...]:
    """The shape of an image's outputs: [O], or [O, H, W] where pixels have outputs."""
    shape = graph.nodes[graph.output].shape
    return shape[:1] if shape[1:] == (1, 1) else shape


def uses(graph: Graph) -> list[int]:
    """How often each node's value is read; the output's once more."""
    found = [0] * len(graph.nodes)
    for node in graph.nodes:
        for index in node.inputs:
            found[index] += 1
    found[graph.output] += 1
    return found


class Size(NamedTuple):
    """Figures of a graph; multiply-accumulates are those of its convolutions for one image."""

    nodes: int
    convolutions: int
    macs: int
    macs_nonzero: int
    weights: int
    """Non-zero ones."""
    biases: int
    """Entries of all biases and constants, maps counted pixel by pixel."""


def size(graph: Graph) -> Size:
    """Counts a graph."""
    convs = [(node.operation, node.shape) for node in graph.nodes if isinstance(node.operation, Conv)]
    nonzero = [int(np.count_nonzero(conv.weight)) for conv, _ in convs]
    constants = [node.operation.value.size for node in graph.nodes if isinstance(node.operation, Constant)]
    return Size(
        nodes=len(graph.nodes),
        convolutions=len(convs),
        macs=sum(conv.weight.size * shape[1] * shape[2] for conv, shape in convs),
        macs_nonzero=sum(count * shape[1] * shape[2] for count, (_, shape) in zip(nonzero, convs, strict=True)),
        weights=sum(nonzero),
        biases=sum(conv.bias.size for conv, _ in convs) + sum(constants),
    )
