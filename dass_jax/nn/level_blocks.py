"""Blocks of levels of operations, every one of which may read all levels before it, and the network around them.
Source: DSO-NAS (Zhang et al., TPAMI 2020) Section 3.1; the stem is that of its published code.

    h(m, j) = O_j(λ·x + Σ λ·h over the levels before m)          m ≥ 2; the first level reads x
    y = x + ReLU(BN(Σ W·λ·h over all operations))

Factors λ are given to a supernet; a network that was found has none. With them every scale of a BN that comes before
another factor is fixed at 1, since λ has its part.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.architectures.dso import IN, OUT, Connections, level, living, sources, targets
from dass_jax.nn import kernels
from dass_jax.nn.heads import Scale, halved, head
from dass_jax.nn.layers import ConvNorm, Norm, Pool, SparseConv
from dass_jax.nn.precision import widened
from dass_jax.tasks import Outputs

EPSILON = 2e-5
"""Of every BN. The published code."""

Map = Callable[[jax.Array], jax.Array]
Factors = jax.Array | None


class Sizes(NamedTuple):
    """Of the network; the defaults are the supernet's for CIFAR-10."""

    outputs: Outputs = 10
    stages: tuple[int, ...] = (8, 8, 8)
    """Blocks of each stage; stage s has C·2^s channels."""
    channels: int = 48
    """C."""
    stem: str = "cifar"


class Operation(nn.Module):
    """`sep3` and the like: depthwise k×k, 1×1, BN, ReLU; `max3`, `avg3`: 3×3 pooling, BN, ReLU. [C, H, W, N] → same."""

    operation: str
    norm: Norm
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kind, k = self.operation[:3], int(self.operation[3:])
        if kind == "sep":
            x = SparseConv(x.shape[0], k, dilation=self.dilation, depthwise=True, name="depthwise")(x)
            x = SparseConv(x.shape[0], name="pointwise")(x)
        else:
            x = Pool("max" if kind == "max" else "padded_avg", name="pool")(x)
        return kernels.relu(self.norm(name="norm")(x))


def module_of(node: str) -> str:
    """What an operation is called among a block's modules."""
    return f"op_{node.replace('.', '_')}"


def total(maps: list[jax.Array], factors: Factors) -> jax.Array:
    """Σ of maps times factors [S], made once."""
    dtype = maps[0].dtype
    if factors is not None:
        return kernels.combination(tuple(maps), factors).astype(dtype)
    return maps[0] if len(maps) == 1 else kernels.apart(functools.reduce(jnp.add, map(widened, maps)).astype(dtype))


class Block(nn.Module):
    """[C, H, W, N] → same. Of the block without connections the shortcut is left."""

    operations: tuple[str, ...]
    levels: int
    connections: Connections
    """Swept (`architectures.dso.swept`)."""
    first: bool
    """Of its stage: its shortcut is a 1×1 convolution, BN and ReLU."""
    norm: Norm
    """Of operations and shortcut."""
    last_norm: Norm
    dilation: int = 1
    """Of depthwise convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array, factors: Factors, path_scale: jax.Array | None = None) -> jax.Array:
        """`factors` [targets, sources], see `targets` and `columns`. `path_scale` [connections, N]: what those to the
        output and into operations with several inputs carry is multiplied by."""
        known = {IN: x}
        for node in living(self.connections):
            kind = self.operations[int(node.split(".")[1])]
            operation = Operation(kind, self.norm, self.dilation, name=module_of(node))
            read = x if level(node) == 1 else self._read(known, node, factors, path_scale)
            known[node] = operation(read)
        shortcut = x
        if self.first:
            shortcut = ConvNorm(x.shape[0], self.norm, activation=kernels.relu, name="shortcut")(x)
        ends = self._into(OUT)
        if not ends:
            return shortcut
        own = [] if factors is None else [jnp.repeat(self._own(OUT, factors), x.shape[0])]
        maps = jnp.concatenate(self._carried(known, OUT, path_scale))
        y = SparseConv(x.shape[0], name="outputs")(maps, *own)
        return shortcut + kernels.relu(self.last_norm(name="norm")(y))

    def _into(self, target: str) -> list[str]:
        return [source for source, own in self.connections if own == target]

    def _carried(self, known: dict[str, jax.Array], target: str, path_scale: jax.Array | None) -> list[jax.Array]:
        """What comes into a node."""
        maps = [known[source] for source in self._into(target)]
        if path_scale is None:
            return maps
        own = [path_scale[i] for i, (_, other) in enumerate(self.connections) if other == target]
        return [(x * scale).astype(x.dtype) for x, scale in zip(maps, own, strict=True)]

    def _read(
        self, known: dict[str, jax.Array], target: str, factors: Factors, path_scale: jax.Array | None
    ) -> jax.Array:
        alone = len(self._into(target)) == 1
        maps = self._carried(known, target, None if alone else path_scale)
        return total(maps, None if factors is None else self._own(target, factors))

    def _own(self, target: str, factors: jax.Array) -> jax.Array:
        """The factors of a node's connections."""
        number = len(self.operations)
        row, names = targets(self.levels, number).index(target), columns(self.levels, number)
        own = np.array([names.index(source) for source in self._into(target)])
        return jnp.asarray(factors)[row, own]


def columns(levels: int, operations: int) -> tuple[str, ...]:
    """The sources of a block's connections, in the order of the columns of its factors."""
    return (IN, *sources(OUT, levels, operations))


class Reduction(nn.Module):
    """[C, H, W, N] → [2C, ⌈H/stride⌉, ⌈W/stride⌉, N]: the sum over branches of k×k convolution, BN, ReLU."""

    branches: tuple[str, ...]
    """Of `architectures.dso.BRANCHES`."""
    norm: Norm
    stride: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, factors: Factors) -> jax.Array:
        """`factors` [branches]."""

        def branch(name: str) -> jax.Array:
            sizes, relu = (2 * x.shape[0], self.norm, int(name[0]), self.stride), kernels.relu
            return ConvNorm(*sizes, activation=relu, name=f"conv_{name}")(x)

        return total([branch(name) for name in self.branches], factors)


def staged(
    x: jax.Array,
    sizes: Sizes,
    norm: Norm,
    block: Callable[[int, bool, int], Map],
    reduction: Callable[[int, int], Map],
) -> jax.Array:
    """images [C, H, W, N] → outputs, as the head gives them; to be called by a module, whose parts it makes.

    Args:
      norm: of the stem, before the head and in it.
      block: (its number, whether it is the first of its stage, dilation) → what it maps.
      reduction: (its number, stride) → what it maps.
    """
    size, at = x.shape[1:3], Scale(stride_of(sizes.stem))
    if sizes.stem == "cifar":
        x = ConvNorm(sizes.channels, norm, 3, activation=kernels.relu, name="stem")(x)
    else:
        for part, channels in ((1, sizes.channels // 2), (2, sizes.channels)):
            x = ConvNorm(channels, norm, 3, 2, activation=kernels.relu, name=f"stem_{part}")(x)
    number = 0
    for stage, blocks in enumerate(sizes.stages):
        for place in range(blocks):
            x = block(number, place == 0, at.dilation)(x)
            number += 1
        if stage + 1 < len(sizes.stages):
            then = halved(sizes.outputs, at)
            x, at = reduction(stage, then.stride // at.stride)(x), then
    return head(sizes.outputs, norm, size)(kernels.relu(norm(name="norm")(x)))


def stride_of(stem: str) -> int:
    """By how much the stem's maps are smaller than the image."""
    return 4 if stem == "imagenet" else 1
