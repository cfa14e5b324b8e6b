"""SMASH's hyper-network: from an architecture's encoding to the weights of its 1×1 convolutions. Source: arXiv
1708.05344 Section 3.3 and the authors' public code.

The encoding is an image [channels, k, S]: a column for each slice of weights (2N input channels), a row for each unit
of output channels. So is what comes out, [2N², k, S]; the network is a DenseNet over it.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.architectures.smash_sizes import COMPRESSION
from dass_jax.nn.layers import SparseWeight
from dass_jax.spaces.smash_codes import BLOCK_NAMES, NOISE, Ranges, Rows, rows_of

SLOPE = 0.02
"""Of the leaky ReLU."""
FIRST = 7
"""Channels that the first convolution adds."""


class Layout(NamedTuple):
    """Of the generated weights: all operations, one after another, int32 [operations], and where they begin."""

    rows: Rows
    block: jax.Array
    start: jax.Array
    """First slice."""
    end: jax.Array
    """Slice after the last."""


def layout(r: Ranges, choice: Any) -> Layout:
    """Of a choice."""
    blocks = [rows_of(r, jnp.asarray(choice[name])) for name in BLOCK_NAMES]
    rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), *blocks)
    block = jnp.concatenate([jnp.full(len(part.units), number, jnp.int32) for number, part in enumerate(blocks)])
    size = jnp.asarray(choice["bank_size"])[block]
    slices = (rows.read.sum(1) * size + 1) // COMPRESSION
    end = jnp.cumsum(slices)
    return Layout(rows, block, (end - slices).astype(jnp.int32), end.astype(jnp.int32))


def channels(r: Ranges) -> int:
    """Of an encoding, without the noise."""
    return 2 * r.sizes.banks + 3 + r.sizes.most + 2 * max(r.dilations) + 2 * len(r.kernels) + len(r.groups)


def encoding(r: Ranges, choice: Any, legacy: bool = False) -> tuple[jax.Array, jax.Array]:
    """(image [1 + channels, k, S] of −1 and 1, the noise first; mask [S]: 1 for the slices in use and one more).

    Args:
      legacy: the number of groups is written one channel too early, into that of the window's largest width.
    """
    found, size = layout(r, choice), jnp.asarray(choice["bank_size"])
    rows, place = found.rows, jnp.arange(r.slices)
    covers = ((place >= found.start[:, None]) & (place < found.end[:, None])).astype(jnp.float32)
    marked = _own_slices(found, size[found.block], place)
    read = jnp.einsum("os,obs->bs", covers, marked)
    one = jax.nn.one_hot
    most = max(r.dilations)
    parts = [rows.write, one(found.block, 3), one(rows.units - 1, r.sizes.most)]
    parts += [one(rows.dilation_h - 1, most), one(rows.dilation_w - 1, most)]
    parts += [one(rows.kernel_h, len(r.kernels)), one(rows.kernel_w, len(r.kernels)), one(rows.groups, len(r.groups))]
    fields = jnp.concatenate([part.astype(jnp.float32) for part in parts], 1)
    if legacy:
        before, groups = jnp.split(fields, [fields.shape[1] - len(r.groups)], 1)
        first = jnp.maximum(before[:, -1:], groups[:, :1])
        fields = jnp.concatenate([before[:, :-1], first, groups[:, 1:], jnp.zeros_like(first)], 1)
    heights = (jnp.arange(r.sizes.most) < rows.units[:, None]).astype(jnp.float32)
    seen = jnp.concatenate([read, jnp.einsum("os,of->fs", covers, fields)])
    image = 2 * seen[:, None] * jnp.einsum("os,oa->as", covers, heights) - 1
    noise = jnp.asarray(choice[NOISE], jnp.float32).reshape(1, r.sizes.most, r.slices)
    return jnp.concatenate([noise, image]), (place <= found.end[-1]).astype(jnp.float32)


def _own_slices(found: Layout, size: jax.Array, place: jax.Array) -> jax.Array:
    """[operations, banks, S]: 1 for the slices that a read bank's channels lie in, two where it begins within one."""
    read = found.rows.read
    order, relative = jnp.cumsum(read, 1) - 1, place - found.start[:, None]
    first = order * size[:, None] // COMPRESSION
    last = ((order + 1) * size[:, None] + 1) // COMPRESSION
    inside = (relative[:, None] >= first[..., None]) & (relative[:, None] < last[..., None])
    return inside.astype(jnp.float32) * read[..., None]


class HyperNet(nn.Module):
    """[1 + channels, k, S] and the mask [S] of the slices in use → [outputs, k, S].

    Every weight is divided by its Frobenius norm. What is not in use is set to zero after each convolution: the result
    is that of the image without it.
    """

    outputs: int
    growth: int
    layers: tuple[int, int, int]

    @nn.compact
    def __call__(self, image: jax.Array, mask: jax.Array) -> jax.Array:
        x = image * mask
        x = jnp.concatenate([x, self._conv(x, FIRST, 3, "first", mask)])
        for number, count in enumerate(self.layers):
            for layer in range(count):
                y = self._conv(leaky(x), self.growth, 3, f"dense_{number}_{layer}", mask)
                x = jnp.concatenate([x, y])
            last = number == len(self.layers) - 1
            features, kernel = (self.outputs, 1) if last else (len(x) // 2, 3)
            x = self._conv(leaky(x), features, kernel, f"transition_{number}", mask)
        return x

    def _conv(self, x: jax.Array, features: int, kernel: int, name: str, mask: jax.Array) -> jax.Array:
        weight = SparseWeight((features, len(x), kernel, kernel), name=name)()
        y = lax.conv_general_dilated(x[None].astype(weight.dtype), unit_norm(weight), (1, 1), "SAME")
        return y[0] * mask


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU."""
    return jnp.where(x >= 0, x, SLOPE * x)


def unit_norm(weight: jax.Array) -> jax.Array:
    """The weight divided by its norm; zero stays so, with zero gradient."""
    square = (weight * weight).sum()
    return jnp.where(square > 0, weight * lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def matrix(r: Ranges, output: jax.Array) -> jax.Array:
    """The hyper-network's output [2N², k, S] as weights [2N · S input channels, N_max output channels]:
    w[p, r] = H[(r mod N)·2N + p mod 2N, r div N, p div 2N]."""
    unit, inner = r.sizes.unit, COMPRESSION * r.sizes.unit
    parts = output.reshape(unit, inner, r.sizes.most, r.slices)
    return parts.transpose(3, 1, 2, 0).reshape(r.slices * inner, r.sizes.filters)
