"""Blocks of inverted residuals side by side, and the mobile network around them. Source: DSO-NAS (Zhang et al., TPAMI
2020) Section 4.3; the layout is that of ProxylessNAS (arXiv 1812.00332), with the channels of its published networks
for a GPU and for a CPU, which the paper's "GPU and CPU structure" is taken to mean.

    y = Σ λ·h(x) + x        x only where the block keeps size and channels
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from dass_jax.errors import UserError
from dass_jax.nn import kernels
from dass_jax.nn.heads import Scale, halved, head
from dass_jax.nn.layers import ConvNorm, Norm
from dass_jax.nn.level_blocks import Factors, Map, total
from dass_jax.nn.widths import scaled
from dass_jax.tasks import Outputs

EPSILON = 1e-3
"""Of every BN."""
STRIDES = (2, 2, 2, 1, 2, 1)
"""Of the first block of each stage."""
REPEATS = (4, 4, 4, 4, 4, 1)
"""Blocks of each stage."""


class Channels(NamedTuple):
    """Of the stem, the fixed block behind it, each stage and the last convolution."""

    stem: int
    first: int
    stages: tuple[int, ...]
    last: int


BACKBONES = {
    "gpu": Channels(40, 24, (32, 56, 112, 128, 256, 432), 1728),
    "cpu": Channels(40, 24, (32, 48, 88, 104, 216, 360), 1432),
}


class Sizes(NamedTuple):
    """Of the network; the defaults are the paper's."""

    outputs: Outputs = 1000
    backbone: str = "gpu"
    stages: tuple[int, ...] = REPEATS
    width: float = 1.0
    """Factor of all channels, see `widths.scaled`."""
    stem: str = "imagenet"
    """Of stride 2, or `cifar` of stride 1."""


class Place(NamedTuple):
    """Of a block."""

    size: tuple[int, int]
    """Of its input, (H, W)."""
    before: int
    """Channels of its input."""
    channels: int
    stride: int
    dilation: int = 1
    """Of its depthwise convolutions."""


def check_stages(table: str, stages: tuple[int, ...]) -> None:
    """Raises UserError without a stage, or for more than there are."""
    if not 0 < len(stages) <= len(STRIDES):
        raise UserError(f"{table}.stages = {stages}; allowed: 1 to {len(STRIDES)} numbers of blocks")


def channels(sizes: Sizes) -> Channels:
    """At the network's width."""
    stem, first, stages, last = BACKBONES[sizes.backbone]
    own = tuple(scaled(number, sizes.width) for number in stages)
    return Channels(scaled(stem, sizes.width), scaled(first, sizes.width), own, scaled(last, sizes.width))


def places(sizes: Sizes, image: tuple[int, int]) -> tuple[Place, ...]:
    """Of all blocks, for images of (H, W)."""
    widths, stride = channels(sizes), 2 if sizes.stem == "imagenet" else 1
    size, at, before, found = _reduced(image, stride), Scale(stride), widths.first, []
    for width, repeats, first in zip(widths.stages, sizes.stages, STRIDES, strict=False):
        then = halved(sizes.outputs, at) if first == 2 else at
        for _ in range(repeats):
            stride = then.stride // at.stride
            found.append(Place(size, before, width, stride, at.dilation))
            size, before, at = _reduced(size, stride), width, then
    return tuple(found)


def _reduced(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


class Operation(nn.Module):
    """`k5e6`: 1×1 to 6 times the channels, BN, ReLU6; depthwise 5×5, BN, ReLU6; 1×1, BN. [C, H, W, N] → [channels,
    ⌈H/stride⌉, ⌈W/stride⌉, N]."""

    operation: str
    channels: int
    stride: int
    norm: Norm
    last_norm: Norm
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, wide, relu6 = int(self.operation[1]), int(self.operation[3]) * x.shape[0], kernels.relu6
        x = ConvNorm(wide, self.norm, activation=relu6, name="expand")(x)
        x = ConvNorm(wide, self.norm, k, self.stride, True, relu6, self.dilation, name="depthwise")(x)
        return ConvNorm(self.channels, self.last_norm, name="project")(x)


class Block(nn.Module):
    """[C, H, W, N] → as its operations."""

    operations: tuple[str, ...]
    place: Place
    norm: Norm
    last_norm: Norm
    """Behind each operation: of fixed scale where factors come behind it."""

    @nn.compact
    def __call__(self, x: jax.Array, factors: Factors) -> jax.Array:
        """`factors` [operations]."""
        _, before, channels, stride, dilation = self.place
        maps = [
            Operation(name, channels, stride, self.norm, self.last_norm, dilation, name=name)(x)
            for name in self.operations
        ]
        y = total(maps, factors)
        return x + y if stride == 1 and before == channels else y


def staged(x: jax.Array, sizes: Sizes, norm: Norm, block: Callable[[int, Place], Map]) -> jax.Array:
    """images [C, H, W, N] → outputs, as the head gives them; to be called by a module, whose parts it makes.

    Args:
      norm: of the stem, the fixed block, the last convolution and the head.
      block: (its number, its place) → what it maps.
    """
    size, widths, relu6 = (x.shape[1], x.shape[2]), channels(sizes), kernels.relu6
    x = ConvNorm(widths.stem, norm, 3, 2 if sizes.stem == "imagenet" else 1, activation=relu6, name="stem")(x)
    x = ConvNorm(widths.stem, norm, 3, depthwise=True, activation=relu6, name="first_depthwise")(x)
    x = ConvNorm(widths.first, norm, name="first_project")(x)
    for number, place in enumerate(places(sizes, size)):
        x = block(number, place)(x)
    x = ConvNorm(widths.last, norm, activation=relu6, name="last")(x)
    return head(sizes.outputs, norm, size)(x)
