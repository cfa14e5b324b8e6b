"""Exact compaction: a graph of only those channels that depend on the image and that the logits depend on.

What a channel depends on is found going forward, whom it reaches going backward; as the second pass reads the first and
not the other way round, one of each is the fixed point. The rest is folded into biases: into one number per channel
where that is exact, into a map where zero padding is felt (see `analysis`).
"""

from typing import NamedTuple

import numpy as np

from dass_jax.deploy import analysis, rewrite
from dass_jax.deploy.graph import (
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Mean,
    Multiply,
    Node,
    Take,
    append,
    scale,
)


class Tensor(NamedTuple):
    """A compact node and which of the old node's channels it holds, in its order."""

    node: int
    channels: np.ndarray


class Source(NamedTuple):
    """What is known of an old node: its analysis, which channels are live, and where they are now, if there are any."""

    channels: analysis.Channels
    live: np.ndarray
    tensor: Tensor | None


def compact(graph: Graph) -> Graph:
    """The graph without dead channels; its logits are those of `graph` up to rounding."""
    found = analysis.forward(graph)
    live = analysis.backward(graph, found)
    nodes = [graph.nodes[0]]
    every = np.arange(graph.nodes[0].shape[0])
    sources = [Source(found[0], live[0], Tensor(0, every))]
    for index in range(1, len(graph.nodes)):
        node = graph.nodes[index]
        tensor = None
        if live[index].any() or index == graph.output:
            tensor = _place(nodes, node, [sources[old] for old in node.inputs], found[index], live[index])
        sources.append(Source(found[index], live[index], tensor))
    output = _logits(nodes, sources[graph.output])
    return rewrite.reachable(rewrite.shared(Graph(tuple(nodes), output)))


def _place(
    nodes: list[Node], node: Node, inputs: list[Source], found: analysis.Channels, live: np.ndarray
) -> Tensor | None:
    """Appends the live channels of an old node."""
    match node.operation:
        case Conv(groups=1):
            return _convolution(nodes, node, inputs[0], found, live)
        case Add() | Multiply():
            return _combined(nodes, node, inputs, live)
        case Concat():
            ends = np.cumsum([len(source.live) for source in inputs])
            pieces = []
            for source, end in zip(inputs, ends, strict=True):
                start = end - len(source.live)
                part = _taken(nodes, source, live[start:end])
                if part is not None:
                    pieces.append(Tensor(part.node, part.channels + start))
            return _joined(nodes, pieces)
        case Take():
            wanted = node.operation.channels
            tensor = inputs[0].tensor
            rows = np.flatnonzero(live)
            if tensor is None or not rows.size:
                return None
            where = {old: new for new, old in enumerate(tensor.channels)}
            return Tensor(append(nodes, Take(np.array([where[old] for old in wanted[rows]])), tensor.node), rows)
    part = _taken(nodes, inputs[0], live)
    if part is None:
        return None
    operation = node.operation
    if isinstance(operation, Conv):
        bias = analysis.collapsed(found.offset[part.channels])
        groups = len(part.channels)
        operation = operation._replace(weight=operation.weight[part.channels], bias=bias, groups=groups)
    return Tensor(append(nodes, operation, part.node), part.channels)


def _convolution(
    nodes: list[Node], node: Node, source: Source, found: analysis.Channels, live: np.ndarray
) -> Tensor | None:
    """A dense convolution: the offset, in which all fixed inputs are, becomes its bias."""
    rows, tensor = np.flatnonzero(live), source.tensor
    if tensor is None or not rows.size:
        return None
    conv = node.operation
    weight = conv.weight[rows]
    used = (weight != 0).any((0, 2, 3)) & source.live
    part = _taken(nodes, source, used) if tensor.node else tensor
    weight, bias = weight[:, part.channels], analysis.collapsed(found.offset[rows])
    return Tensor(append(nodes, conv._replace(weight=weight, bias=bias), part.node), rows)


def _combined(nodes: list[Node], node: Node, inputs: list[Source], live: np.ndarray) -> Tensor | None:
    """A sum or a product: where only one input depends on the image, the other is a constant."""
    pieces = []
    dynamic = [source.channels.dynamic for source in inputs]
    for first, second in ((True, False), (False, True), (True, True)):
        group = live & (dynamic[0] == first) & (dynamic[1] == second)
        if not group.any():
            continue
        parts = [_taken(nodes, x, group) for x, wanted in zip(inputs, (first, second), strict=True) if wanted]
        order = parts[0].channels
        if first and second:
            if not np.array_equal(order, parts[1].channels):
                place = {old: new for new, old in enumerate(parts[1].channels)}
                sorting = np.array([place[old] for old in order])
                parts[1] = Tensor(append(nodes, Take(sorting), parts[1].node), order)
            joined = append(nodes, node.operation, parts[0].node, parts[1].node)
        else:
            value = analysis.collapsed(analysis.fixed(inputs[1 if first else 0].channels)[order])
            joined = _with_constant(nodes, node.operation, parts[0].node, value, node.shape)
        pieces.append(Tensor(joined, order))
    return _joined(nodes, pieces)


def _with_constant(
    nodes: list[Node], operation: Add | Multiply, x: int, value: np.ndarray, shape: tuple[int, int, int]
) -> int:
    """x + value or x · value; one number per channel is a scale."""
    if isinstance(operation, Add) and not value.any() and nodes[x].shape[1:] == shape[1:]:
        return x
    if value.shape[1:] == (1, 1) and nodes[x].shape[1:] == shape[1:]:
        ones, zeros = np.ones(len(value)), np.zeros(len(value))
        numbers = value[:, 0, 0]
        factor, offset = (ones, numbers) if isinstance(operation, Add) else (numbers, zeros)
        return append(nodes, scale(factor, offset), x)
    whole = np.broadcast_to(value, (len(value), *shape[1:]))
    return append(nodes, operation, x, append(nodes, Constant(np.array(whole))))


def _taken(nodes: list[Node], source: Source, wanted: np.ndarray) -> Tensor:
    """The wanted channels (boolean, all of them live) of an old node, in the order in which they are now."""
    tensor = source.tensor
    if tensor is None or not wanted.any():
        return None
    keep = wanted[tensor.channels]
    if keep.all():
        return tensor
    return Tensor(append(nodes, Take(np.flatnonzero(keep)), tensor.node), tensor.channels[keep])


def _joined(nodes: list[Node], pieces: list[Tensor]) -> Tensor | None:
    if len(pieces) < 2:
        return pieces[0] if pieces else None
    joined = append(nodes, Concat(), *(piece.node for piece in pieces))
    return Tensor(joined, np.concatenate([piece.channels for piece in pieces]))


def _logits(nodes: list[Node], source: Source) -> int:
    """All logits in their order; those that are the same for every image have only a bias."""
    dynamic, value = source.live, analysis.fixed(source.channels)
    if source.tensor is None:
        x = append(nodes, Mean(), 0)
        return append(nodes, Conv(np.zeros((len(value), nodes[x].shape[0], 1, 1)), value), x)
    node, order = source.tensor
    if np.array_equal(order, np.arange(len(value))):
        return node
    operation, rows = nodes[node].operation, np.zeros((len(value), len(order)))
    rows[order, np.arange(len(order))] = dynamic[order]
    if isinstance(operation, Conv) and operation.groups == 1:
        weight = np.einsum("or,rikl->oikl", rows, operation.weight)
        bias = np.einsum("or,rhw->ohw", rows, operation.bias) + value
        return append(nodes, operation._replace(weight=weight, bias=bias), *nodes[node].inputs)
    return append(nodes, Conv(rows[:, :, None, None], value), node)
