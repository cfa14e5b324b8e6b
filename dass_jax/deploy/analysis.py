"""Which channels of a sparse network depend on the image and reach the outputs, and what the others are worth.

A channel to which no live weight leads is the same for every image: a constant inside, and by the zeros of a padded
convolution another one towards the border. Everything that such channels add to a convolution is a map, too. Both are
computed, not guessed: `offset` of a node is what its operation gives if all channels that depend on the image are zero.
"""

from typing import NamedTuple

import numpy as np

from dass_jax.deploy import evaluate
from dass_jax.deploy.graph import (
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Halve,
    Input,
    Multiply,
    Node,
    Pool,
    Resize,
    Subsample,
    Take,
)


class Channels(NamedTuple):
    """Of one node's channels."""

    dynamic: np.ndarray
    """Boolean [C]: whether the channel depends on the image."""
    offset: np.ndarray
    """[C, H, W], or [C, 1, 1] if it is the same at every pixel: the value of a channel that is not dynamic; of a
    dynamic one the part that does not depend on the image, where the operation is linear, or zero."""


def forward(graph: Graph) -> list[Channels]:
    """Channels of every node, from the input on."""
    found: list[Channels] = []
    for node in graph.nodes:
        dynamic, offset = _forward(node, [found[index] for index in node.inputs], graph)
        found.append(Channels(dynamic, collapsed(offset)))
    return found


def fixed(channels: Channels) -> np.ndarray:
    """The offset with zeros in the place of dynamic channels."""
    return np.where(channels.dynamic[:, None, None], 0.0, channels.offset)


def collapsed(offset: np.ndarray) -> np.ndarray:
    """[C, H, W] as [C, 1, 1], if no channel varies by more than the rounding of its sums."""
    if not offset.size:
        return offset
    low, high = offset.min((1, 2), keepdims=True), offset.max((1, 2), keepdims=True)
    scale = np.maximum(np.abs(low), np.abs(high))
    return low if bool((high - low <= 1e-13 * scale).all()) else offset


def _forward(node: Node, inputs: list[Channels], graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    operation, (channels, height, width) = node.operation, node.shape
    match operation:
        case Input():
            return np.ones(channels, bool), np.zeros((channels, 1, 1))
        case Constant():
            return np.zeros(channels, bool), operation.value
        case Conv():
            [x] = inputs
            weight = live_taps(operation, graph.nodes[node.inputs[0]].shape)
            reached = (weight != 0).any((2, 3)) & (x.dynamic[:, None] if operation.groups > 1 else x.dynamic)
            return reached.any(1), _convolved(operation, fixed(x), graph.nodes[node.inputs[0]].shape)
        case Add():
            return inputs[0].dynamic | inputs[1].dynamic, fixed(inputs[0]) + fixed(inputs[1])
        case Multiply():
            absorbed = [~x.dynamic & ~x.offset.any((1, 2)) for x in inputs]  # zero, so that the other does not matter
            dynamic = (inputs[0].dynamic | inputs[1].dynamic) & ~absorbed[0] & ~absorbed[1]
            return dynamic, fixed(inputs[0]) * fixed(inputs[1])
        case Concat():
            dynamic = np.concatenate([x.dynamic for x in inputs])
            parts = [fixed(x) for x in inputs]
            if any(part.shape[1:] != (1, 1) for part in parts):
                parts = [np.broadcast_to(part, (len(part), height, width)) for part in parts]
            return dynamic, np.concatenate(parts)
        case Take():
            return inputs[0].dynamic[operation.channels], fixed(inputs[0])[operation.channels]
    [x] = inputs
    value = fixed(x)
    if isinstance(operation, Subsample) and operation.offset:  # beyond the image there are zeros
        value = np.broadcast_to(value, graph.nodes[node.inputs[0]].shape)
    elif isinstance(operation, Pool | Halve | Subsample | Resize) and value.shape[1:] == (1, 1):
        return x.dynamic, value
    return x.dynamic, evaluate.apply(operation, [value[None]])[0]


def live_taps(conv: Conv, shape: tuple[int, int, int]) -> np.ndarray:
    """The weight with zeros at taps that meet only padding: [C, H, W] is the input's shape."""
    k = conv.weight.shape[-1]
    live: list[np.ndarray] = []
    for size in shape[1:]:
        reach = (size + 2 * conv.padding - conv.dilation * (k - 1) - 1) // conv.stride + 1
        places = np.arange(reach)[:, None] * conv.stride + np.arange(k) * conv.dilation - conv.padding
        live.append(np.asarray(((places >= 0) & (places < size)).any(0)))
    return conv.weight * np.outer(*live)


def _convolved(conv: Conv, value: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The convolution of what is fixed, [I, H, W] or [I, 1, 1]: work only for channels that are not zero."""
    used = np.flatnonzero(value.any((1, 2)))
    out = len(conv.weight)
    pointwise = conv.weight.shape[-1] == 1 and conv.padding == 0
    if not used.size:
        return conv.bias
    if value.shape[1:] != shape[1:] and not pointwise:
        value = np.broadcast_to(value, (len(value), *shape[1:]))
    if conv.groups > 1:
        part = Conv(conv.weight[used], np.zeros((len(used), 1, 1)), *conv[2:5], groups=len(used))
        if len(used) == 1:
            part = part._replace(groups=1)
        y = evaluate.convolution(part, value[None, used])[0]
        found = np.zeros((out, *y.shape[1:]))
        found[used] = y
    else:
        plain = conv._replace(weight=conv.weight[:, used], bias=np.zeros((out, 1, 1)))
        found = evaluate.convolution(plain, value[None, used])[0]
    return found + conv.bias


def backward(graph: Graph, channels: list[Channels]) -> list[np.ndarray]:
    """Boolean [C] of every node: whether the channel depends on the image and the outputs on it."""
    needed = [np.zeros(node.shape[0], bool) for node in graph.nodes]
    needed[graph.output][:] = True
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        needed[index] &= channels[index].dynamic
        live, start = needed[index], 0
        for source in node.inputs:
            size = graph.nodes[source].shape[0]
            read = live[start : start + size] if isinstance(node.operation, Concat) else _read(node, live, graph)
            start += size
            needed[source] |= read
    return needed


def _read(node: Node, live: np.ndarray, graph: Graph) -> np.ndarray:
    """The channels of the first input that the live ones of a node are made of."""
    operation = node.operation
    if isinstance(operation, Take):
        read = np.zeros(graph.nodes[node.inputs[0]].shape[0], bool)
        read[operation.channels[live]] = True
        return read
    if isinstance(operation, Conv) and operation.groups == 1:
        weight = live_taps(operation, graph.nodes[node.inputs[0]].shape)
        return (weight[live] != 0).any((0, 2, 3))
    return live
