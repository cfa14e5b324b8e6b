"""Mixed operations: every primitive on every edge, weighted. Source: DARTS (arXiv 1806.09055) Eq. 2.

Written edge by edge this is thousands of small operations. Here all edges that leave nodes of one shape are computed
together: they share their source's ReLU, its pools and its identity, and their convolutions are one depthwise and one
batched pointwise product over [sources, operations·targets]. A 3×3 kernel joins a 5×5 one as its centre; its parameter
keeps its own shape. The mathematics is that of `primitives`, which the tests compare.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.nn import kernels
from dass_jax.nn.layers import Norm, SparseWeight

SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")
DILATED = ("dil_conv_3x3", "dil_conv_5x5")
CONVOLUTIONS = SEPARABLE + DILATED
_FREE = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")


def _kernel(operation: str) -> int:
    return int(operation[-1])


class MixedEdges(nn.Module):
    """All edges from `sources` nodes to `targets` nodes, summed over the sources.

    x [sources, C, H, W, N], weights [sources, targets, operations] → [targets, C, ⌈H/stride⌉, ⌈W/stride⌉, N].
    """

    targets: int
    stride: int
    operations: tuple[str, ...]
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        weight_of = {name: weights[:, :, index] for index, name in enumerate(self.operations)}
        relu = nn.relu(x)
        heavy = [self._convolutions(relu)]
        names = list(CONVOLUTIONS)
        if self.stride > 1:
            heavy.append(self._reduced_skip(relu))
            names.append("skip_connect")
        # [sources, operations, targets, C, H, W, N] times [sources, operations, targets, 1, 1, 1, 1]
        each = jnp.stack([weight_of[name] for name in names], axis=1)[..., None, None, None, None]
        maps = zip(heavy, jnp.split(each, [len(CONVOLUTIONS)], axis=1), strict=False)
        # Term by term: XLA on a CPU would make a reduction write `each` to memory at the size of the maps.
        terms = [y[index] * w[index] for y, w in maps for index in np.ndindex(y.shape[:2])]
        total = functools.reduce(jnp.add, terms)
        return total + self._shared(x, weight_of)

    def _weight(self, operation: str, part: str, *shape: int, sources: int) -> jax.Array:
        return SparseWeight((sources, self.targets, *shape), name=f"{operation}_{part}")()

    def _depthwise(self, x: jax.Array, operations: tuple[str, ...], part: str, stride: int, dilation: int) -> jax.Array:
        """x [sources, 1 or operations·targets, C, H, W, N] → [sources, operations·targets, C, H', W', N]."""
        widest = max(map(_kernel, operations))
        weights = []
        for operation in operations:
            k = _kernel(operation)
            weight = self._weight(operation, part, x.shape[2], k, k, sources=x.shape[0])
            border = (widest - k) // 2
            weights.append(jnp.pad(weight, [(0, 0)] * 3 + [(border, border)] * 2))
        return kernels.depthwise(x, jnp.concatenate(weights, axis=1), stride, dilation)

    def _pointwise(self, x: jax.Array, operations: tuple[str, ...], part: str) -> jax.Array:
        channels = x.shape[2]
        weights = [self._weight(op, part, channels, channels, sources=x.shape[0]) for op in operations]
        return kernels.pointwise(x, jnp.concatenate(weights, axis=1))

    def _convolutions(self, relu: jax.Array) -> jax.Array:
        """The four convolutions: [sources, 4, targets, C, H', W', N] in the order of `CONVOLUTIONS`."""
        source = relu[:, None]
        separable = self._depthwise(source, SEPARABLE, "depthwise_1", self.stride, 1)
        dilated = self._depthwise(source, DILATED, "depthwise_1", self.stride, 2)
        y = self._pointwise(jnp.concatenate([separable, dilated], axis=1), CONVOLUTIONS, "pointwise_1")
        y = self.norm(name="norm_1")(y)
        separable, dilated = jnp.split(y, 2, axis=1)
        y = self._depthwise(nn.relu(separable), SEPARABLE, "depthwise_2", 1, 1)
        y = self.norm(name="norm_2")(self._pointwise(y, SEPARABLE, "pointwise_2"))
        y = jnp.concatenate([y, dilated], axis=1)
        return y.reshape(y.shape[0], len(CONVOLUTIONS), self.targets, *y.shape[2:])

    def _reduced_skip(self, relu: jax.Array) -> jax.Array:
        """The factorized reduce of every edge: [sources, 1, targets, C, H', W', N]."""
        sources, channels = relu.shape[:2]
        shape = (sources, self.targets, 2, channels // 2, channels)
        weight = SparseWeight(shape, name="skip_connect")()
        y = kernels.pointwise(kernels.shifted_pair(relu)[:, None], weight)
        y = y.reshape(sources, self.targets, channels, *y.shape[-3:])
        return self.norm(name="norm_skip")(y)[:, None]

    def _shared(self, x: jax.Array, weight_of: dict[str, jax.Array]) -> jax.Array:
        """What is equal for all edges of a source: pools (with BN) and the identity at stride 1."""
        names = _FREE[:2] if self.stride > 1 else _FREE
        pools = jnp.stack([kernels.max_pool(x, self.stride), kernels.avg_pool(x, self.stride)], axis=1)
        maps = self.norm(name="norm_pool", affine=False)(pools)
        if self.stride == 1:
            maps = jnp.concatenate([maps, x[:, None]], axis=1)
        weights = jnp.stack([weight_of[name] for name in names], axis=-1)
        return jnp.einsum("seo,sochwn->echwn", weights, maps)
