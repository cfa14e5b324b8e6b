"""Exact compaction: a graph of only those channels that depend on the image and that the outputs depend on.

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
    """The graph without dead channels; its outputs are those of `graph` up to rounding."""
    found = analysis.forward(graph)
    live = analysis.backward(graph, found)
    nodes = [graph.nodes[0]]
    every = np.arange(graph.nodes[0].shape[0])
    sources = [Source(found[0], live[0], Tensor(0, every))]
    for index in range(1, len(graph.nodes)):
        node = graph.nodes[index]
        tensor = _place(nodes, node, [sources[old] for old in node.inputs], found[index], live[index])
        sources.append(Source(found[index], live[index], tensor))
    output = _outputs(nodes, sources[graph.output], graph.nodes[graph.output].shape)
    return rewrite.shared(rewrite.fold_scales(Graph(tuple(nodes), output)))


def _place(
    nodes: list[Node], node: Node, inputs: list[Source], found: analysis.Channels, live: np.ndarray
) -> Tensor | None:
    """Appends the live channels of an old node, if there are any."""
    if not live.any():
        return None
    operation = node.operation
    match operation:
        case Conv(groups=1):
            rows = np.flatnonzero(live)
            used = (operation.weight[rows] != 0).any((0, 2, 3)) & inputs[0].live
            part = _taken(nodes, inputs[0], used)
            weight, bias = operation.weight[rows][:, part.channels], analysis.collapsed(found.offset[rows])
            return Tensor(append(nodes, operation._replace(weight=weight, bias=bias), part.node), rows)
        case Add() | Multiply():
            return _combined(nodes, node, inputs, live)
        case Concat():
            starts = np.cumsum([0, *(len(source.live) for source in inputs)])
            pieces = []
            for source, start, end in zip(inputs, starts, starts[1:], strict=False):
                if live[start:end].any():
                    part = _taken(nodes, source, live[start:end])
                    pieces.append(Tensor(part.node, part.channels + start))
            return _joined(nodes, pieces)
        case Take():
            rows = np.flatnonzero(live)
            return Tensor(_reordered(nodes, _tensor(inputs[0]), operation.channels[rows]), rows)
    part = _taken(nodes, inputs[0], live)
    if isinstance(operation, Conv):  # a depthwise one; what is fixed of it becomes the bias
        bias = analysis.collapsed(found.offset[part.channels])
        operation = operation._replace(weight=operation.weight[part.channels], bias=bias, groups=len(part.channels))
    return Tensor(append(nodes, operation, part.node), part.channels)


def _combined(nodes: list[Node], node: Node, inputs: list[Source], live: np.ndarray) -> Tensor:
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
            other = _reordered(nodes, parts[1], order)
            joined = append(nodes, node.operation, parts[0].node, other)
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


def _tensor(source: Source) -> Tensor:
    if source.tensor is None:
        raise AssertionError("a live channel reads one that is not there")
    return source.tensor


def _taken(nodes: list[Node], source: Source, wanted: np.ndarray) -> Tensor:
    """The wanted channels (boolean; live ones, at least one) of an old node, in the order in which they are now."""
    tensor = _tensor(source)
    keep = wanted[tensor.channels]
    if keep.all():
        return tensor
    return Tensor(append(nodes, Take(np.flatnonzero(keep)), tensor.node), tensor.channels[keep])


def _reordered(nodes: list[Node], tensor: Tensor, order: np.ndarray) -> int:
    """The node with a tensor's channels in this order."""
    if np.array_equal(order, tensor.channels):
        return tensor.node
    place = {old: new for new, old in enumerate(tensor.channels)}
    return append(nodes, Take(np.array([place[old] for old in order])), tensor.node)


def _joined(nodes: list[Node], pieces: list[Tensor]) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    joined = append(nodes, Concat(), *(piece.node for piece in pieces))
    return Tensor(joined, np.concatenate([piece.channels for piece in pieces]))


def _outputs(nodes: list[Node], source: Source, shape: tuple[int, int, int]) -> int:
    """All outputs in their order; those that are the same for every image have only a bias."""
    dynamic, value = source.live, analysis.fixed(source.channels)
    if source.tensor is None:
        if shape[1:] != (1, 1):
            return append(nodes, Constant(np.array(np.broadcast_to(value, shape))))
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
