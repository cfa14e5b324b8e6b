"""The seven operations of a derived cell's edge, one module each: the readable definition of the search space.

x [C, H, W, N] → [C, ⌈H/stride⌉, ⌈W/stride⌉, N]. Source: DARTS (arXiv 1806.09055) Section 3.1, DASS (arXiv 2207.06968)
Table 1; "sparse" means that every weight here can be pruned.
"""

import flax.linen as nn
import jax

from dass_jax.architectures.darts import OPERATIONS
from dass_jax.nn import kernels
from dass_jax.nn.layers import FactorizedReduce, Norm, Pool, SparseConv


class SepConv(nn.Module):
    """(ReLU, depthwise k×k, 1×1, BN) twice; the stride is in the first."""

    channels: int
    kernel: int
    stride: int
    norm: Norm
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for part, stride in ((1, self.stride), (2, 1)):
            x = kernels.relu(x)
            depthwise = f"depthwise_{part}"
            x = SparseConv(self.channels, self.kernel, stride, self.dilation, depthwise=True, name=depthwise)(x)
            x = SparseConv(self.channels, name=f"pointwise_{part}")(x)
            x = self.norm(name=f"norm_{part}")(x)
        return x


class DilConv(nn.Module):
    """ReLU, depthwise k×k with dilation 2, times `dilation`, 1×1, BN."""

    channels: int
    kernel: int
    stride: int
    norm: Norm
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = 2 * self.dilation
        depthwise = SparseConv(self.channels, self.kernel, self.stride, d, depthwise=True, name="depthwise_1")
        x = SparseConv(self.channels, name="pointwise_1")(depthwise(kernels.relu(x)))
        return self.norm(name="norm_1")(x)


class PoolNorm(nn.Module):
    """3×3 pooling, BN: pooling in the supernet. In derived networks no BN follows it."""

    kind: str
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(name="norm")(Pool(self.kind, self.stride)(x))


class Identity(nn.Module):
    """The skip connection at stride 1."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def primitive(
    operation: str, channels: int, stride: int, norm: Norm, pool_norm: Norm | None, name: str, dilation: int = 1
) -> nn.Module:
    """The module of one edge; `dilation` is that of convolutions where maps have kept their size, beside their own.

    Raises:
      ValueError: on an operation that is not in `genotype.OPERATIONS`.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation {operation!r}; allowed: {', '.join(OPERATIONS)}")
    if operation == "skip_connect":
        return Identity(name=name) if stride == 1 else FactorizedReduce(channels, norm, name=name)
    family, _, size = operation.rpartition("_")
    if family in ("max_pool", "avg_pool"):
        kind = family[:3]
        return Pool(kind, stride, name=name) if pool_norm is None else PoolNorm(kind, stride, pool_norm, name=name)
    convolution = SepConv if family == "sep_conv" else DilConv
    return convolution(channels, int(size[0]), stride, norm, dilation, name=name)
