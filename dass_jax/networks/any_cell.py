"""The network of `networks.nasbench201` for all cells at once: the cell is an argument, and one program serves all.

Each edge has the weights of both convolutions, and of its operations only the chosen one is computed. The weights of
the others have no gradient. A cell's network is part of it, layer by layer (`derived_of`).
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.nasbench201 import EDGES, NODES, OPERATIONS, Cell
from dass_jax.networks.model import Model, of_choosing_module
from dass_jax.nn import kernels, layers
from dass_jax.nn.choosing import chosen, normalised_if, parted
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.precision import widened
from dass_jax.nn.skeletons import Sizes, three_stages

RULES: variables.Rules = (
    (r"cell_\d+/nor_conv_\dx\d/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)
CONVOLUTIONS = {"nor_conv_1x1": (), "nor_conv_3x3": (3, 3)}
"""Operation → its window."""


def numbers(cell: Cell) -> np.ndarray:
    """The cell as the programs take it: int32 [6], places in `OPERATIONS`."""
    return np.array([OPERATIONS.index(operation) for operation in cell], np.int32)


BRANCHES: dict[str, Callable[[jax.Array, Any], jax.Array]] = {
    "none": lambda x, w: jnp.zeros_like(x),
    "skip_connect": lambda x, w: x,
    "nor_conv_1x1": lambda x, w: kernels.pointwise(kernels.relu(x), w["nor_conv_1x1"]),
    "nor_conv_3x3": lambda x, w: kernels.convolution(kernels.relu(x), w["nor_conv_3x3"], padding=1),
    "avg_pool_3x3": lambda x, w: kernels.avg_pool(x),
}
"""What is linear in x, or in its ReLU: none of them needs its result for the way back."""
NORMALISED = np.array([name in CONVOLUTIONS for name in OPERATIONS], np.int32)


@functools.partial(compiled_once, static_argnums=(0, 1))
def _edge(
    train: bool, average: layers.Average, operation: Any, x: jax.Array, weights: Any, affine: Any, running: Any
) -> Any:
    """What an edge gives, and its running averages after it. The edges of a cell share what is compiled."""
    y = chosen([BRANCHES[name] for name in OPERATIONS], operation, x, weights)
    return normalised_if(jnp.asarray(NORMALISED)[operation], y, affine, running, train, average)


class AnyCell(nn.Module):
    """One cell, [channels, H, W, N] and int [6] → the same maps."""

    channels: int
    train: bool
    average: layers.Average = layers.one_device

    @nn.compact
    def __call__(self, x: jax.Array, cell: Any) -> jax.Array:
        square = (len(EDGES), self.channels, self.channels)
        weights = {name: layers.SparseWeight((*square, *k), name=name)() for name, k in CONVOLUTIONS.items()}
        affine, running = layers.NormVariables(square[:2], name="norm")()
        if self.is_initializing():
            return x  # whose shape is all that is asked for
        by_edge = parted((weights, affine, tuple(each.value for each in running)))
        nodes = [x, *[jnp.zeros_like(widened(x))] * (NODES - 1)]
        now = []
        for edge, (source, target) in enumerate(EDGES):
            nodes[source] = nodes[source].astype(x.dtype)
            y, moved = _edge(self.train, self.average, cell[edge], nodes[source], *by_edge[edge])
            nodes[target] += y
            now.append(moved)
        if self.train:
            for each, parts in zip(running, zip(*now, strict=True), strict=True):
                each.value = jnp.stack(parts)
        return nodes[-1].astype(x.dtype)


class AnyNetwork(nn.Module):
    """The network of equal cells, whichever they are."""

    sizes: Sizes
    average: layers.Average = layers.one_device

    @nn.compact
    def __call__(self, x: jax.Array, cell: Any, train: bool) -> jax.Array:
        norm = layers.batch_norm(train, affine=True, average=self.average)

        def make(channels: int, name: str) -> Any:
            any_cell = AnyCell(channels, train, self.average, name=name)
            return lambda x: any_cell(x, cell)

        return three_stages(x, self.sizes, norm, norm, make)


def any_cell(sizes: Sizes, cell: Any, average: layers.Average = layers.one_device) -> Model:
    """The model of a cell, int [6], which may be traced: what is compiled serves all cells."""
    return of_choosing_module(AnyNetwork(sizes, average), cell, RULES)


def derived_of(path: str, cell: Cell) -> dict[int | None, str]:
    """Edge → the leaf of `networks.nasbench201`'s variables that is this part of a leaf; None: the whole leaf."""
    found = re.fullmatch(r"(cell_\d+)/(norm|nor_conv_\dx\d)/(\w+)", path)
    if found is None:
        return {None: path}
    own, layer, leaf = found.groups()
    names = {edge: f"{own}/edge_{target}_{source}_{cell[edge]}" for edge, (source, target) in enumerate(EDGES)}
    if layer == "norm":
        return {edge: f"{name}/norm/{leaf}" for edge, name in names.items() if cell[edge] in CONVOLUTIONS}
    return {edge: f"{name}/conv/conv/{leaf}" for edge, name in names.items() if cell[edge] == layer}
