"""The network of DSO-NAS' mobile blocks. Source: Zhang et al., TPAMI 2020, Section 4.3.

An operation that is left has no factor any more, and its last BN a scale that is learned. Weights begin anew.
"""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax

from dass_jax.architectures.mobile import Mobile
from dass_jax.errors import UserError
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import layers
from dass_jax.nn.initial import NORMAL
from dass_jax.nn.mobile_blocks import EPSILON, REPEATS, Block, Place, Sizes, check_stages, staged
from dass_jax.schema import Range
from dass_jax.tasks import Outputs


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of the blocks that were found."""

    backbone: Literal["gpu", "cpu"] = "gpu"
    """Whose channels: those of ProxylessNAS' network for a GPU or for a CPU."""
    stages: tuple[Annotated[int, Range(1, 100)], ...] = REPEATS
    """Blocks of each stage, of six stages at most."""
    width: Annotated[float, Range(0, 8, open_low=True)] = 1.0
    """Factor of the channels, which are rounded to multiples of 8."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """A 3×3 convolution of stride 2 (`imagenet`) or 1 (`cifar`)."""


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError for fields that do not go together."""
    check_stages("network", c.stages)


class Network(nn.Module):
    """The network; in the place of auxiliary logits it returns None."""

    blocks: Mobile
    sizes: Sizes
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> tuple[jax.Array, None]:
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average, epsilon=EPSILON)

        def block(number: int, place: Place) -> Any:
            module = Block(self.blocks.blocks[number], place, norm, norm, name=f"block_{number}")
            return lambda x: module(x, None)

        return staged(x, self.sizes, norm, block), None


def mobile(
    a: Mobile, c: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of the given blocks and fields, without paths to drop.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.

    Raises:
      UserError: if the architecture has another number of blocks.
    """
    if len(a.blocks) != sum(c.stages):
        raise UserError(
            f"network.stages = {c.stages} with an architecture of {len(a.blocks)} blocks; allowed: stages of so many"
        )
    return of_module(Network(a, Sizes(outputs, c.backbone, c.stages, c.width, c.stem), average, dtype), (0,), NORMAL)
