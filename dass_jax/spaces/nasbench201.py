"""The NAS-Bench-201 search space with sparse operations. Source: arXiv 2001.00326 Section 2; as a supernet DARTS (arXiv
1806.09055) Eq. 2. All cells share one choice.

Convolutions of the cells have no bias and their BN no scale and offset. The published search code gives a convolution a
bias exactly where its BN has neither: it changes nothing, since BN subtracts it again with the mean, so that its
gradient is zero. With these biases the network of the paper's size has 1,692,698 weights, without 1,685,978.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.nasbench201 import EDGES, NODES, OPERATIONS, Cell
from dass_jax.architectures.nasbench201_alike import alike
from dass_jax.nn import kernels, layers
from dass_jax.nn.precision import widened
from dass_jax.nn.skeletons import Sizes, three_stages
from dass_jax.schema import Range, Text
from dass_jax.spaces import live as living
from dass_jax.spaces import lookup
from dass_jax.spaces.live import Live
from dass_jax.spaces.space import Choice, Space, of_module
from dass_jax.tasks import Outputs

RULES: variables.Rules = (
    (r"cell_\d+/edges_\d/.*/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fifteen equal cells of four nodes, in three stages."""

    cells: Annotated[int, Range(1, 200)] = 5
    """Cells in each of the three stages (N)."""
    channels: Annotated[int, Range(1, 4096)] = 16
    """Channels of the first stage (C)."""
    derive_none: bool = True
    """An edge of the found cell may have the operation `none`, as in the benchmark's own searches. false: it has the
    best of the others, as in DARTS 2.4, which calls the weight of `none` undetermined: it scales what a node sums up,
    and batch normalisation undoes that. `entmax`, which leaves one operation on each edge, does not ask."""
    table: Annotated[str, Text("the path of an .npz file, or '' for none", empty=True)] = ""
    """Published accuracies of all cells (docs/papers/entmax.md says in which form), or a table.npz of
    `dass_jax.sparsebench`: results and report then say what the table says of the found cell, and of the cell that each
    epoch of a search would give."""


CELL = "cell"
"""The name of the one matrix of a choice."""
CHOICES: Mapping[str, Choice] = {
    CELL: Choice("cell", tuple(f"{target}←{source}" for source, target in EDGES), OPERATIONS)
}
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}

_STACKED = re.compile(r"(?:.*/)?cell_\d+/edges_(\d)/(?:norm_)?(nor_conv_\dx\d)/\w+")
"""Leaves with an entry for each living edge that leaves a source."""

Rows = tuple[tuple[bool, ...], ...]


def rows_of(source: int) -> list[int]:
    """The rows of a choice whose edges leave the given node, in the order of their targets."""
    return [row for row, edge in enumerate(EDGES) if edge[0] == source]


class SourceEdges(nn.Module):
    """All edges that leave one node: x [C, H, W, N], weights [targets, operations] → [targets, C, H, W, N].

    They share the node's ReLU and its mean, and their convolutions of one kind are one. Where no operation of a target
    lives its map is zero.
    """

    live: Rows
    """[targets, operations]"""
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        relu = kernels.relu(x)
        sums = [jnp.zeros_like(widened(x))] * len(self.live)
        for column, operation in enumerate(OPERATIONS):
            targets = [target for target, row in enumerate(self.live) if row[column]]
            if not targets or operation == "none":
                continue
            own = weights[np.array(targets), column]
            if operation in KERNELS:
                maps = self._convolved(operation, relu, len(targets))
                parts = jnp.unstack(widened(self.norm(name=f"norm_{operation}")(maps, own)))
            else:
                source = x if operation == "skip_connect" else kernels.avg_pool(x)
                parts = kernels.multiples(source, own)
            for target, part in zip(targets, parts, strict=True):
                sums[target] += part
        return jnp.stack(sums)

    def _convolved(self, operation: str, relu: jax.Array, targets: int) -> jax.Array:
        """[targets, C, H, W, N]"""
        channels, k = relu.shape[0], KERNELS[operation]
        window = () if k == 1 else (k, k)
        weight = layers.SparseWeight((targets, channels, channels, *window), name=operation)()
        joined = weight.reshape(targets * channels, channels, *window)
        maps = kernels.pointwise(relu, joined) if k == 1 else kernels.convolution(relu, joined, padding=1)
        return maps.reshape(targets, *relu.shape)


class MixedCell(nn.Module):
    """One cell of the supernet, [C, H, W, N] and weights [edges, operations] → [C, H, W, N]."""

    live: Rows
    """[edges, operations]"""
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        nodes: list[Any] = [x, *[0] * (NODES - 1)]
        for source in range(NODES - 1):
            rows = rows_of(source)
            edges = SourceEdges(tuple(self.live[row] for row in rows), self.norm, name=f"edges_{source}")
            sums = jnp.unstack(edges(nodes[source], weights[np.array(rows)]))
            for target, part in enumerate(sums, start=source + 1):
                nodes[target] += part
            nodes[source + 1] = kernels.apart(nodes[source + 1].astype(x.dtype))
        return nodes[-1]


class Supernet(nn.Module):
    """The network of all living operations."""

    sizes: Sizes
    live: Rows
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: dict[str, jax.Array], train: bool) -> jax.Array:
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=False, average=self.average)
        affine_norm = layers.batch_norm(train, affine=True, average=self.average)

        def cell(channels: int, name: str) -> Any:
            mixed = MixedCell(self.live, norm, name=name)
            return lambda x: mixed(x, choice[CELL])

        return three_stages(x, self.sizes, affine_norm, norm, cell)


def nasbench201(
    sizes: Sizes,
    average: layers.Average = layers.one_device,
    dtype: Any = None,
    live: Live | None = None,
    derive_none: bool = True,
) -> Space:
    """The space of the given sizes. With `train` its BN takes the batch's statistics, as every search does; the running
    averages that evaluation takes are kept beside them.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables, choices and outputs are float32 at least.
      live: {"cell": bool [edges, operations]}, the operations that are part of the program; None: all. Those that are
        not have no variables and cost nothing. A choice has its full shape nevertheless.
      derive_none: `decode` takes `none` for an edge where it has the largest weight.

    Raises:
      ValueError: if `live` does not have the names and shapes of the choices.
    """
    rows = tuple(tuple(map(bool, row)) for row in living.checked(live, CHOICES)[CELL])
    network = Supernet(sizes, rows, average, dtype)

    init, apply = of_module(network, CHOICES, RULES)
    return Space(
        init=init,
        apply=apply,
        encode=encode,
        decode=functools.partial(decode, derive_none=derive_none),
        sample=sample,
        choices=CHOICES,
        rules=RULES,
        settle=decode,
        carried=carried,
        skips=lambda cell: {CELL: sum(operation == "skip_connect" for operation in cell)},
    )


def encode(cell: Cell) -> dict[str, np.ndarray]:
    """The choice of one cell: 1 for the operation of each edge, `none` included."""
    columns = [OPERATIONS.index(operation) for operation in cell]
    return {CELL: np.eye(len(OPERATIONS), dtype=np.float32)[columns]}


def decode(choice: Mapping[str, Any], derive_none: bool = True) -> Cell:
    """The cell of the largest weight of each edge; ties go to the earlier operation. Without `derive_none` an edge has
    `none` only where no other operation has a weight above 0."""
    weights = np.array(choice[CELL])
    if not derive_none:
        weights[..., OPERATIONS.index("none")] = 0  # the first operation: still taken where all others are 0
    return Cell(*(OPERATIONS[column] for column in weights.argmax(-1)))


def sample(generator: np.random.Generator) -> Cell:
    """A cell drawn uniformly from all 15,625."""
    return Cell(*(OPERATIONS[column] for column in generator.integers(len(OPERATIONS), size=len(EDGES))))


def carried(tree: Any, live: Live, before: Live | None = None) -> Any:
    """What the program of `live` keeps of a tree of the program of `before` (None: of all operations): params,
    batch_stats, both by their names, or what has the structure of one of them, such as momentum, scores or masks.

    Raises:
      ValueError: if something in `live` was not in `before`, or if a shape is wrong.
    """
    now, then = (each[CELL] for each in living.smaller(live, before, CHOICES))

    def pieces(path: str, leaf: Any) -> dict[str, Any] | None:
        found = _STACKED.fullmatch(path)
        if found is None:
            return None
        rows, column = rows_of(int(found[1])), OPERATIONS.index(found[2])
        mask = now[rows, column][then[rows, column]]
        return {path: leaf[mask]} if mask.any() else {}

    return living.carried(tree, pieces)


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any, live: Live | None = None) -> Space:
    """The space that a configuration describes."""
    return nasbench201(Sizes(outputs, c.cells, c.channels), average, dtype, live, c.derive_none)


def table(c: Fields) -> lookup.Lookup | None:
    """The table that a configuration names. Raises UserError if it is none."""
    if not c.table:
        return None

    def row_of(cell: Cell) -> np.ndarray:
        return np.array([OPERATIONS.index(operation) for operation in cell])

    return lookup.read(c.table, len(EDGES), len(OPERATIONS), row_of, alike)
