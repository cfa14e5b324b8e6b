"""Convolutions of several groups and of any window, as dense ones: the kernels for maps with the batch last know no
other (`nn.kernels`). What is computed is larger than the weight, which is what is trained, pruned and counted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.nn import kernels
from dass_jax.nn.layers import SparseWeight


def dense(weight: jax.Array, groups: int, dilation: tuple[int, int]) -> jax.Array:
    """The weight [O, I/groups, h, w], h and w odd, of a convolution with groups and dilation as that of one without:
    [O, I, e, e] with zeros, e the larger of both extents."""
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    source, target = np.arange(inputs), np.arange(outputs)
    same = target[:, None] // (outputs // groups) == source // (inputs // groups)
    whole = weight[:, source % weight.shape[1]] * same[:, :, None, None].astype(weight.dtype)
    extents = [(side - 1) * step + 1 for side, step in zip(weight.shape[2:], dilation, strict=True)]
    edges = [(max(extents) - extent) // 2 for extent in extents]
    window = [(edge, edge, step - 1) for edge, step in zip(edges, dilation, strict=True)]
    return lax.pad(whole, jnp.zeros((), weight.dtype), [(0, 0, 0), (0, 0, 0), *window])


class GroupedConv(nn.Module):
    """Convolution without bias, [C, H, W, N] → [features, H, W, N]: zero padding, any odd window, dilation, groups."""

    features: int
    kernel: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = SparseWeight((self.features, x.shape[0] // self.groups, *self.kernel), name="conv")()
        window = dense(weight, self.groups, self.dilation)
        return kernels.convolution(x, window, padding=window.shape[-1] // 2)
