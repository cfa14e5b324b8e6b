"""The layers that own variables. A `SparseConv` or `SparseLinear` is an ordinary layer whose weight is prunable: which
weights a mask covers is said by the network (`variables.prunable`), and masks are multiplied in before `apply`."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.errors import UserError
from dass_jax.nn import kernels
from dass_jax.nn.precision import widened

Norm = Callable[..., nn.Module]
Activation = Callable[[jax.Array], jax.Array]

Average = kernels.Average


def one_device(tree: Any) -> Any:
    """The average over a single device."""
    return tree


class BatchNorm(nn.Module):
    """Batch normalisation of [..., C, H, W, N] over H, W and N, with DARTS' constants.

    Linen's own takes leading axes too, but makes more passes over the maps than the two that are needed, one for the
    statistics and one for the result.
    """

    train: bool
    """Use the batch's statistics and move the running averages, or use the running averages."""
    affine: bool
    average: Average = one_device
    epsilon: float = 1e-5
    momentum: float = 0.9
    scaled: bool = True
    """Of an affine one: learn a scale beside the offset; else it is 1."""
    running: bool = True
    """Keep running averages. Without, it always uses the batch's statistics: where one module serves many networks,
    none would be any one's."""

    @nn.compact
    def __call__(
        self, x: jax.Array, weights: jax.Array | None = None, shape: tuple[int, ...] | None = None
    ) -> jax.Array:
        """`weights` [...]: what the normalised maps are multiplied by, in the place of a learned scale and offset.
        `shape`: of the statistics, where it is not [...] itself but an equal number."""
        features, affine = x.shape[:-3], None
        if weights is not None:
            affine = jnp.broadcast_to(weights[..., None], features), jnp.zeros(features, weights.dtype)
        elif self.affine:
            ones = nn.initializers.ones
            scale = self.param("scale", ones, features) if self.scaled else jnp.ones(features, widened(x).dtype)
            affine = scale, self.param("bias", nn.initializers.zeros, features)
        if not self.running:
            return kernels.normalised(x, affine, self._average(), self.epsilon)[0]
        running = mean, var = self._running(shape or features)
        if self.is_initializing():
            return x  # whose shape is all that is asked for
        if not self.train:
            inverse = kernels.inverse_deviation(var.value.reshape(features), self.epsilon)
            return kernels.scaled(x, *kernels.scale_and_shift(mean.value.reshape(features), inverse, affine))
        y, now = kernels.normalised(x, affine, self._average(), self.epsilon)
        self._move(running, now)
        return y

    @nn.compact
    def mixed(self, x: jax.Array, mixing: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Σ over sources and operations of the normalised maps times mixing, for x [S, O, T or 1, C, H, W, N] or
        [S, O·T·C, H, W, N] and mixing [S, O, T]: the sum [T, C, H, W, N] without its shift, and that shift [T, C]."""
        shape = x.shape[:-3] if x.ndim > 5 else (*mixing.shape, x.shape[1] // (mixing.shape[1] * mixing.shape[2]))
        running = mean, var = self._running(shape)
        if not self.train:
            inverse = kernels.inverse_deviation(var.value, self.epsilon)
            weight, shift = kernels.weight_and_shift(mean.value, inverse, mixing)
            return kernels.weighted_sum(x, weight), shift
        sums, now = kernels.normalised_sum(x, mixing, self._average(), self.epsilon)
        self._move(running, now)
        return sums

    def _running(self, features: tuple[int, ...]) -> tuple[nn.Variable, nn.Variable]:
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        return mean, self.variable("batch_stats", "var", jnp.ones, features)

    def _average(self) -> Average:
        # Shapes are found outside of any mapped axis: there is nothing to average over then.
        return one_device if self.is_initializing() else self.average

    def _move(self, running: tuple[nn.Variable, ...], now: tuple[jax.Array, ...]) -> None:
        if not self.is_initializing():
            for old, new in zip(running, now, strict=True):
                moved = self.momentum * old.value + (1 - self.momentum) * new.reshape(old.value.shape)
                old.value = moved.astype(old.value.dtype)


def batch_norm(
    train: bool,
    affine: bool,
    average: Average = one_device,
    epsilon: float = BatchNorm.epsilon,
    running: bool = BatchNorm.running,
) -> Norm:
    """What the modules below call to make their `BatchNorm`s: `norm(name=…)`, with any field overridden."""
    return functools.partial(BatchNorm, train=train, affine=affine, average=average, epsilon=epsilon, running=running)


class SparseWeight(nn.Module):
    """A prunable weight [*stack, *layer] (see `variables`); its initial values come from `initial.initialise`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("weight", nn.initializers.zeros, self.shape)


class ScaleAndBias(nn.Module):
    """Of batch normalisations that are computed elsewhere (`kernels.normalised`)."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, self.shape)
        return scale, self.param("bias", nn.initializers.zeros, self.shape)


class NormVariables(nn.Module):
    """Of batch normalisations that are computed elsewhere: (scale, bias) and, as variables, the running averages (mean,
    variance)."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[tuple[jax.Array, jax.Array], tuple[nn.Variable, nn.Variable]]:
        scale = self.param("scale", nn.initializers.ones, self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, self.shape)
        return (scale, bias), (mean, self.variable("batch_stats", "var", jnp.ones, self.shape))


class SparseConv(nn.Module):
    """Convolution without bias, [C, H, W, N] → [features, H', W', N]; `depthwise` keeps the channels."""

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, factors: jax.Array | None = None) -> jax.Array:
        """`factors` [C]: what the channels of x are multiplied by; for a dense kernel of one pixel only."""
        k = self.kernel
        if self.depthwise:
            weight = SparseWeight((self.features, k, k), name="conv")()
            return kernels.depthwise(x, weight, self.stride, self.dilation)
        if k == 1:
            weight = SparseWeight((self.features, x.shape[0]), name="conv")()
            return kernels.pointwise(x, weight if factors is None else weight * factors, self.stride)
        weight = SparseWeight((self.features, x.shape[0], k, k), name="conv")()
        return kernels.convolution(x, weight, self.stride, self.padding, self.dilation)


class SparseLinear(nn.Module):
    """x [I, N] → [features, N] in float32 at least, with a bias, which is never pruned, or without."""

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = SparseWeight((self.features, x.shape[0]), name="linear")()
        if not self.bias:
            return weight @ widened(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return weight @ widened(x) + bias[:, None]


class Pool(nn.Module):
    """3×3 pooling: the maximum or the mean (`kind` "max", "avg") of the pixels inside the image; "padded_avg": the mean
    with zeros outside of it."""

    kind: str
    stride: int = 1

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "max":
            return kernels.max_pool(x, self.stride)
        return kernels.avg_pool(x, self.stride, self.kind == "padded_avg")


class Halved(nn.Module):
    """The mean of each 2×2 pixels, [C, H, W, N] → [C, H/2, W/2, N]; H and W are even."""

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = widened(x)
        corners = (wide[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
        return (functools.reduce(jnp.add, corners) / 4).astype(x.dtype)


class Resized(nn.Module):
    """Bilinear interpolation of [C, H, W, N] to `size`, whose edges repeat."""

    size: tuple[int, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.image.resize(x, (len(x), *self.size, x.shape[-1]), "linear")


class FactorizedReduce(nn.Module):
    """Halves H and W: ReLU, where there is one, two stride-2 1×1 convolutions to half the channels, the second one
    pixel further, BN."""

    channels: int
    norm: Norm
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pair = kernels.shifted_pair(kernels.relu(x) if self.relu else x)
        weight = SparseWeight((2, self.channels // 2, x.shape[0]), name="factorized")()
        y = kernels.pointwise(pair, weight)
        return self.norm(name="norm")(y.reshape(self.channels, *y.shape[2:]))


def check_even(table: str, channels: int) -> None:
    """Raises UserError if the halves of a factorized reduction are not equal; `table` is the configuration's."""
    if channels % 2:
        raise UserError(f"{table}.channels = {channels}; allowed: an even number, as reductions have two halves")


class ReLUConvNorm(nn.Module):
    """ReLU, 1×1 convolution, BN: a cell's preprocessing."""

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(name="norm")(SparseConv(self.channels, name="pointwise")(kernels.relu(x)))


class ConvNorm(nn.Module):
    """k×k convolution with zero padding (k − 1)/2 · dilation, BN and, where there is one, the activation."""

    channels: int
    norm: Norm
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    activation: Activation | None = None
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding, d = (self.kernel - 1) // 2 * self.dilation, self.dilation
        convolution = SparseConv(self.channels, self.kernel, self.stride, d, padding, self.depthwise, name="conv")
        x = self.norm(name="norm")(convolution(x))
        return x if self.activation is None else self.activation(x)
