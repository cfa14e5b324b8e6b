"""Residual blocks of published networks: x [C, H, W, N] → [channels, ⌈H/stride⌉, ⌈W/stride⌉, N].

Each takes `path_scale` [N] or None: what its residual branch is multiplied by, image by image, where there is a
shortcut beside it (stochastic depth, arXiv 1603.09382).
"""

import flax.linen as nn
import jax

from dass_jax.nn import kernels
from dass_jax.nn.layers import ConvNorm, Norm, SparseLinear
from dass_jax.nn.precision import widened


def joined(shortcut: jax.Array, branch: jax.Array, path_scale: jax.Array | None) -> jax.Array:
    """Their sum, with the branch scaled; in the dtype of the shortcut."""
    branch = branch if path_scale is None else branch * path_scale
    return (shortcut + branch).astype(shortcut.dtype)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the shortcut is 1×1 where the shape changes. `expansion` is always 1. ResNet."""

    channels: int
    stride: int
    expansion: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        y = ConvNorm(self.channels, self.norm, 3, self.stride, activation=kernels.relu, name="conv_1")(x)
        y = ConvNorm(self.channels, self.norm, 3, name="conv_2")(y)
        if x.shape != y.shape:
            x = ConvNorm(self.channels, self.norm, stride=self.stride, name="shortcut")(x)
        return kernels.relu(joined(x, y, path_scale))


class InvertedResidual(nn.Module):
    """1×1 to expansion · C channels, depthwise 3×3, 1×1 down. At stride 1 with a shortcut, which is 1×1 where the
    number of channels changes, as in the network's CIFAR form. MobileNet-v2."""

    channels: int
    stride: int
    expansion: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        wide = self.expansion * x.shape[0]
        y = ConvNorm(wide, self.norm, activation=kernels.relu, name="expand")(x)
        y = ConvNorm(wide, self.norm, 3, self.stride, depthwise=True, activation=kernels.relu, name="depthwise")(y)
        y = ConvNorm(self.channels, self.norm, name="project")(y)
        if self.stride > 1:
            return y
        if x.shape != y.shape:
            x = ConvNorm(self.channels, self.norm, name="shortcut")(x)
        return joined(x, y, path_scale)


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a factor in (0, 1), which two linear layers find from the channels' means."""

    channels: int
    """Between the two layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.silu(SparseLinear(self.channels, name="squeeze")(widened(x).mean((1, 2))))
        factor = nn.sigmoid(SparseLinear(x.shape[0], name="excite")(y))
        return x * factor[:, None, None].astype(x.dtype)


class MBConv(nn.Module):
    """1×1 to expansion · C channels, depthwise 3×3, squeeze-and-excitation through C/4, 1×1 down. EfficientNet."""

    channels: int
    stride: int
    expansion: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        wide = self.expansion * x.shape[0]
        y = ConvNorm(wide, self.norm, activation=nn.silu, name="expand")(x)
        y = ConvNorm(wide, self.norm, 3, self.stride, depthwise=True, activation=nn.silu, name="depthwise")(y)
        y = SqueezeExcite(max(1, x.shape[0] // 4), name="excitation")(y)
        y = ConvNorm(self.channels, self.norm, name="project")(y)
        return joined(x, y, path_scale) if x.shape == y.shape else y


class FusedMBConv(nn.Module):
    """3×3 to expansion · C channels, 1×1 down; at expansion 1 the 3×3 alone. EfficientNet-v2."""

    channels: int
    stride: int
    expansion: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        if self.expansion == 1:
            y = ConvNorm(self.channels, self.norm, 3, self.stride, activation=nn.silu, name="conv")(x)
        else:
            wide = self.expansion * x.shape[0]
            y = ConvNorm(wide, self.norm, 3, self.stride, activation=nn.silu, name="expand")(x)
            y = ConvNorm(self.channels, self.norm, name="project")(y)
        return joined(x, y, path_scale) if x.shape == y.shape else y
