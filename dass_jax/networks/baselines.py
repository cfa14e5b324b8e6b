"""Published networks in their forms for images of 32×32 pixels: the baselines that DASS is compared with (Section 5).

ResNet-18 (arXiv 1512.03385) has a 3×3 stem of stride 1 and no pooling; MobileNet-v2 (arXiv 1801.04381) stride 1 in the
stem and in its second stage, ReLU and 1×1 shortcuts, as is common on CIFAR; EfficientNet-v2-S (arXiv 2104.00298 Table
4) stride 1 in the stem. They are trained as derived networks are, without dropout and auxiliary head.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax

from dass_jax.networks import blocks
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import heads, kernels, layers
from dass_jax.nn.widths import scaled
from dass_jax.schema import Decay, Range
from dass_jax.tasks import Outputs


class Stage(NamedTuple):
    """`repeats` blocks of one kind; the stride is in the first."""

    block: Callable[..., nn.Module]
    channels: int
    repeats: int
    stride: int = 1
    expansion: int = 1


class Plan(NamedTuple):
    """A network: 3×3 stem, stages, a last 1×1 convolution if there is one, linear classifier."""

    stem: int
    stages: tuple[Stage, ...]
    last: int | None
    activation: layers.Activation
    epsilon: float
    """Of BN."""


PLANS = {
    "resnet18": Plan(
        64,
        (
            Stage(blocks.BasicBlock, 64, 2),
            Stage(blocks.BasicBlock, 128, 2, stride=2),
            Stage(blocks.BasicBlock, 256, 2, stride=2),
            Stage(blocks.BasicBlock, 512, 2, stride=2),
        ),
        last=None,
        activation=kernels.relu,
        epsilon=1e-5,
    ),
    "mobilenet_v2": Plan(
        32,
        (
            Stage(blocks.InvertedResidual, 16, 1),
            Stage(blocks.InvertedResidual, 24, 2, expansion=6),
            Stage(blocks.InvertedResidual, 32, 3, stride=2, expansion=6),
            Stage(blocks.InvertedResidual, 64, 4, stride=2, expansion=6),
            Stage(blocks.InvertedResidual, 96, 3, expansion=6),
            Stage(blocks.InvertedResidual, 160, 3, stride=2, expansion=6),
            Stage(blocks.InvertedResidual, 320, 1, expansion=6),
        ),
        last=1280,
        activation=kernels.relu,
        epsilon=1e-5,
    ),
    "efficientnet_v2_s": Plan(
        24,
        (
            Stage(blocks.FusedMBConv, 24, 2),
            Stage(blocks.FusedMBConv, 48, 4, stride=2, expansion=4),
            Stage(blocks.FusedMBConv, 64, 4, stride=2, expansion=4),
            Stage(blocks.MBConv, 128, 6, stride=2, expansion=4),
            Stage(blocks.MBConv, 160, 9, expansion=6),
            Stage(blocks.MBConv, 256, 15, stride=2, expansion=6),
        ),
        last=1280,
        activation=nn.silu,
        epsilon=1e-3,
    ),
}
"""By the name that a configuration gives them."""


def of_width(plan: Plan, width: float) -> Plan:
    """The plan with all channels scaled; the last convolution is never narrowed (MobileNet-v2 Section 6.1)."""
    stages = tuple(stage._replace(channels=scaled(stage.channels, width)) for stage in plan.stages)
    last = None if plan.last is None else scaled(plan.last, max(1.0, width))
    return plan._replace(stem=scaled(plan.stem, width), stages=stages, last=last)


class Network(nn.Module):
    """The network of a plan; in the place of auxiliary logits it returns None."""

    plan: Plan
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> tuple[jax.Array, None]:
        plan, index, size = self.plan, 0, x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average, epsilon=plan.epsilon)
        x = layers.ConvNorm(plan.stem, norm, 3, activation=plan.activation, name="stem")(x)
        for stage in plan.stages:
            for stride in (stage.stride, *[1] * (stage.repeats - 1)):
                block = stage.block(stage.channels, stride, stage.expansion, norm, name=f"block_{index}")
                x = block(x, None if path_scale is None else path_scale[index])
                index += 1
        if plan.last is not None:
            x = layers.ConvNorm(plan.last, norm, activation=plan.activation, name="last")(x)
        return heads.head(self.outputs, norm, size)(x), None


def baseline(
    name: str, outputs: Outputs, width: float = 1.0, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of a published network.

    Args:
      name: one of `PLANS`.
      width: factor of the channels, see `scaled`.
      average, dtype: as in `spaces.darts`.
    """
    plan = of_width(PLANS[name], width)
    return of_module(Network(plan, outputs, average, dtype), (sum(stage.repeats for stage in plan.stages),))


@dataclasses.dataclass(frozen=True)
class Fields:
    """A published network in its form for images of 32×32 pixels."""

    width: Annotated[float, Range(0, 8, open_low=True)] = 1.0
    """Factor of the channels, which are rounded to multiples of 8. MobileNet-v2."""
    drop_path: Decay = 0.2
    """Probability, reached linearly at the end of a phase, that a residual branch is dropped."""
