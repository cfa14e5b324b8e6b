"""The DARTS search space with sparse operations. Source: DARTS (arXiv 1806.09055) Section 3.1; DASS (arXiv 2207.06968)
Section 4.1. Normal and reduction cells share one α each; channels double at the reductions.
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dass_jax import variables
from dass_jax.architectures.darts import (
    OPERATIONS,
    PRIMITIVES,
    Cell,
    Genotype,
    edges,
    input_name,
    reductions,
    skips,
)
from dass_jax.errors import UserError
from dass_jax.nn import layers
from dass_jax.nn.heads import Scale, halved, head
from dass_jax.nn.mixed_cell import MixedCell, Rows, rows_of
from dass_jax.nn.stems import STEMS, check_stem, first_is_reduced, stride_of
from dass_jax.schema import Range
from dass_jax.spaces import live as living
from dass_jax.spaces.darts_live import carried
from dass_jax.spaces.space import Choice, Space, of_module
from dass_jax.tasks import Outputs

RULES: variables.Rules = (
    (r"cell_\d+/(edges|source)_\w+/skip_connect/weight", 3),
    (r"cell_\d+/(edges|source)_\w+/.*/weight", 2),
    (r".*/factorized/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)


@dataclasses.dataclass(frozen=True)
class Fields:
    """The cells of DARTS: a normal and a reduction cell, whose nodes are connected with all nodes before them."""

    cells: Annotated[int, Range(1, 200)] = 8
    """Cells of the supernet (L). DASS, as in DARTS."""
    channels: Annotated[int, Range(1, 4096)] = 16
    """Channels of the supernet's first cells (C). DASS, as in DARTS."""
    nodes: Annotated[int, Range(1, 8)] = 4
    """Intermediate nodes of a cell; the paper's 7 nodes count 2 inputs and the output too."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (three, each of stride 2). DARTS."""
    none: bool = True
    """Also search over the operation `none` (DARTS; DASS Table 1 leaves it out). It is never derived."""
    remat: bool = False
    """Recompute each cell in the backward pass: about a third more time for a fraction of the memory."""


class SupernetConfig(NamedTuple):
    """Sizes of the supernet; the defaults are the paper's."""

    classes: Outputs = 10
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


class Supernet(nn.Module):
    """The network of all mixed operations."""

    config: SupernetConfig
    live: tuple[Rows, Rows]
    """Of the normal and of the reduction cells."""
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, edge_weights: dict[str, jax.Array], train: bool) -> jax.Array:
        c, size = self.config, x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=False, average=self.average)
        stem_norm = layers.batch_norm(train, affine=True, average=self.average)
        before, previous = STEMS[c.stem](c.channels, stem_norm, name="stem")(x)
        channels, reduced = c.channels, first_is_reduced(c.stem)
        make_cell = nn.remat(MixedCell) if c.remat else MixedCell
        at = Scale(stride_of(c.stem))
        for index in range(c.cells):
            reduction = index in reductions(c.cells)
            channels *= 2 if reduction else 1
            live = self.live[reduction]
            then = halved(c.classes, at) if reduction else at
            halves, own = then.stride > at.stride, (c.operations, norm, live, at.dilation)
            cell = make_cell(channels, c.nodes, halves, reduced, *own, name=f"cell_{index}")
            weights = edge_weights["reduce" if reduction else "normal"]
            before, previous, reduced, at = previous, cell(before, previous, weights), halves, then
        return head(c.classes, stem_norm, size)(previous)


def darts(
    config: SupernetConfig,
    average: layers.Average = layers.one_device,
    dtype: Any = None,
    live: living.Live | None = None,
) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables, edge weights and logits are float32 at least.
      live: {"normal": bool [edges, operations], "reduce": …}, the operations that are part of the program; None: all.
        Those that are not have no variables and cost nothing. A choice has its full shape nevertheless.

    Raises:
      ValueError: if `live` does not have the names and shapes of the choices.
    """
    cells = choices(config)
    normal, reduce = (rows_of(living.checked(live, cells)[name]) for name in Genotype._fields)
    network = Supernet(config, (normal, reduce), average, dtype)

    init, apply = of_module(network, cells, RULES)

    def decode(edge_weights: Any) -> Genotype:
        return Genotype(**{name: derive_cell(edge_weights[name], config) for name in cells})

    return Space(
        init=init,
        apply=apply,
        encode=lambda genotype: encode(genotype, config),
        decode=decode,
        settle=lambda edge_weights: settle(edge_weights, config),
        sample=lambda generator: sample(generator, config.nodes),
        choices=cells,
        rules=RULES,
        carried=lambda tree, live, before=None: carried(tree, live, before, (config.cells, config.nodes), cells),
        skips=lambda genotype: {name: skips(cell) for name, cell in genotype._asdict().items()},
    )


def choices(config: SupernetConfig) -> dict[str, Choice]:
    """The edges and operations of both cells, laid out as a staircase: a row for each node, a column for each input."""
    pairs = edges(config.nodes)
    rows = tuple(f"{input_name(source)} → {input_name(node)}" for source, node in pairs)
    grid = tuple((node - 2, source) for source, node in pairs)
    return {
        name: Choice(title, rows, config.operations, grid)
        for name, title in (("normal", "normal cell"), ("reduce", "reduction cell"))
    }


def encode(genotype: Genotype, config: SupernetConfig) -> dict[str, np.ndarray]:
    """Edge weights float32 [edges, operations] with which the supernet computes what the network of `genotype` does: 1
    for each of its operations, 0 for all others, so that an edge that it lacks carries nothing.

    Raises:
      UserError: for a genotype with more nodes than the space has.
    """
    found = {}
    for name, cell in genotype._asdict().items():
        if len(cell) > config.nodes:
            raise UserError(f"architecture: nodes = {len(cell)}; allowed: at most {config.nodes}, which is space.nodes")
        found[name] = np.zeros((len(edges(config.nodes)), len(config.operations)), np.float32)
        for node, pairs in enumerate(cell, start=2):
            for operation, source in pairs:
                found[name][edges(config.nodes).index((source, node)), config.operations.index(operation)] = 1
    return found


def sample(generator: np.random.Generator, nodes: int) -> Genotype:
    """A genotype drawn uniformly: per node two different inputs, each with any operation but `none`. Source: the
    random search of DARTS (arXiv 1806.09055) Section 3.2."""

    def cell() -> Cell:
        return tuple(
            tuple(
                (OPERATIONS[generator.integers(len(OPERATIONS))], int(source))
                for source in generator.choice(node, size=2, replace=False)
            )
            for node in range(2, nodes + 2)
        )

    return Genotype(normal=cell(), reduce=cell())


def settle(edge_weights: Any, config: SupernetConfig) -> Genotype:
    """All edges, each with its strongest operation, but those with `none`; then without what no input reaches, or what
    does not reach the output. A node may so have any number of edges, none too."""
    return Genotype(**{name: _settled(np.asarray(edge_weights[name]), config) for name in Genotype._fields})


def _settled(weights: np.ndarray, config: SupernetConfig) -> Cell:
    chosen = {
        edge: config.operations[int(row.argmax())] for edge, row in zip(edges(config.nodes), weights, strict=True)
    }
    live = {0, 1}
    for node in range(2, config.nodes + 2):
        if any(chosen[source, node] != "none" for source in range(node) if source in live):
            live.add(node)

    # Every node is joined to the output, so whatever an input reaches reaches the output too.
    def node_of(node: int) -> tuple[tuple[str, int], ...]:
        pairs = ((chosen[source, node], source) for source in range(node) if source in live)
        return tuple(pair for pair in pairs if pair[0] != "none")

    return tuple(map(node_of, range(2, config.nodes + 2)))


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


def from_fields(
    c: Fields, outputs: Outputs, average: layers.Average, dtype: Any, live: living.Live | None = None
) -> Space:
    """The space that a configuration describes."""
    config = SupernetConfig(outputs, c.cells, c.channels, c.nodes, c.stem, c.none, c.remat)
    return darts(config, average, dtype, live)


def check(c: Fields) -> None:
    """Raises UserError if the channels do not halve where the stem halves them."""
    check_stem("space", c.stem, c.channels)
