"""What every operation of a graph computes: the definition, in NumPy and in the dtype of its inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

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
    outputs_of,
    window_size,
)

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
"""Functions of one number."""


def evaluate(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Images [N, C, H, W] to outputs [N, O], or [N, O, H, W] where pixels have outputs."""
    last = {index: place for place, node in enumerate(graph.nodes) for index in node.inputs}
    values: dict[int, np.ndarray] = {}
    for place, node in enumerate(graph.nodes):
        inputs = [values[index] for index in node.inputs]
        values[place] = images if place == 0 else apply(node.operation, inputs)
        for index in set(node.inputs):
            if last[index] == place and index != graph.output:
                del values[index]
    outputs = values[graph.output]
    return np.broadcast_to(outputs, (len(images), *outputs.shape[1:])).reshape(len(images), *outputs_of(graph))


def apply(operation: Any, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """One operation on arrays [N, C, H, W]."""
    match operation:
        case Constant():
            return operation.value[None]
        case Conv():
            return convolution(operation, inputs[0])
        case Pool():
            return pool(inputs[0], operation)
        case Activation():
            return ACTIVATIONS[operation.name](inputs[0])
        case Add():
            return inputs[0] + inputs[1]
        case Multiply():
            return inputs[0] * inputs[1]
        case Concat():
            images = max(map(len, inputs))  # what is the same for all of them is there once
            return np.concatenate([np.broadcast_to(x, (images, *x.shape[1:])) for x in inputs], axis=1)
        case Take():
            return inputs[0][:, operation.channels]
        case Subsample():
            return subsample(inputs[0], operation.offset)
        case Halve():
            return halve(inputs[0])
        case Mean():
            return inputs[0].mean((2, 3), keepdims=True)
        case Resize(height, width):
            return resize(resize(inputs[0], height, 2), width, 3)
    raise ValueError(f"operation {operation!r} is not one of a graph's")


def padded(x: np.ndarray, border: int, outside: float = 0.0) -> np.ndarray:
    """x [N, C, H, W] with a border of `outside`."""
    return np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)), constant_values=outside)


def convolution(conv: Conv, x: np.ndarray) -> np.ndarray:
    """x [N, I, H, W] → [N, O, H', W'], one tap of the window after the other."""
    k, step = conv.weight.shape[-1], conv.stride
    height, width = (window_size(size, conv) for size in x.shape[2:])
    x = padded(x, conv.padding) if conv.padding else x
    y = np.zeros((len(x), len(conv.weight), height, width), x.dtype)
    for a, b in np.ndindex(k, k):
        tap = conv.weight[:, :, a, b].astype(x.dtype)
        if not tap.any():
            continue
        i, j = a * conv.dilation, b * conv.dilation
        view = x[:, :, i : i + (height - 1) * step + 1 : step, j : j + (width - 1) * step + 1 : step]
        y += view * tap[:, :, None] if conv.groups > 1 else np.moveaxis(np.tensordot(tap, view, (1, 1)), 0, 1)
    return y + conv.bias.astype(x.dtype)


def pool(x: np.ndarray, operation: Pool) -> np.ndarray:
    """x [N, C, H, W] → [N, C, ⌈H/stride⌉, ⌈W/stride⌉]."""
    if operation.kind == "max":
        return _windows(x, operation.stride, -np.inf).max(0)
    return _windows(x, operation.stride, 0).sum(0) / _windows(np.ones_like(x[:1, :1]), operation.stride, 0).sum(0)


def _windows(x: np.ndarray, stride: int, outside: float) -> np.ndarray:
    around, (height, width) = padded(x, 1, outside), x.shape[2:]
    return np.stack([around[:, :, a : a + height : stride, b : b + width : stride] for a in range(3) for b in range(3)])


def subsample(x: np.ndarray, offset: int) -> np.ndarray:
    """x [N, C, H, W] → [N, C, ⌈H/2⌉, ⌈W/2⌉], see `graph.Subsample`."""
    further = np.pad(x, ((0, 0), (0, 0), (0, offset), (0, offset)))[:, :, offset:, offset:]
    return further[:, :, ::2, ::2]


def halve(x: np.ndarray) -> np.ndarray:
    """x [N, C, H, W] → [N, C, ⌊H/2⌋, ⌊W/2⌋], see `graph.Halve`."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    return x[:, :, : 2 * height, : 2 * width].reshape(*x.shape[:2], height, 2, width, 2).mean((3, 5))


def resize(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """x along one axis, see `graph.Resize`."""
    last = x.shape[axis] - 1
    place = np.clip((np.arange(size) + 0.5) * ((last + 1) / size) - 0.5, 0, last)
    before = np.floor(place).astype(int)
    share = (place - before).reshape([-1 if i == axis else 1 for i in range(x.ndim)]).astype(x.dtype)
    return x.take(before, axis) * (1 - share) + x.take(np.minimum(before + 1, last), axis) * share
