"""What turns a feature map [C, H, W, N] into outputs [N, O], or for each pixel [O, H', W', N]. Source: DARTS' published
networks; DeepLab-v3 (arXiv 1706.05587).

A network asks `head` for its end, and `halved` at each reduction whether to reduce or to dilate.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn import kernels
from dass_jax.nn.layers import ConvNorm, Norm, Resized, SparseConv, SparseLinear
from dass_jax.nn.precision import widened
from dass_jax.tasks import Outputs, Pixels


def head(outputs: Outputs, norm: Norm, size: tuple[int, ...], bias: bool = True) -> nn.Module:
    """The module "head" that ends a network for images of `size` (H, W); `norm` has scale and offset, and a classifier
    of images a bias or none."""
    if isinstance(outputs, Pixels):
        return AtrousPyramid(outputs, norm, size, name="head")
    return Classifier(outputs, bias, name="head")


class Scale(NamedTuple):
    """Of the maps at a place in a network."""

    stride: int = 1
    """By how much they are smaller than the image."""
    dilation: int = 1
    """Of the convolutions there, beside their own."""


def halved(outputs: Outputs, scale: Scale) -> Scale:
    """The scale after a reduction: where the outputs are for pixels and maps would become smaller than their stride
    allows, these keep their size, and convolutions are dilated from there on. The reduction itself is not."""
    if isinstance(outputs, Pixels) and 2 * scale.stride > outputs.stride:
        return scale._replace(dilation=2 * scale.dilation)
    return scale._replace(stride=2 * scale.stride)


def size_of(outputs: Outputs, channels: int, pixels: int) -> tuple[int, int]:
    """(weights, multiply-accumulates for one image) of the head on a map of so many channels and pixels, in closed
    form; without biases and BN."""
    if not isinstance(outputs, Pixels):
        return channels * outputs, channels * outputs
    depth, rates = outputs.depth, len(outputs.rates)
    everywhere = channels * depth * (1 + 9 * rates) + (2 + rates) * depth**2 + depth * outputs.number
    return everywhere + channels * depth, everywhere * pixels + channels * depth


class AtrousPyramid(nn.Module):
    """[C, H, W, N] → [number, *size, N]: 1×1, 3×3 of several dilations and the mean over the map, side by side, then
    1×1, each with BN and ReLU; 1×1 with a bias, and bilinear interpolation to the image's size.

    Source: DeepLab-v3, Section 3.3, without its dropout. C·(2 + 9r)·d + (2 + r)·(2·d + d²) + 2·d + (d + 1)·number
    parameters for r dilations and depth d.
    """

    outputs: Pixels
    norm: Norm
    size: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.outputs

        def branch(name: str, kernel: int = 1, dilation: int = 1) -> ConvNorm:
            return ConvNorm(c.depth, self.norm, kernel, activation=kernels.relu, dilation=dilation, name=name)

        mean = branch("mean")(widened(x).mean((1, 2), keepdims=True).astype(x.dtype))
        parts = [branch("branch_0")(x)]
        parts += [branch(f"branch_{n}", 3, rate)(x) for n, rate in enumerate(c.rates, start=1)]
        parts.append(jnp.broadcast_to(mean, (c.depth, *x.shape[1:])))
        y = branch("joined")(jnp.concatenate(parts))
        y = SparseConv(c.number, name="classifier")(widened(y))
        bias = self.param("bias", nn.initializers.zeros, (c.number,))
        return Resized(self.size, name="resized")(y + bias[:, None, None, None])


class Classifier(nn.Module):
    """Mean over the image, then linear."""

    classes: int
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return SparseLinear(self.classes, self.bias, name="classifier")(widened(x).mean((1, 2))).T


def auxiliary_stride(stem: str) -> int:
    """Stride of the auxiliary head's 5×5 pooling."""
    return 2 if stem == "imagenet" else 3


def auxiliary_fits(size: int, stem: str) -> bool:
    """Whether a feature map of height and width `size` shrinks to the one pixel that the linear layer expects."""
    return size >= 5 and (size - 5) // auxiliary_stride(stem) + 1 == 2


class AuxiliaryHead(nn.Module):
    """ReLU, 5×5 mean, 1×1 → 128, BN, ReLU, 2×2 → 768, BN (not with the ImageNet stem), ReLU, linear; training only."""

    classes: int
    stem: str
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride = auxiliary_stride(self.stem)
        wide = widened(kernels.relu(x))
        mean = lax.reduce_window(wide, 0.0, lax.add, (1, 5, 5, 1), (1, stride, stride, 1), "valid") / 25
        x = self.norm(name="norm_1")(SparseConv(128, name="conv_1")(mean.astype(x.dtype)))
        x = SparseConv(768, 2, name="conv_2")(kernels.relu(x))
        if self.stem == "cifar":
            x = self.norm(name="norm_2")(x)
        x = kernels.relu(x)
        return SparseLinear(self.classes, name="classifier")(jnp.reshape(x, (768, -1))).T


class PooledAuxiliaryHead(nn.Module):
    """ReLU, 5×5 mean, 1×1 → 128, BN, ReLU, 2×2 → 768, BN, ReLU, mean, linear without bias; training only.

    The 2×2 window begins at its pixel and ends in zeros beyond the image. Source: ENAS (arXiv 1802.03268), its code.
    """

    classes: int
    norm: Norm
    stride: int = 3
    """Of the mean."""
    bias: bool = False
    normed: bool = False
    """Whether with a BN before all of it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = widened(kernels.relu(self.norm(name="norm_0")(x) if self.normed else x))
        strides = (1, self.stride, self.stride, 1)
        mean = lax.reduce_window(wide, 0.0, lax.add, (1, 5, 5, 1), strides, "valid") / 25
        x = kernels.relu(self.norm(name="norm_1")(SparseConv(128, name="conv_1")(mean.astype(x.dtype))))
        x = SparseConv(768, 2, name="conv_2")(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
        return Classifier(self.classes, self.bias, name="head")(kernels.relu(self.norm(name="norm_2")(x)))
