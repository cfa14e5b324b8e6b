"""The network of an ENAS arc (arXiv 1802.03268, "macro") at any width. Source: the authors' code for fixed arcs.

It differs from the search: a layer joins the chosen maps to its own by a 1×1 convolution instead of adding them, and
each halving doubles the channels. The published code makes full convolutions of the separable ones and knows no
pooling; here `separable` keeps them as they were searched, and pooling is as in the search.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures.enas_macro import OPERATIONS, Arc, halved, pools
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import layers
from dass_jax.nn.heads import head
from dass_jax.nn.initial import HE_NORMAL
from dass_jax.nn.kernels import relu
from dass_jax.schema import Range
from dass_jax.tasks import Outputs


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of layers with skip connections; its depth is the architecture's."""

    channels: Annotated[int, Range(2, 4096)] = 36
    """Channels before the first halving, an even number; each halving doubles them."""
    separable: bool = False
    """Separable convolutions, as in the search; false: full ones in their place, as in the published code."""
    legacy: bool = False
    """Keep the reductions of maps that nothing reads, which the published code builds and counts."""


class Layer(nn.Module):
    """ReLU, 1×1, BN, ReLU, k×k, BN, or pooling in the place of the last two: [C, H, W, N] → the same shape."""

    operation: str
    separable: bool
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, (kind, k) = x.shape[0], (self.operation.split("_")[0], int(self.operation[-1]))
        x = layers.ConvNorm(channels, self.norm, activation=relu, name="inputs")(relu(x))
        if kind not in ("conv", "sep"):
            return layers.Pool(kind, name="pool")(x)
        depthwise = kind == "sep" and self.separable
        x = layers.SparseConv(channels, k, padding=k // 2, depthwise=depthwise, name="kernel")(x)
        if depthwise:
            x = layers.SparseConv(channels, name="pointwise")(x)
        return self.norm(name="norm")(x)


class Network(nn.Module):
    """Stem, layers, classifier; in the place of auxiliary logits it returns None."""

    arc: Arc
    sizes: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> tuple[jax.Array, None]:
        size = x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average)
        channels, depth = self.sizes.channels, len(self.arc.operations)
        read = dict(zip(pools(depth), halved(self.arc), strict=True))
        maps: list[Any] = [layers.ConvNorm(channels, norm, 3, name="stem")(x)]
        for index, (operation, bits) in enumerate(zip(self.arc.operations, self.arc.skips, strict=True)):
            y = Layer(OPERATIONS[operation], self.sizes.separable, norm, name=f"layer_{index}")(maps[-1])
            if index:
                parts = [x for bit, x in zip(bits, maps, strict=False) if bit]
                y = jnp.concatenate([*parts, y]) if parts else y
                y = layers.ReLUConvNorm(channels, norm, name=f"join_{index}")(y)
            maps.append(y)
            if index in read:
                channels *= 2
                for number, x in enumerate(maps):
                    kept = self.sizes.legacy or number in read[index]
                    reduce = layers.FactorizedReduce(channels, norm, relu=False, name=f"pool_{index}_{number}")
                    # A map that has no reduction is never read again.
                    maps[number] = reduce(x) if kept and x is not None else None
        return head(self.outputs, norm, size, bias=False)(maps[-1]), None


def enas_macro(
    arc: Arc, sizes: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of an architecture, without paths to drop.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.
    """
    return of_module(Network(arc, sizes, outputs, average, dtype), (0,), HE_NORMAL)


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if the channels do not halve."""
    layers.check_even("network", c.channels)
