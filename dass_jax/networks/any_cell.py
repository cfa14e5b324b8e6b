"""The network of `networks.nasbench201` for all cells at once: the cell is an argument, and one program serves all.

Each edge has the weights of both convolutions, and of its operations only the chosen one is computed. The weights of
the others have no gradient. A cell's network is part of it, layer by layer (`of_derived`).
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
from dass_jax.networks.model import Model
from dass_jax.nn import kernels, layers
from dass_jax.nn.choosing import chosen
from dass_jax.nn.initial import UNIFORM, initialise
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
_MOMENTUM, _EPSILON = layers.BatchNorm.momentum, layers.BatchNorm.epsilon


def numbers(cell: Cell) -> np.ndarray:
    """The cell as the programs take it: int32 [6], places in `OPERATIONS`."""
    return np.array([OPERATIONS.index(operation) for operation in cell], np.int32)


def _parted(tree: Any) -> list[Any]:
    """The part of each edge. A split's gradient is one concatenation, that of six slices six sums of whole leaves."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [[part[0] for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [jax.tree.unflatten(structure, own) for own in zip(*parts, strict=True)]


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

    def normalised(y: jax.Array, own: Any) -> Any:
        affine, (mean, var) = own
        if not train:
            inverse = kernels.inverse_deviation(var, _EPSILON)
            return kernels.scaled(y, *kernels.scale_and_shift(mean, inverse, affine)), (mean, var)
        found, now = kernels.normalised(y, affine, average, _EPSILON)
        moved = (_MOMENTUM * old + (1 - _MOMENTUM) * new for old, new in zip((mean, var), now, strict=True))
        return found, tuple(new.astype(old.dtype) for new, old in zip(moved, (mean, var), strict=True))

    y = chosen([BRANCHES[name] for name in OPERATIONS], operation, x, weights)
    index = jnp.asarray(NORMALISED)[operation]
    return chosen([lambda y, own: (y, own[1]), normalised], index, y, (affine, running))


class AnyCell(nn.Module):
    """One cell, [channels, H, W, N] and int [6] → the same maps."""

    channels: int
    train: bool
    average: layers.Average = layers.one_device

    @nn.compact
    def __call__(self, x: jax.Array, cell: Any) -> jax.Array:
        square = (len(EDGES), self.channels, self.channels)
        weights = {name: layers.SparseWeight((*square, *k), name=name)() for name, k in CONVOLUTIONS.items()}
        affine = layers.ScaleAndBias(square[:2], name="norm")()
        mean = self.variable(variables.BATCH_STATS, "mean", jnp.zeros, square[:2])
        var = self.variable(variables.BATCH_STATS, "var", jnp.ones, square[:2])
        if self.is_initializing():
            return x  # whose shape is all that is asked for
        by_edge = _parted((weights, affine, (mean.value, var.value)))
        nodes = [x, *[jnp.zeros_like(widened(x))] * (NODES - 1)]
        now = []
        for edge, (source, target) in enumerate(EDGES):
            nodes[source] = nodes[source].astype(x.dtype)
            y, moved = _edge(self.train, self.average, cell[edge], nodes[source], *by_edge[edge])
            nodes[target] += y
            now.append(moved)
        if self.train:
            mean.value, var.value = (jnp.stack(parts) for parts in zip(*now, strict=True))
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
    network = AnyNetwork(sizes, average)

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        images, first = jnp.zeros((channels, height, width, 2)), np.zeros(len(EDGES), np.int32)
        return initialise(key, jax.eval_shape(lambda: network.init(key, images, first, True)), RULES, UNIFORM)

    def apply(params: Any, batch_stats: Any, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        values = {variables.PARAMS: params, variables.BATCH_STATS: batch_stats}
        logits, updates = network.apply(values, images, cell, train, mutable=[variables.BATCH_STATS])
        return logits, None, updates.get(variables.BATCH_STATS, batch_stats)

    return Model(init, apply, (0,), RULES)


def of_derived(path: str, cell: Cell) -> tuple[str, int | None]:
    """Where a leaf of `networks.nasbench201`'s variables lies in these: (path, edge), or (path, None) if it is the
    whole leaf."""
    found = re.fullmatch(r"(cell_\d+)/edge_(\d)_(\d)_(\w+?)/(?:conv/conv/weight|norm/(\w+))", path)
    if found is None:
        return path, None
    own, target, source, operation, norm = found.groups()
    edge = EDGES.index((int(source), int(target)))
    if norm is None:
        return f"{own}/{operation}/weight", edge
    return (f"{own}/norm/{norm}" if norm in ("scale", "bias") else f"{own}/{norm}"), edge
