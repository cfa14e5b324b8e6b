"""The network of a NAS-Bench-201 cell at any size. Source: arXiv 2001.00326 Section 2."""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures.nasbench201 import EDGES, NODES, Cell
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import kernels, layers
from dass_jax.nn.precision import widened
from dass_jax.nn.skeletons import Sizes, check_sides, three_stages
from dass_jax.schema import Range


class DerivedCell(nn.Module):
    """One cell, [channels, H, W, N] → the same shape.

    It has all operations of the architecture, also those that no image reaches or that do not reach the output: the
    benchmark counts them.
    """

    cell: Cell
    channels: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        nodes = [x, *[jnp.zeros_like(widened(x))] * (NODES - 1)]
        for operation, (source, target) in zip(self.cell, EDGES, strict=True):
            # All edges into a node come before those out of it.
            nodes[source] = nodes[source].astype(x.dtype)
            if operation != "none":
                nodes[target] += self._edge(operation, nodes[source], f"edge_{target}_{source}_{operation}")
        return nodes[-1].astype(x.dtype)

    def _edge(self, operation: str, x: jax.Array, name: str) -> jax.Array:
        if operation == "skip_connect":
            return x
        if operation == "avg_pool_3x3":
            return layers.Pool("avg", name=name)(x)
        kernel = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[operation]
        return layers.ConvNorm(self.channels, self.norm, kernel, name=name)(kernels.relu(x))


class Network(nn.Module):
    """The network of equal cells; in the place of auxiliary logits it returns None."""

    cell: Cell
    sizes: Sizes
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> tuple[jax.Array, None]:
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average)

        def cell(channels: int, name: str) -> nn.Module:
            return DerivedCell(self.cell, channels, norm, name=name)

        return three_stages(x, self.sizes, norm, norm, cell), None


def nasbench201(cell: Cell, sizes: Sizes, average: layers.Average = layers.one_device, dtype: Any = None) -> Model:
    """The model of the given cell and sizes, without paths to drop.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.
    """
    return of_module(Network(cell, sizes, average, dtype), (0,))


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of equal NAS-Bench-201 cells."""

    cells: Annotated[int, Range(1, 200)] = 5
    """Cells in each of the three stages (N)."""
    channels: Annotated[int, Range(1, 4096)] = 16
    """Channels of the first stage (C)."""


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError for images [H, W, C] that cannot be halved twice."""
    check_sides(*image_shape[:2])
