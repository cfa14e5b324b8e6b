"""The network of ENAS cells (arXiv 1802.03268, "micro") at any size. Source: the authors' code for fixed arcs.

It differs from the search: the edges of a reduction cell that leave its inputs have stride 2, and a cell puts out its
unused nodes side by side. Windows of stride 2 are centred on even pixels, as everywhere here; in the published code
they begin there.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures.enas_micro import BLOCKS, OPERATIONS, Arc, Cell, blocks, reductions, unused
from dass_jax.errors import UserError
from dass_jax.networks.model import Model, check_square, of_module
from dass_jax.nn import layers
from dass_jax.nn.heads import PooledAuxiliaryHead, auxiliary_fits, head
from dass_jax.nn.initial import HE_NORMAL
from dass_jax.nn.kernels import relu
from dass_jax.nn.kernels.windows import output_size
from dass_jax.nn.primitives import SepConv
from dass_jax.schema import Decay, NotNegative, Range
from dass_jax.tasks import Outputs
from dass_jax.variables import AUXILIARY


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of ENAS cells; it inherits nothing from the search."""

    layers: Annotated[int, Range(1, 200)] = 15
    """Normal cells (L); with the two reduction cells there are L + 2."""
    channels: Annotated[int, Range(2, 4096)] = 36
    """Channels of the first cells (C), an even number."""
    auxiliary: bool = True
    """Train with an auxiliary classifier after the second reduction cell."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the auxiliary classifier's loss."""
    drop_path: Decay = 0.4
    """Probability, reached at the end of a phase and in the last cell, that an operation's output is dropped; in cell l
    (from 0) of L + 2 it is (l + 1)/(L + 2) of that."""


class Edge(nn.Module):
    """One operation: [C, H, W, N] → [C, ⌈H/stride⌉, ⌈W/stride⌉, N]."""

    operation: str
    stride: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[0]
        if self.operation == "identity":
            if self.stride == 1:
                return x
            return layers.FactorizedReduce(channels, self.norm, relu=False, name="reduce")(x)
        if self.operation.endswith("pool_3x3"):
            return layers.Pool(self.operation[:3], self.stride, name="pool")(x)
        return SepConv(channels, int(self.operation[-1]), self.stride, self.norm, name="sep_conv")(x)


class DerivedCell(nn.Module):
    """One cell: [C0, H0, W0, N] and [C1, H, W, N] → [unused nodes·channels, …]."""

    cell: Cell
    channels: int
    reduction: bool
    norm: layers.Norm

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        channels, norm = self.channels, self.norm
        if before.shape[1:3] != previous.shape[1:3]:
            before = layers.FactorizedReduce(channels, norm, name="preprocess_0")(before)
        elif before.shape[0] != channels:
            before = layers.ReLUConvNorm(channels, norm, name="preprocess_0")(before)
        if previous.shape[0] != channels:
            previous = layers.ReLUConvNorm(channels, norm, name="preprocess_1")(previous)
        nodes = [before, layers.ReLUConvNorm(channels, norm, name="base")(previous)]
        for block, pair in enumerate(blocks(self.cell)):
            parts = []
            for side, (source, operation) in enumerate(pair):
                stride = 2 if self.reduction and source < 2 else 1
                y = Edge(OPERATIONS[operation], stride, norm, name=f"edge_{block}_{side}")(nodes[source])
                if path_scale is not None and OPERATIONS[operation] != "identity":
                    y = y * path_scale[block, side]
                parts.append(y)
            nodes.append((parts[0] + parts[1]).astype(previous.dtype))
        return jnp.concatenate([self._put_out(nodes, node) for node in unused(self.cell)])

    def _put_out(self, nodes: list[jax.Array], node: int) -> jax.Array:
        if self.reduction and node < 2:
            return layers.FactorizedReduce(self.channels, self.norm, relu=False, name=f"reduce_{node}")(nodes[node])
        return nodes[node]


class Network(nn.Module):
    """Stem, cells, classifier; the auxiliary head reads the cell after the second reduction, in training only."""

    arc: Arc
    sizes: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> Any:
        size = x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        c, channels, auxiliary = self.sizes, self.sizes.channels, None
        norm = layers.batch_norm(train, affine=True, average=self.average)
        before = previous = layers.ConvNorm(3 * channels, norm, 3, name="stem")(x)
        for index in range(c.layers + 2):
            reduction = index in reductions(c.layers)
            channels *= 2 if reduction else 1
            cell = DerivedCell(self.arc[reduction], channels, reduction, norm, name=f"cell_{index}")
            scale = None if path_scale is None else path_scale[index]
            before, previous = previous, cell(before, previous, scale)
            if c.auxiliary and train and index == reductions(c.layers)[1] + 1:
                assert isinstance(self.outputs, int)  # `check_auxiliary`
                auxiliary = PooledAuxiliaryHead(self.outputs, norm, name=AUXILIARY)(previous)
        return head(self.outputs, norm, size, bias=False)(relu(previous)), auxiliary


def enas_micro(
    arc: Arc, sizes: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of an architecture.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.
    """
    cells = sizes.layers + 2
    model = of_module(Network(arc, sizes, outputs, average, dtype), (cells, BLOCKS, 2), HE_NORMAL)
    return model._replace(drops=tuple((((index + 1) / cells,),) for index in range(cells)))


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if a network of these fields cannot be made for such images [H, W, C]."""
    layers.check_even("network", c.channels)
    if not c.auxiliary:
        return
    check_square(image_shape)
    size = output_size(output_size(image_shape[0], 2), 2)
    if not auxiliary_fits(size, "cifar"):
        raise UserError(
            f"network.auxiliary = true on a feature map of {size} pixels; allowed: 8 to 10 pixels a side, or "
            "network.auxiliary = false"
        )
