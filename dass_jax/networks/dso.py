"""The network of DSO-NAS' blocks at any size. Source: Zhang et al., TPAMI 2020, Section 4, and the published code.

A connection that is left has no factor any more: what it carries is added up. Scales of BN are learned, and weights
begin anew. The width is a whole number of channels, or the largest for which the network keeps within a budget.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax

from dass_jax.architectures.dso import OUT, Blocks, living, placed
from dass_jax.errors import UserError
from dass_jax.networks.model import Model, check_auxiliary, of_module
from dass_jax.nn import layers
from dass_jax.nn.heads import PooledAuxiliaryHead, Scale, auxiliary_fits, auxiliary_stride, halved, size_of
from dass_jax.nn.initial import NORMAL
from dass_jax.nn.level_blocks import EPSILON, Block, Reduction, Sizes, staged, stride_of
from dass_jax.schema import Decay, NotNegative, Range
from dass_jax.tasks import Outputs

MOST_CHANNELS = 4096


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of the blocks that were found."""

    stages: tuple[Annotated[int, Range(1, 100)], ...] = (8, 8, 8)
    """Blocks of each stage. ImageNet: 2 2 13 6."""
    channels: Annotated[int, Range(1, MOST_CHANNELS)] = 26
    """Channels of the first stage (C); each stage has twice as many as the one before. With 26 the network of all
    connections has the published 3.0 M weights."""
    weights: Annotated[int, Range(0)] = 0
    """Take the largest C with at most so many weights of convolutions and of the linear layer; 0: `channels`."""
    macs: Annotated[int, Range(0)] = 0
    """Take the largest C with at most so many multiply-accumulates for an image, and within `weights`; 0: any."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (two, each of stride 2)."""
    auxiliary: bool = False
    """Train with an auxiliary classifier after the last reduction, as the paper does."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the auxiliary classifier's loss."""
    drop_path: Decay = 0.0
    """Probability, reached at the end of a phase and near the last block, that what a connection carries is dropped:
    one to the block's output, or into an operation with several inputs. The published code for CIFAR: 0.5."""


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError for fields that do not go together, or with images [H, W, C]."""
    check_sizes("network", c.stages, c.stem, c.channels)
    if c.auxiliary and len(c.stages) < 2:
        raise UserError(f"network.auxiliary = true with network.stages = {c.stages}; allowed: at least two stages")
    size = -(-image_shape[0] // (stride_of(c.stem) * 2 ** (len(c.stages) - 1)))
    if c.auxiliary and (image_shape[0] != image_shape[1] or not auxiliary_fits(size, c.stem)):
        raise UserError(
            f"network.auxiliary = true on a feature map of {size} pixels; allowed: {AUXILIARY_SIZES[c.stem]} pixels a "
            "side, or network.auxiliary = false"
        )


AUXILIARY_SIZES = {"cifar": "8 to 10", "imagenet": "7 or 8"}
"""On which the auxiliary head's mean has 2×2 pixels."""


def depths(stages: tuple[int, ...], levels: int) -> tuple[float, ...]:
    """What the probability of a dropped connection is multiplied by in each block: the place of its first level among
    all. For three stages of eight blocks of four levels the published code's own numbers."""
    if (stages, levels) == ((8, 8, 8), 4):
        return tuple((first + 4 * block + 1) / 112 for first in (0, 36, 73) for block in range(8))
    return tuple((levels * block + 1) / (levels * sum(stages)) for block in range(sum(stages)))


def check_sizes(table: str, stages: tuple[int, ...], stem: str, channels: int) -> None:
    """Raises UserError without a stage, or if the stem cannot halve the channels."""
    if not stages:
        raise UserError(f"{table}.stages = (); allowed: at least one number of blocks")
    if stem == "imagenet" and channels % 2:
        raise UserError(f"{table}.channels = {channels}; allowed: an even number, as the imagenet stem halves it")


def size(a: Blocks, sizes: Sizes, image: tuple[int, int, int]) -> tuple[int, int]:
    """(weights, multiply-accumulates for one image [C, H, W]) of convolutions and linear layers, in closed form.

    A block of width C has Σ over separable operations of k²C + C², and C² for each connection to its output and for the
    convolution of a stage's first shortcut.
    """
    (inputs, height, width), c, weights, macs = image, sizes.channels, 0, 0

    def add(count: int, stride: int = 1) -> None:
        nonlocal height, width, weights, macs
        height, width = -(-height // stride), -(-width // stride)
        weights, macs = weights + count, macs + count * height * width

    if sizes.stem == "cifar":
        add(9 * inputs * c)
    else:
        add(9 * inputs * (c // 2), 2)
        add(9 * (c // 2) * c, 2)
    number, at = 0, Scale(stride_of(sizes.stem))
    for stage, blocks in enumerate(sizes.stages):
        for place in range(blocks):
            add(_of_block(a, number, c) + (c * c if place == 0 else 0))
            number += 1
        if stage + 1 < len(sizes.stages):
            then = halved(sizes.outputs, at)
            add(sum(2 * c * c * int(name[0]) ** 2 for name in a.reductions[stage]), then.stride // at.stride)
            c, at = 2 * c, then
    of_head = size_of(sizes.outputs, c, height * width)
    return weights + of_head[0], macs + of_head[1]


def _of_block(a: Blocks, number: int, c: int) -> int:
    connections = a.blocks[0 if a.scope == "share" else number]
    names = [a.operations[int(node.split(".")[1])] for node in living(connections)]
    kernels = [int(name[3:]) for name in names if name.startswith("sep")]
    ends = sum(target == OUT for _, target in connections)
    return sum(k * k * c + c * c for k in kernels) + ends * c * c


def widest(fits: Callable[[int], bool], step: int) -> int:
    """The largest multiple of `step`, up to 4096, for which an increasing demand fits; 0: not even the first."""
    low, high = 0, MOST_CHANNELS // step
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle - 1)
    return low * step


def channels(a: Blocks, c: Fields, outputs: Outputs, image: tuple[int, int, int]) -> int:
    """C of the network for images [C, H, W]. Raises UserError if not even the narrowest keeps within the budgets."""
    if not (c.weights or c.macs):
        return c.channels

    def fits(width: int) -> bool:
        weights, macs = size(a, Sizes(outputs, c.stages, width, c.stem), image)
        return not (c.weights and weights > c.weights) and not (c.macs and macs > c.macs)

    step = 2 if c.stem == "imagenet" else 1
    if found := widest(fits, step):
        return found
    weights, macs = size(a, Sizes(outputs, c.stages, step, c.stem), image)
    name, least = ("weights", weights) if c.weights and weights > c.weights else ("macs", macs)
    raise UserError(f"network.{name} = {getattr(c, name)}; allowed: at least {least}, the narrowest network's, or 0")


class Network(nn.Module):
    """The network; without an auxiliary head, and in evaluation, it returns None in the place of its logits."""

    blocks: Blocks
    fields: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    auxiliary: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> Any:
        a, c, seen = self.blocks, self.fields, dict[int, jax.Array]()
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average, epsilon=EPSILON)
        width = channels(a, c, self.outputs, (x.shape[0], x.shape[1], x.shape[2]))

        def block(number: int, first: bool, dilation: int) -> Any:
            own = a.blocks[0 if a.scope == "share" else number]
            module = Block(a.operations, a.levels, own, first, norm, norm, dilation, name=f"block_{number}")
            scale = None if path_scale is None else path_scale[number]
            return lambda x: module(x, None, scale)

        def reduction(number: int, stride: int) -> Any:
            module = Reduction(a.reductions[number], norm, stride, name=f"reduction_{number}")

            def map(x: jax.Array) -> jax.Array:
                seen[number] = module(x, None)
                return seen[number]

            return map

        outputs = staged(x, Sizes(self.outputs, c.stages, width, c.stem), norm, block, reduction)
        if not (self.auxiliary and train):
            return outputs, None
        assert isinstance(self.outputs, int)  # `check_auxiliary`
        stride = auxiliary_stride(c.stem)
        beside = PooledAuxiliaryHead(self.outputs, norm, stride, bias=True, normed=True, name="auxiliary")
        return outputs, beside(seen[len(c.stages) - 2])


def dso(
    a: Blocks,
    c: Fields,
    outputs: Outputs,
    average: layers.Average = layers.one_device,
    dtype: Any = None,
    auxiliary: bool = False,
) -> Model:
    """The model of the given blocks and fields; its paths are (blocks, connections of the largest one).

    A shared block fits any stages, as one that is found on CIFAR-10 and trained on ImageNet: `architectures.dso.placed`
    says what reductions it has then.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.
      auxiliary: whether with an auxiliary head, for training.

    Raises:
      UserError: if the architecture has blocks of their own for other stages.
    """
    blocks, reductions = sum(c.stages), len(c.stages) - 1
    a = placed(a, reductions)
    if len(a.blocks) != (1 if a.scope == "share" else blocks) or len(a.reductions) != reductions:
        raise UserError(
            f"network.stages = {c.stages} with an architecture of {len(a.blocks)} blocks in scope {a.scope!r} and "
            f"{len(a.reductions)} reductions; allowed: stages of so many, or one of scope 'share'"
        )
    check_auxiliary(outputs, auxiliary)
    paths = blocks, max(1, *map(len, a.blocks))
    model = of_module(Network(a, c, outputs, average, dtype, auxiliary), paths, NORMAL)
    return model._replace(drops=tuple((depth,) for depth in depths(c.stages, a.levels)))
