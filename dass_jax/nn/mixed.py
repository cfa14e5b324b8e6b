"""Mixed operations: every primitive on every edge, weighted. Source: DARTS (arXiv 1806.09055) Eq. 2.

Written edge by edge this is thousands of small operations. Here all edges that leave nodes of one shape are computed
together: they share their source's ReLU, its pools and its identity, and their convolutions are one depthwise and one
batched pointwise product over [sources, operations·targets]. A 3×3 kernel joins a 5×5 one as its centre; its parameter
keeps its own shape. The mathematics is that of `primitives`, which the tests compare.

Where operations have left a search, those that live are a ragged set, which is cut into such products: one for each
source and operation, of the targets for which it lives. With everything alive that takes 4 % longer than all at once.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn import kernels
from dass_jax.nn.layers import Norm, SparseWeight

SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")
DILATED = ("dil_conv_3x3", "dil_conv_5x5")
POOLS = ("max_pool_3x3", "avg_pool_3x3")
SKIP = ("skip_connect",)
NORMS = {"norm_1": SEPARABLE, "norm_2": SEPARABLE, "norm_dilated": DILATED, "norm_pool": POOLS, "norm_skip": SKIP}
"""The norms of `MixedEdges` and whose maps they normalise, each operation's by themselves."""


def _kernel(operation: str) -> int:
    return int(operation[-1])


class MixedEdges(nn.Module):
    """All edges from `sources` nodes to `targets` nodes, summed over the sources.

    x [sources, C, H, W, N], weights [sources, targets, operations] → [targets, C, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """

    targets: int
    stride: int
    operations: tuple[str, ...]
    """In the order of `PRIMITIVES`; at least one that is not `none`."""
    norm: Norm
    dilation: int = 1
    """Of convolutions, beside their own."""

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        relu = kernels.relu(x)
        kinds: list[tuple[str, Callable[..., jax.Array], jax.Array]] = [
            ("norm_2", self._separable, relu),
            ("norm_dilated", self._dilated, relu),
            ("norm_pool", self._pools, x),
        ]
        if self.stride > 1:
            kinds.append(("norm_skip", self._reduced_skip, relu))
        present = [(name, make, source, own) for name, make, source in kinds if (own := self._present(NORMS[name]))]
        maps = [(name, make(source, own), own) for name, make, source, own in present]
        norm = functools.partial(self.norm, affine=False)
        parts = [norm(name=name).mixed(y, self._weights_of(own, weights)) for name, y, own in maps]
        sums, shifts = [part for part, _ in parts], [shift for _, shift in parts]
        if self.stride == 1 and self._present(SKIP):
            mixing = self._weights_of(SKIP, weights)[..., None]
            identity = jnp.broadcast_to(mixing, (*mixing.shape[:-1], x.shape[1]))
            sums.append(kernels.weighted_sum(x[:, None, None], identity))
        total = functools.reduce(jnp.add, sums)
        return total + kernels.spread(functools.reduce(jnp.add, shifts)) if shifts else total

    def _present(self, kind: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(operation for operation in kind if operation in self.operations)

    def _weights_of(self, operations: tuple[str, ...], weights: jax.Array) -> jax.Array:
        """The edges' weights of operations that are neighbours in `operations`: [sources, operations, targets]."""
        first = self.operations.index(operations[0])
        return jnp.moveaxis(weights[:, :, first : first + len(operations)], -1, 1)

    def _weight(self, operation: str, part: str, *shape: int, sources: int) -> jax.Array:
        return SparseWeight((sources, self.targets, *shape), name=f"{operation}_{part}")()

    def _convolved(
        self, x: jax.Array, channels: int, operations: tuple[str, ...], part: int, stride: int, dilation: int
    ) -> jax.Array:
        """A depthwise and a pointwise convolution: x [sources, 1 or operations·targets, C, H, W, N] → [sources,
        operations·targets, C, H', W', N], or side by side (`kernels.separable`)."""
        widest = max(map(_kernel, operations))
        weights = []
        for operation in operations:
            k = _kernel(operation)
            weight = self._weight(operation, f"depthwise_{part}", channels, k, k, sources=x.shape[0])
            border = (widest - k) // 2
            borders = [(0, 0, 0)] * 3 + [(border, border, 0)] * 2
            weights.append(lax.pad(weight, jnp.zeros((), weight.dtype), borders))
        shape = channels, channels
        dense = [self._weight(operation, f"pointwise_{part}", *shape, sources=x.shape[0]) for operation in operations]
        return kernels.separable(x, weights, dense, stride, dilation)

    def _separable(self, relu: jax.Array, operations: tuple[str, ...]) -> jax.Array:
        """Separable convolutions before their last BN: [sources, operations, targets, C, H', W', N] or side by side."""
        sources, channels = relu.shape[:2]
        y = self._convolved(relu[:, None], channels, operations, 1, self.stride, self.dilation)
        y = self.norm(name="norm_1")(y, shape=(sources, len(operations) * self.targets, channels))
        return self._by_operation(self._convolved(kernels.relu(y), channels, operations, 2, 1, self.dilation))

    def _dilated(self, relu: jax.Array, operations: tuple[str, ...]) -> jax.Array:
        """Dilated convolutions before their BN: [sources, operations, targets, C, H', W', N] or side by side."""
        channels, dilation = relu.shape[1], 2 * self.dilation
        return self._by_operation(self._convolved(relu[:, None], channels, operations, 1, self.stride, dilation))

    def _by_operation(self, y: jax.Array) -> jax.Array:
        return y if y.ndim == 5 else y.reshape(y.shape[0], -1, self.targets, *y.shape[2:])

    def _reduced_skip(self, relu: jax.Array, operations: tuple[str, ...]) -> jax.Array:
        """The factorized reduce of every edge before its BN: [sources, 1, targets, C, H', W', N]."""
        sources, channels = relu.shape[:2]
        shape = (sources, self.targets, 2, channels // 2, channels)
        weight = SparseWeight(shape, name=operations[0])()
        y = kernels.pointwise(kernels.shifted_pair(relu)[:, None], weight)
        return y.reshape(sources, 1, self.targets, channels, *y.shape[-3:])

    def _pools(self, x: jax.Array, operations: tuple[str, ...]) -> jax.Array:
        """Pools before their BN, equal for all edges of a source: [sources, operations, 1, C, H', W', N]."""
        pools = {"max_pool_3x3": kernels.max_pool, "avg_pool_3x3": kernels.avg_pool}
        return jnp.stack([pools[operation](x, self.stride) for operation in operations], axis=1)[:, :, None]
