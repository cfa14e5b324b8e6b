"""ENAS' space of cells (arXiv 1802.03268 Section 2.4; the authors' code, as published), with shared weights.

A choice is integers, and they are data: one program serves all architectures, and of an edge's operations only the
chosen one is computed. A separable convolution has weights of its own for each cell, block, edge and node that it may
read. All operations have stride 1: a reduction cell reads the previous output and its factorized reduction, from which
the next cell goes on. A cell puts out the nodes that no edge leaves, joined by a 1×1 convolution of which each node has
its own rows.

Batch normalisation always uses the batch's statistics, as in the published code.
"""

import dataclasses
import functools
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.enas_micro import BLOCKS, NODES, OPERATIONS, Arc, node_name, reductions
from dass_jax.nn import kernels, layers
from dass_jax.nn.choosing import chosen
from dass_jax.nn.heads import head
from dass_jax.nn.initial import HE_NORMAL
from dass_jax.nn.kernels import relu
from dass_jax.nn.kernels.once import compiled_once
from dass_jax.nn.precision import widened
from dass_jax.policies import enas_micro as policies
from dass_jax.policies.enas_micro import INPUTS
from dass_jax.policies.enas_micro import OPERATIONS as CHOSEN
from dass_jax.schema import Range
from dass_jax.spaces.space import Choice, Sampled, Space, of_module, uniform
from dass_jax.tasks import Outputs

RULES: variables.Rules = (
    (r"cell_\d+/sep_conv_.*/weight", 1),
    (r".*/output/weight", 1),
    (r".*/factorized/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)


KERNELS = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}
TARGETS = [block + 2 for block in range(BLOCKS) for _ in range(2)]
"""The node that each edge leads to, which may have so many sources."""
FIRST_ROWS = np.cumsum([0, *TARGETS[:-1]], dtype=np.int32)
ROWS = sum(TARGETS)
"""Pairs of an edge and a source, in this order; and where those of an edge begin."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Networks of two kinds of cells, normal and reduction cells, of five blocks."""

    layers: Annotated[int, Range(1, 100)] = 6
    """Normal cells (L); with the two reduction cells there are L + 2."""
    channels: Annotated[int, Range(2, 4096)] = 20
    """Channels of the first cells (C), an even number."""


class Taken(NamedTuple):
    """An edge as it was chosen, or all of them with a leading axis."""

    source: Any
    operation: Any
    weights: Any
    """Of both separable convolutions, for this source."""
    target: Any


def operated(average: layers.Average, x: jax.Array, index: Any, weights: Any) -> jax.Array:
    """The operation of that number, see `chosen`: x [C, H, W, N] → the same shape."""

    def sep_conv(first: int, x: jax.Array, weights: Any) -> jax.Array:
        for depthwise, pointwise, affine in weights[first : first + 2]:
            x = kernels.pointwise(kernels.depthwise(relu(x), depthwise), pointwise)
            x = kernels.normalised(x, affine, average, layers.BatchNorm.epsilon)[0]
        return x

    branches: list[Callable[[jax.Array, Any], jax.Array]] = [
        functools.partial(sep_conv, 0),
        functools.partial(sep_conv, 2),
        lambda x, weights: kernels.avg_pool(x),
        lambda x, weights: kernels.max_pool(x),
        lambda x, weights: x,
    ]
    return chosen(branches, index, x, weights)


def worked_through(average: layers.Average, inputs: list[jax.Array], edges: Taken) -> list[jax.Array]:
    """The nodes of a cell: [7] maps. A loop over its edges, so that a cell compiles like one of them; edges of plain
    numbers are not."""
    if isinstance(edges.source[0], int):
        nodes: list[Any] = [*inputs, *[0] * BLOCKS]
        for number, (source, operation) in enumerate(zip(edges.source, edges.operation, strict=True)):
            own = jax.tree.map(operator.itemgetter(number), edges.weights)
            nodes[edges.target[number]] += operated(average, nodes[source], operation, own)
        return nodes

    def step(nodes: jax.Array, edge: Taken) -> tuple[jax.Array, None]:
        y = operated(average, nodes[edge.source], edge.operation, edge.weights)
        return nodes.at[edge.target].add(y), None

    nothing = jnp.zeros_like(inputs[0])
    return list(jax.lax.scan(step, jnp.stack([*inputs, *[nothing] * BLOCKS]), edges)[0])


class JoinedNodes(nn.Module):
    """The 1×1 convolution of the nodes that no edge leaves, after ReLU: [7] maps [C, H, W, N] → [C, H, W, N]."""

    @nn.compact
    def __call__(self, nodes: list[jax.Array], sources: Any) -> jax.Array:
        channels = nodes[0].shape[0]
        weight = layers.SparseWeight((NODES, channels, channels), name="output")()
        if not isinstance(sources, jax.Array | np.ndarray):
            joined = [kernels.pointwise(relu(nodes[n]), weight[n]) for n in range(NODES) if n not in sources]
            return functools.reduce(jnp.add, joined)
        total = jnp.zeros_like(widened(nodes[0]))
        for node, x in enumerate(nodes):
            if node == NODES - 1:  # no edge can leave the last one
                total += kernels.pointwise(relu(x), weight[node])
            else:
                total = _with_node((sources == node).any(), total, x, weight[node])
        return total.astype(nodes[0].dtype)


@compiled_once
def _with_node(used: jax.Array, total: jax.Array, x: jax.Array, weight: jax.Array) -> jax.Array:
    def added(total: jax.Array, x: jax.Array, weight: jax.Array) -> jax.Array:
        return total + kernels.pointwise(relu(x), weight)

    found: jax.Array = jax.lax.cond(used, lambda total, x, weight: total, added, total, x, weight)
    return found


class Cell(nn.Module):
    """A cell of all architectures: [C0, H0, W0, N] and [C1, H, W, N] → [channels, H, W, N]."""

    channels: int
    norm: layers.Norm
    average: layers.Average

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, sources: Any, operations: Any) -> jax.Array:
        if before.shape[1:3] != previous.shape[1:3]:
            before = layers.FactorizedReduce(self.channels, self.norm, name="preprocess_0")(before)
        elif before.shape[0] != self.channels:
            before = layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_0")(before)
        if previous.shape[0] != self.channels:
            previous = layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_1")(previous)
        average = layers.one_device if self.is_initializing() else self.average
        nodes = worked_through(average, [before, previous], self._edges(sources, operations))
        return self.norm(name="norm")(JoinedNodes(name="joined")(nodes, sources))

    def _edges(self, sources: Any, operations: Any) -> Taken:
        """The edges with their weights, of which there is a row for each edge and each source that it may have."""
        channels, weights = self.channels, []
        for name, k in KERNELS.items():
            for part in (1, 2):
                depthwise = layers.SparseWeight((ROWS, channels, k, k), name=f"{name}_depthwise_{part}")()
                pointwise = layers.SparseWeight((ROWS, channels, channels), name=f"{name}_pointwise_{part}")()
                weights.append(
                    (depthwise, pointwise, layers.ScaleAndBias((ROWS, channels), name=f"{name}_norm_{part}")())
                )
        rows = FIRST_ROWS + jnp.asarray(sources)
        own = jax.tree.map(lambda leaf: leaf[rows], weights)
        return Taken(
            sources, operations, own, tuple(TARGETS) if isinstance(sources, tuple) else np.array(TARGETS, np.int32)
        )


class Supernet(nn.Module):
    """The network of all architectures."""

    sizes: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: Any, train: bool) -> jax.Array:
        size = x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        channels = self.sizes.channels
        norm = layers.batch_norm(True, affine=True, average=self.average, running=False)
        before = previous = layers.ConvNorm(3 * channels, norm, 3, name="stem")(x)
        for index in range(self.sizes.layers + 2):
            reduction = index in reductions(self.sizes.layers)
            name = Arc._fields[reduction]
            if reduction:
                channels *= 2
                reduced = layers.FactorizedReduce(channels, norm, relu=False, name=f"reduce_{index}")(previous)
                before, previous = previous, reduced
            cell = Cell(channels, norm, self.average, name=f"cell_{index}")
            y = cell(before, previous, choice[INPUTS.format(name)], choice[CHOSEN.format(name)])
            before, previous = previous, y
        return head(self.outputs, norm, size, bias=False)(relu(previous))


def choices() -> dict[str, Choice]:
    """Inputs and operations of the edges of both cells."""
    rows = tuple(f"block {block}, {side}" for block in range(BLOCKS) for side in ("first", "second"))
    nodes = tuple(map(node_name, range(NODES - 1)))
    grid = tuple((block, side) for block in range(BLOCKS) for side in range(2))
    found: dict[str, Choice] = {}
    for name, title in zip(Arc._fields, ("normal cell", "reduction cell"), strict=True):
        allowed = tuple(block + 2 for block, _ in grid)
        found[INPUTS.format(name)] = Choice(f"inputs of the {title}", rows, nodes, grid, allowed)
        found[CHOSEN.format(name)] = Choice(
            f"operations of the {title}", rows, OPERATIONS, grid, (len(OPERATIONS),) * len(rows)
        )
    return found


def encode(arc: Arc) -> dict[str, np.ndarray]:
    """The choice of an architecture."""
    found = {}
    for name, cell in arc._asdict().items():
        found[INPUTS.format(name)] = np.array(cell[::2], np.int32)
        found[CHOSEN.format(name)] = np.array(cell[1::2], np.int32)
    return found


def decode(choice: Any) -> Arc:
    """The architecture of a choice."""

    def cell(name: str) -> tuple[int, ...]:
        parts = [np.asarray(choice[part.format(name)]) for part in (INPUTS, CHOSEN)]
        return tuple(np.stack(parts, -1).ravel().tolist())

    return Arc(*map(cell, Arc._fields))


def moving(layers_: int, params: Any, choice: Any) -> Any:
    """Of each leaf whether it, or which of its sources, is part of the network of a choice: the weights of the chosen
    operations for the chosen sources, and the rows of the nodes that no edge leaves."""

    def of(path: str) -> Any:
        found = re.match(r"cell_(\d+)/(?:(sep_conv_\dx\d)_|joined/output)", path)
        if found is None:
            return jnp.asarray(True)
        name = Arc._fields[int(found[1]) in reductions(layers_)]
        sources, operations = (jnp.asarray(choice[part.format(name)]) for part in (INPUTS, CHOSEN))
        if found[2] is None:
            return (sources[:, None] != jnp.arange(NODES)).all(0)
        chosen = operations == OPERATIONS.index(found[2])
        return jnp.zeros(ROWS, bool).at[FIRST_ROWS + sources].set(chosen)

    return variables.unflatten({path: of(path) for path in variables.flatten(params)})


def enas_micro(
    sizes: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and outputs are float32 at least.
    """
    labels = choices()
    init, apply = of_module(Supernet(sizes, outputs, average, dtype), labels, RULES, HE_NORMAL)
    draw = uniform(labels)
    return Space(
        init=init,
        apply=apply,
        encode=encode,
        decode=decode,
        sample=lambda generator: decode(draw.host(generator)),
        choices=labels,
        rules=RULES,
        settle=decode,
        skips=lambda arc: {
            INPUTS.format(name): cell[1::2].count(OPERATIONS.index("identity")) for name, cell in arc._asdict().items()
        },
        sampled=Sampled(policies.policy(BLOCKS, len(OPERATIONS)), draw.traced, functools.partial(moving, sizes.layers)),
    )


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any) -> Space:
    """The space that a configuration describes."""
    return enas_micro(c, outputs, average, dtype)


def check(c: Fields) -> None:
    """Raises UserError if the channels do not halve."""
    layers.check_even("space", c.channels)
