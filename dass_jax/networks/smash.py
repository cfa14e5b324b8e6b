"""The network of a SMASH architecture (arXiv 1708.05344) with weights of its own. Source: the authors' public code.

An operation is BN, ReLU, 1×1, BN, ReLU, k×k; the search has no BN there, and ReLU after the stem, where this has none.
"""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures import smash_sizes
from dass_jax.architectures.smash import BLOCKS, Architecture, Block, Op
from dass_jax.architectures.smash_sizes import Memory, Sizes, of_fields
from dass_jax.errors import UserError
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import kernels, layers
from dass_jax.nn.grouped import GroupedConv
from dass_jax.nn.heads import head
from dass_jax.schema import Range
from dass_jax.tasks import Outputs


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of memory banks; it inherits nothing from the search, whose sizes it needs for its architectures."""

    depth: Annotated[int, Range(1, 1000)] = 12
    """What decides how much the first block may hold; each following one twice as much."""
    width: Annotated[int, Range(1, 64)] = 4
    """Of the memory: the first block's input has 2 · width · unit channels."""
    unit: Annotated[int, Range(1, 256)] = 8
    """Channels of a unit, of which banks and filters have whole numbers (N)."""
    filters: Annotated[int, Range(1, 4096)] = 64
    """Most filters of an operation (N_max)."""
    max_bottleneck: Annotated[int, Range(1, 8)] = 1
    """Most channels between the two convolutions of an operation, in multiples of `filters`; the published networks
    have 2, of which the search sees 1."""
    stem: Annotated[int, Range(1, 15)] = 7
    """Height and width of the first convolution's window, an odd number."""


class Operation(nn.Module):
    """[n_in, H, W, N] → [filters, H, W, N]."""

    op: Op
    mid: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = kernels.relu(self.norm(name="norm_1")(x))
        x = layers.SparseConv(self.mid, name="pointwise")(x)
        x = kernels.relu(self.norm(name="norm_2")(x))
        return GroupedConv(self.op.filters, self.op.kernel, self.op.dilation, self.op.groups, name="kernel")(x)


class MemoryBlock(nn.Module):
    """[inputs, H, W, N] → the banks that are in use, [D · bank, H, W, N]."""

    block: Block
    memory: Memory
    sizes: Sizes
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.sizes.unit * self.block.bank_size
        banks = dict(enumerate(split(x, size)))
        for number, op in enumerate(self.block.ops):
            if not op.read:
                continue
            mid = smash_sizes.mid_channels(self.sizes, len(op.read) * size, op.filters)
            inputs = jnp.concatenate([banks[bank] for bank in op.read])
            parts = split(Operation(op, mid, self.norm, name=f"op_{number}")(inputs), size)
            for place, bank in enumerate(op.write):
                part = parts[place % len(parts)]
                banks[bank] = banks[bank] + part if bank in banks else part
        nothing = jnp.zeros_like(banks[0])
        used = smash_sizes.used_banks(self.sizes, self.memory, self.block)
        return jnp.concatenate([banks.get(bank, nothing) for bank in range(used)])


def split(x: jax.Array, size: int) -> list[jax.Array]:
    """Pieces of so many channels; what is left over is dropped."""
    return [x[start : start + size] for start in range(0, len(x) - size + 1, size)]


class Network(nn.Module):
    """Stem, three blocks, classifier; in the place of auxiliary logits it returns None."""

    architecture: Architecture
    fields: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> tuple[jax.Array, None]:
        size, x = x.shape[1:3], x if self.dtype is None else x.astype(self.dtype)
        norm, found = layers.batch_norm(train, affine=True, average=self.average), of_fields(self.fields)
        memories, stem = smash_sizes.memories(found), self.fields.stem
        x = layers.SparseConv(memories[0].inputs, stem, padding=stem // 2, name="stem")(x)
        for number, (block, memory) in enumerate(zip(self.architecture.blocks, memories, strict=True), 1):
            if number > 1:
                x = layers.Halved()(layers.SparseConv(memory.inputs, name=f"transition_{number - 1}")(x))
            x = MemoryBlock(block, memory, found, norm, name=f"block_{number}")(x)
            x = kernels.relu(norm(name=f"norm_{number}")(x))
        return head(self.outputs, norm, size)(x), None


def smash(
    a: Architecture, c: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of an architecture, without paths to drop.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and the outputs are float32 at least.

    Raises:
      UserError: if the architecture does not fit into the sizes.
    """
    smash_sizes.check_fits(of_fields(c), a)
    return of_module(Network(a, c, outputs, average, dtype), (0,))


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if a network of these fields cannot be made for such images [H, W, C]."""
    smash_sizes.check(of_fields(c), "network")
    check_image(c.stem, "network", image_shape)


def check_image(stem: int, table: str, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError for an even window, or an image that cannot be halved between the blocks."""
    if stem % 2 == 0:
        raise UserError(f"{table}.stem = {stem}; allowed: an odd number")
    most, (height, width) = 2 ** (BLOCKS - 1), image_shape[:2]
    if height % most or width % most:
        raise UserError(f"image = {height}×{width}; allowed: height and width that are multiples of {most}")
