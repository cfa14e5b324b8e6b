"""Exact rewrites of a graph: norms into convolutions, equal nodes once, sums of pointwise layers as one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dass_jax.deploy.graph import Add, Concat, Conv, Graph, Node, append, is_pointwise, uses


def simplified(graph: Graph) -> Graph:
    """The graph with norms folded, equal nodes shared, and sums of pointwise convolutions fused."""
    return reachable(fuse_sums(shared(fold_scales(graph))))


def reachable(graph: Graph) -> Graph:
    """Without nodes that the output does not depend on; the input stays."""
    needed = {0, graph.output}
    for index in range(len(graph.nodes) - 1, -1, -1):
        if index in needed:
            needed.update(graph.nodes[index].inputs)
    return _rebuilt(graph, lambda nodes, node, inputs, index: append(nodes, node.operation, *inputs), needed)


def _rebuilt(graph: Graph, make: Callable[..., int], only: set[int] | None = None) -> Graph:
    """The graph with each node replaced by what `make(nodes, node, new inputs, old index)` appends or finds."""
    nodes: list[Node] = [graph.nodes[0]]
    place = {0: 0}
    for index, node in enumerate(graph.nodes):
        if index and (only is None or index in only):
            place[index] = make(nodes, node, [place[old] for old in node.inputs], index)
    return Graph(tuple(nodes), place[graph.output])


def is_scale(operation: Any) -> bool:
    """Whether an operation only multiplies each channel and adds to it."""
    return (
        isinstance(operation, Conv)
        and operation.groups == len(operation.weight)
        and operation.weight.shape[1:] == (1, 1, 1)
        and (operation.stride, operation.padding) == (1, 0)
        and operation.bias.shape[1:] == (1, 1)
    )


def fold_scales(graph: Graph) -> Graph:
    """Every scale into the convolutions before it, also through concatenations, where nothing else reads them.

    A fully pruned convolution is left with the scale's offset as its bias.
    """
    count = uses(graph)
    # How often a new node is read; the folded convolutions that `scaled` adds are read by one node.
    read: dict[int, int] = {0: count[0]}

    def scaled(nodes: list[Node], index: int, factor: np.ndarray, offset: np.ndarray) -> int | None:
        node = nodes[index]
        if read.get(index, 1) > 1:
            return None
        if isinstance(node.operation, Conv):
            conv = node.operation
            weight = conv.weight * factor[:, None, None, None]
            bias = conv.bias * factor[:, None, None] + offset[:, None, None]
            return append(nodes, conv._replace(weight=weight, bias=bias), *node.inputs)
        if isinstance(node.operation, Concat):
            ends = np.cumsum([nodes[part].shape[0] for part in node.inputs])[:-1]
            pieces = zip(node.inputs, np.split(factor, ends), np.split(offset, ends), strict=True)
            parts = [part for piece in pieces if (part := scaled(nodes, *piece)) is not None]
            return append(nodes, Concat(), *parts) if len(parts) == len(node.inputs) else None
        return None

    def make(nodes: list[Node], node: Node, inputs: list[int], index: int) -> int:
        found = None
        if is_scale(node.operation):
            found = scaled(nodes, inputs[0], node.operation.weight[:, 0, 0, 0], node.operation.bias[:, 0, 0])
        found = append(nodes, node.operation, *inputs) if found is None else found
        read[found] = count[index]
        return found

    return reachable(_rebuilt(graph, make))


def shared(graph: Graph) -> Graph:
    """Nodes without weights that do the same with the same inputs are one node."""
    seen: dict[Any, int] = {}

    def make(nodes: list[Node], node: Node, inputs: list[int], index: int) -> int:
        if any(isinstance(value, np.ndarray) for value in node.operation):
            return append(nodes, node.operation, *inputs)
        key = (type(node.operation), node.operation, *inputs)
        if key not in seen:
            seen[key] = append(nodes, node.operation, *inputs)
        return seen[key]

    return _rebuilt(graph, make)


def fuse_sums(graph: Graph) -> Graph:
    """A sum of two pointwise convolutions that nothing else reads is one of the concatenated inputs."""
    count = uses(graph)
    read: dict[int, int] = {}

    def make(nodes: list[Node], node: Node, inputs: list[int], index: int) -> int:
        before = [nodes[new] for new in inputs]
        fusible = isinstance(node.operation, Add) and all(
            isinstance(one.operation, Conv) and is_pointwise(one.operation) and read[new] == 1
            for one, new in zip(before, inputs, strict=True)
        )
        if fusible and before[0].shape == before[1].shape:
            weight = np.concatenate([one.operation.weight for one in before], axis=1)
            bias = before[0].operation.bias + before[1].operation.bias
            joined = append(nodes, Concat(), *(one.inputs[0] for one in before))
            found = append(nodes, Conv(weight, bias), joined)
        else:
            found = append(nodes, node.operation, *inputs)
        read[found] = count[index]
        return found

    return reachable(_rebuilt(graph, make))
