"""What turns a feature map [C, H, W, N] into logits [N, classes]. Source: DARTS' published networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn import kernels
from dass_jax.nn.layers import Norm, SparseConv, SparseLinear
from dass_jax.nn.precision import widened


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
    """ReLU, 5×5 mean of stride 3, 1×1 → 128, BN, ReLU, 2×2 → 768, BN, ReLU, mean, linear without bias; training only.

    The 2×2 window begins at its pixel and ends in zeros beyond the image. Source: ENAS (arXiv 1802.03268), its code.
    """

    classes: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = widened(kernels.relu(x))
        mean = lax.reduce_window(wide, 0.0, lax.add, (1, 5, 5, 1), (1, 3, 3, 1), "valid") / 25
        x = kernels.relu(self.norm(name="norm_1")(SparseConv(128, name="conv_1")(mean.astype(x.dtype))))
        x = SparseConv(768, 2, name="conv_2")(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
        return Classifier(self.classes, bias=False, name="head")(kernels.relu(self.norm(name="norm_2")(x)))
