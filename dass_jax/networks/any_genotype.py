"""The network of `networks.derived` for all genotypes of so many nodes at once: the genotype is an argument, and one
program serves all. A node is the sum of an edge from each input and from each earlier node; those that a genotype does
not have are `none`.

An edge has a slot for each layer that an operation can have: a depthwise one for each window, a 1×1 one, a factorized
one, BN; those of a second half too. Only the chosen operation is computed, and what lies in slots that are not its own
has no gradient. A genotype's network is part of it, layer by layer (`derived_of`).
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.darts import PRIMITIVES, Genotype, edges, reductions
from dass_jax.networks.model import Model, of_choosing_module
from dass_jax.nn import heads, kernels, layers
from dass_jax.nn.choosing import chosen, normalised_if, parted
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.kernels.windows import output_size
from dass_jax.nn.stems import CifarStem
from dass_jax.schema import Range

RULES: variables.Rules = (
    (r"cell_\d+/factorized/weight", 2),
    (r"cell_\d+/(depthwise|pointwise)_\w+/weight", 1),
    (r".*/factorized/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)
WINDOWS = (3, 5)
PARTS = (1, 2)
"""The halves of a separable convolution; other operations have the first alone."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of DARTS cells, without an auxiliary head and dropped paths."""

    cells: Annotated[int, Range(1, 200)] = 4
    """Number of cells (L); those at a third and at two thirds are reductions."""
    channels: Annotated[int, Range(1, 4096)] = 16
    """Channels of the first cells (C)."""
    nodes: Annotated[int, Range(1, 4)] = 2
    """Intermediate nodes of a cell, each with two different inputs."""


def numbers(genotype: Genotype) -> np.ndarray:
    """The genotype as the programs take it: int32 [2, edges], places in `PRIMITIVES` of the normal and of the reduction
    cell. Edges are in the order of `architectures.darts.edges`, and `none` where there is none."""
    places = edges(len(genotype.normal))
    found = np.zeros((2, len(places)), np.int32)
    for row, cell in zip(found, genotype, strict=True):
        for node, pairs in enumerate(cell, start=2):
            for operation, source in pairs:
                row[places.index((source, node))] = PRIMITIVES.index(operation)
    return found


def genotype_of(numbers: np.ndarray) -> Genotype:
    """Inverse of `numbers`, which may be flat; the pairs of a node in the order of their inputs."""
    rows = numbers.reshape(2, -1)
    nodes = next(nodes for nodes in range(1, rows.shape[1] + 1) if len(edges(nodes)) == rows.shape[1])
    pairs = [
        [(PRIMITIVES[place], edge) for place, edge in zip(row.tolist(), edges(nodes), strict=True) if place]
        for row in rows
    ]
    wanted = range(2, nodes + 2)
    return Genotype(*(tuple(tuple((op, s) for op, (s, t) in own if t == node) for node in wanted) for own in pairs))


def slots(operation: str, stride: int) -> dict[str, str]:
    """The slots of an edge that an operation fills: slot → that layer in the module of `nn.primitives`."""
    if operation == "skip_connect" and stride == 2:
        return {"factorized": "factorized", "norm_1": "norm"}
    if "conv" not in operation:
        return {}
    found = {}
    for part in PARTS if operation.startswith("sep") else PARTS[:1]:
        found[f"depthwise_{part}_{operation[-3:]}"] = f"depthwise_{part}/conv"
        found |= {f"pointwise_{part}": f"pointwise_{part}/conv", f"norm_{part}": f"norm_{part}"}
    return found


def _shapes(channels: int, stride: int) -> dict[str, tuple[int, ...]]:
    """The slots of an edge that are weights, and their shapes."""
    found: dict[str, tuple[int, ...]] = {"factorized": (2, channels // 2, channels)} if stride == 2 else {}
    for part in PARTS:
        found |= {f"depthwise_{part}_{k}x{k}": (channels, k, k) for k in WINDOWS}
        found[f"pointwise_{part}"] = (channels, channels)
    return found


Branch = Callable[[jax.Array, Any], jax.Array]


def _separable(part: int, k: int, stride: int, dilation: int, x: jax.Array, w: Any) -> jax.Array:
    """ReLU, depthwise k×k, 1×1."""
    y = kernels.depthwise(kernels.relu(x), w[f"depthwise_{part}_{k}x{k}"], stride, dilation)
    return kernels.pointwise(y, w[f"pointwise_{part}"])


def _factorized(x: jax.Array, w: Any) -> jax.Array:
    """`layers.FactorizedReduce` before its BN."""
    y = kernels.pointwise(kernels.shifted_pair(kernels.relu(x)), w["factorized"])
    return y.reshape(-1, *y.shape[2:])


def _branches(stride: int) -> list[Branch]:
    """What each of `PRIMITIVES` does until its first BN, x [C, H, W, N] → [C, ⌈H/stride⌉, ⌈W/stride⌉, N]."""
    own: dict[str, Branch] = {
        "none": lambda x, w: jnp.zeros_like(x[:, ::stride, ::stride]),
        "max_pool_3x3": lambda x, w: kernels.max_pool_by_views(x, stride),
        "avg_pool_3x3": lambda x, w: kernels.avg_pool(x, stride),
        "skip_connect": _factorized if stride == 2 else lambda x, w: x,
    }
    for k in WINDOWS:
        own[f"sep_conv_{k}x{k}"] = functools.partial(_separable, 1, k, stride, 1)
        own[f"dil_conv_{k}x{k}"] = functools.partial(_separable, 1, k, stride, 2)
    return [own[name] for name in PRIMITIVES]


_SECOND: list[Branch] = [lambda x, w: x, *(functools.partial(_separable, 2, k, 1, 1) for k in WINDOWS)]
"""What follows after the first BN."""


def _second(operation: str) -> int:
    """The place in `_SECOND`."""
    return 1 + WINDOWS.index(int(operation[-1])) if operation.startswith("sep") else 0


@functools.partial(compiled_once, static_argnums=(0, 1, 2))
def _edge(
    stride: int, train: bool, average: layers.Average, operation: Any, x: jax.Array, w: Any, affine: Any, running: Any
) -> Any:
    """What an edge gives, and its running averages after it. The edges of a cell share what is compiled."""
    normed = jnp.asarray([[f"norm_{part}" in slots(name, stride) for part in PARTS] for name in PRIMITIVES], "int32")
    second = jnp.asarray([_second(name) for name in PRIMITIVES], "int32")
    y = chosen(_branches(stride), operation, x, w)
    y, first = normalised_if(normed[operation, 0], y, affine[0], running[0], train, average)
    y = chosen(_SECOND, second[operation], y, w)
    y, last = normalised_if(normed[operation, 1], y, affine[1], running[1], train, average)
    return y, (first, last)


class AnyCell(nn.Module):
    """One cell: [C0, H, W, N], [C1, H', W', N] and int [edges] → [nodes·channels, …]."""

    nodes: int
    channels: int
    reduction: bool
    previous_reduced: bool
    train: bool
    average: layers.Average = layers.one_device

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, operations: Any) -> jax.Array:
        norm = layers.batch_norm(self.train, affine=True, average=self.average)
        align = layers.FactorizedReduce if self.previous_reduced else layers.ReLUConvNorm
        states: list[Any] = [
            align(self.channels, norm, name="preprocess_0")(before),
            layers.ReLUConvNorm(self.channels, norm, name="preprocess_1")(previous),
        ]
        places = edges(self.nodes)
        shapes = _shapes(self.channels, 1 + self.reduction)
        weights = {name: layers.SparseWeight((len(places), *own), name=name)() for name, own in shapes.items()}
        norms = [layers.NormVariables((len(places), self.channels), name=f"norm_{part}")() for part in PARTS]
        if self.is_initializing():  # the shape is all that is asked for
            size = (output_size(side, 1 + self.reduction) for side in previous.shape[1:3])
            return jnp.zeros((self.nodes * self.channels, *size, previous.shape[3]), previous.dtype)
        running = [tuple(each.value for each in own) for _, own in norms]
        by_edge, now = parted((weights, [affine for affine, _ in norms], running)), []
        for edge, (source, node) in enumerate(places):
            stride = 2 if self.reduction and source < 2 else 1
            own, *of_norms = by_edge[edge]
            own = {name: own[name] for name in _shapes(self.channels, stride)}
            y, moved = _edge(stride, self.train, self.average, operations[edge], states[source], own, *of_norms)
            states = [*states, y] if node == len(states) else [*states[:-1], states[-1] + y]
            now.append(moved)
        if self.train:
            stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *now)
            for (_, averages), values in zip(norms, stacked, strict=True):
                for each, value in zip(averages, values, strict=True):
                    each.value = value
        return jnp.concatenate(states[2:])


class AnyNetwork(nn.Module):
    """The network of one genotype's cells, whichever it is."""

    classes: int
    sizes: Fields
    average: layers.Average = layers.one_device

    @nn.compact
    def __call__(self, x: jax.Array, genotype: Any, train: bool) -> jax.Array:
        c, size = self.sizes, x.shape[1:3]
        norm = layers.batch_norm(train, affine=True, average=self.average)
        before, previous = CifarStem(c.channels, norm, name="stem")(x)
        channels, reduced = c.channels, False
        for index in range(c.cells):
            reduction = index in reductions(c.cells)
            channels *= 2 if reduction else 1
            cell = AnyCell(c.nodes, channels, reduction, reduced, train, self.average, name=f"cell_{index}")
            before, previous, reduced = previous, cell(before, previous, genotype[int(reduction)]), reduction
        return heads.head(self.classes, norm, size)(previous)


def any_genotype(classes: int, c: Fields, genotype: Any, average: layers.Average = layers.one_device) -> Model:
    """The model of a genotype, int [2, edges], which may be traced: what is compiled serves all genotypes."""
    return of_choosing_module(AnyNetwork(classes, c, average), genotype, RULES)


def derived_of(path: str, genotype: Genotype, cells: int) -> dict[int | None, str]:
    """Edge → the leaf of `networks.derived`'s variables, in so many cells, that is this part of a leaf; None: the whole
    leaf."""
    found = re.fullmatch(r"(cell_(\d+))/(\w+)/(\w+)", path)
    if found is None:
        return {None: path}
    own, index, slot, leaf = found.groups()
    reduction = int(index) in reductions(cells)
    names: dict[int | None, str] = {}
    for node, pairs in enumerate(genotype.reduce if reduction else genotype.normal):
        for pair, (operation, source) in enumerate(pairs):
            filled = slots(operation, 2 if reduction and source < 2 else 1)
            if slot in filled:
                edge = edges(len(genotype.normal)).index((source, node + 2))
                names[edge] = f"{own}/node_{node}_{pair}_{operation}/{filled[slot]}/{leaf}"
    return names
