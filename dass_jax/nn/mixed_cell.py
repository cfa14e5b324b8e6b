"""A cell of mixed operations. Source: DARTS (arXiv 1806.09055) Section 2.1."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.architectures.darts import edges
from dass_jax.nn import kernels, layers
from dass_jax.nn.mixed import MixedEdges

Rows = tuple[tuple[bool, ...], ...]
"""Which operations are part of the program, [edges, operations]."""


def rows_of(live: np.ndarray) -> Rows:
    """A matrix as a hashable value."""
    return tuple(tuple(map(bool, row)) for row in live)


def groups(nodes: int) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """(sources, targets) of the edges that are computed together: the two inputs have maps of one shape and lead to all
    nodes, and every node but the last leads to those after it. Numbered as an architecture's."""
    inputs = ((0, 1), tuple(range(2, nodes + 2)))
    return inputs, *(((source,), tuple(range(source + 1, nodes + 2))) for source in range(2, nodes + 1))


def rows(nodes: int, sources: tuple[int, ...], targets: tuple[int, ...]) -> np.ndarray:
    """The rows of a choice that belong to these edges: [sources, targets]."""
    order = edges(nodes)
    return np.array([[order.index((source, target)) for target in targets] for source in sources])


def complete(live: np.ndarray, operations: tuple[str, ...]) -> bool:
    """Whether all operations that compute something live, of bool [..., operations]."""
    return bool(live[..., np.array(operations) != "none"].all())


class MixedCell(nn.Module):
    """One cell of the supernet: [C0, H, W, N] and [C1, H', W', N] → [nodes·channels, …]."""

    channels: int
    nodes: int
    reduction: bool
    previous_reduced: bool
    operations: tuple[str, ...]
    norm: layers.Norm
    live: Rows | None = None
    """None: everything."""
    dilation: int = 1
    """Of convolutions, beside their own."""

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, weights: jax.Array) -> jax.Array:
        align = layers.FactorizedReduce if self.previous_reduced else layers.ReLUConvNorm
        before = align(self.channels, self.norm, name="preprocess_0")(before)
        previous = layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_1")(previous)
        nodes: list[Any] = [0] * self.nodes
        x = jnp.stack([before, previous])
        for index, (sources, targets) in enumerate(groups(self.nodes)):
            stride = 2 if self.reduction and index == 0 else 1
            own = rows(self.nodes, sources, targets)
            live = np.full((*own.shape, len(self.operations)), True) if self.live is None else np.array(self.live)[own]
            if complete(live, self.operations):
                name, d = f"edges_{index}", self.dilation
                mixed = MixedEdges(len(targets), stride, self.operations, self.norm, d, name=name)
                parts: Iterable[tuple[int, jax.Array]] = enumerate(kernels.apart(mixed(x, weights[own])))
            else:
                parts = self._living(x, weights[own], live, stride, sources)
            for target, contribution in parts:
                nodes[targets[target] - 2] += contribution
            if isinstance(nodes[index], int):  # nothing leads to it
                nodes[index] = jnp.zeros_like(x[0, :, ::stride, ::stride])
            nodes[index] = kernels.apart(nodes[index].astype(x.dtype))
            x = nodes[index][None]
        return jnp.concatenate(nodes, axis=0)

    def _living(
        self, x: jax.Array, weights: jax.Array, live: np.ndarray, stride: int, sources: tuple[int, ...]
    ) -> list[tuple[int, jax.Array]]:
        """What each living operation gives to each of its targets, for weights and live [sources, targets, operations];
        targets are counted from 0."""
        parts: list[tuple[int, jax.Array]] = []
        for row, column in np.argwhere(live.any(1)):
            operation, targets = self.operations[column], np.flatnonzero(live[row, :, column])
            if operation == "none":
                continue
            name = f"source_{sources[row]}_{operation}"
            mixed = MixedEdges(len(targets), stride, (operation,), self.norm, self.dilation, name=name)
            maps = mixed(x[row][None], weights[row, targets, column][None, :, None])
            parts += zip(targets.tolist(), jnp.unstack(maps), strict=True)
        return parts
