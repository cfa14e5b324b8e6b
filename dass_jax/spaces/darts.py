"""The DARTS search space with sparse operations. Source: DARTS (arXiv 1806.09055) Section 3.1; DASS (arXiv 2207.06968)
Section 4.1. Normal and reduction cells share one α each; channels double at the reductions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES, Cell, Genotype, edges, reductions
from dass_jax.nn import kernels, layers
from dass_jax.nn.heads import Classifier
from dass_jax.nn.initial import initialise
from dass_jax.nn.mixed import MixedEdges
from dass_jax.nn.stems import STEMS, first_is_reduced

RULES: variables.Rules = (
    (r"cell_\d+/edges_\d+/skip_connect/weight", 3),
    (r"cell_\d+/edges_\d+/.*/weight", 2),
    (r".*/factorized/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)


class SupernetConfig(NamedTuple):
    """Sizes of the supernet; the defaults are the paper's."""

    classes: int = 10
    cells: int = 8
    channels: int = 16
    nodes: int = 4
    stem: str = "cifar"
    none: bool = True
    remat: bool = False
    """Recompute each cell's forward pass in the backward pass instead of keeping what it computed."""

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of an edge, in the order of α's last axis."""
        return PRIMITIVES if self.none else OPERATIONS


class Space(NamedTuple):
    """A search space as pure functions.

    init(key, image_shape [H, W, C]) → {"params", "batch_stats"}
    apply(params, batch_stats, edge_weights, images [C, H, W, N], train) → (logits [N, classes], batch_stats)
    derive(edge_weights) → Genotype
    alpha_shapes: cell type → (edges, operations)
    """

    init: Callable[..., variables.Variables]
    apply: Callable[..., tuple[jax.Array, Any]]
    derive: Callable[[Any], Genotype]
    alpha_shapes: dict[str, tuple[int, int]]
    rules: variables.Rules


class MixedCell(nn.Module):
    """One cell of the supernet: [C0, H, W, N] and [C1, H', W', N] → [nodes·channels, …]."""

    channels: int
    nodes: int
    reduction: bool
    previous_reduced: bool
    operations: tuple[str, ...]
    norm: layers.Norm

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, weights: jax.Array) -> jax.Array:
        align = layers.FactorizedReduce if self.previous_reduced else layers.ReLUConvNorm
        before = align(self.channels, self.norm, name="preprocess_0")(before)
        previous = layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_1")(previous)
        order = edges(self.nodes)
        nodes: list[Any] = [0] * self.nodes
        groups: list[tuple[tuple[int, ...], jax.Array]] = [((0, 1), jnp.stack([before, previous]))]
        for index in range(self.nodes):
            sources, x = groups[-1]
            first = max(sources) - 1 if max(sources) > 1 else 0
            rows = np.array([[order.index((s, node + 2)) for node in range(first, self.nodes)] for s in sources])
            stride = 2 if self.reduction and index == 0 else 1
            mixed = MixedEdges(self.nodes - first, stride, self.operations, self.norm, name=f"edges_{index}")
            for node, contribution in zip(range(first, self.nodes), mixed(x, weights[rows]), strict=True):
                nodes[node] += contribution
            nodes[index] = kernels.apart(nodes[index].astype(x.dtype))
            groups.append(((index + 2,), nodes[index][None]))
        return jnp.concatenate(nodes, axis=0)


class Supernet(nn.Module):
    """The network of all mixed operations."""

    config: SupernetConfig
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, edge_weights: dict[str, jax.Array], train: bool) -> jax.Array:
        c = self.config
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=False, average=self.average)
        stem_norm = layers.batch_norm(train, affine=True, average=self.average)
        before, previous = STEMS[c.stem](c.channels, stem_norm, name="stem")(x)
        channels, reduced = c.channels, first_is_reduced(c.stem)
        make_cell = nn.remat(MixedCell) if c.remat else MixedCell
        for index in range(c.cells):
            reduction = index in reductions(c.cells)
            channels *= 2 if reduction else 1
            cell = make_cell(channels, c.nodes, reduction, reduced, c.operations, norm, name=f"cell_{index}")
            weights = edge_weights["reduce" if reduction else "normal"]
            before, previous, reduced = previous, cell(before, previous, weights), reduction
        return Classifier(c.classes, name="head")(previous)


def darts(config: SupernetConfig, average: layers.Average = layers.one_device, dtype: Any = None) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables, edge weights and logits are float32 at least.
    """
    network = Supernet(config, average, dtype)
    shape = (len(edges(config.nodes)), len(config.operations))
    alpha_shapes = {"normal": shape, "reduce": shape}

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        weights = {name: jnp.zeros(shape) for name in alpha_shapes}
        images = jnp.zeros((channels, height, width, 2))
        return initialise(key, jax.eval_shape(lambda: network.init(key, images, weights, train=True)), RULES)

    def apply(params: Any, batch_stats: Any, edge_weights: Any, images: jax.Array, train: bool) -> Any:
        logits, updates = network.apply(
            {variables.PARAMS: params, variables.BATCH_STATS: batch_stats},
            images,
            edge_weights,
            train,
            mutable=[variables.BATCH_STATS],
        )
        return logits, updates[variables.BATCH_STATS]

    def derive(edge_weights: Any) -> Genotype:
        return Genotype(**{name: derive_cell(edge_weights[name], config) for name in alpha_shapes})

    return Space(init, apply, derive, alpha_shapes, RULES)


def derive_cell(weights: Any, config: SupernetConfig) -> Cell:
    """Per node the two incoming edges with the largest non-none weight, each with its best operation (DARTS 2.4).

    Args:
      weights: edge weights [edges, operations]. Ties go to the earlier edge and the earlier operation.
    """
    weights = np.asarray(weights)
    first = config.operations.index(OPERATIONS[0])  # `none`, if present, comes before it
    cell = []
    for node in range(2, config.nodes + 2):
        rows = {source: weights[edges(config.nodes).index((source, node)), first:] for source in range(node)}
        strongest = sorted(rows, key=lambda source: -rows[source].max())[:2]
        cell.append(tuple((OPERATIONS[int(rows[source].argmax())], source) for source in strongest))
    return tuple(cell)
