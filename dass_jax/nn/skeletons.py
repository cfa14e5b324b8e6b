"""The network of NAS-Bench-201 (arXiv 2001.00326, Figure 1) around its cells: three stages of equal cells, a residual
block between them, which doubles the channels and halves the image."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from dass_jax.errors import UserError
from dass_jax.nn import kernels
from dass_jax.nn.heads import head
from dass_jax.nn.layers import ConvNorm, Halved, Norm, SparseConv
from dass_jax.tasks import Outputs

STAGES = 3

Map = Callable[[jax.Array], jax.Array]


class Sizes(NamedTuple):
    """Of the network; the defaults are the benchmark's."""

    outputs: Outputs = 10
    cells: int = 5
    """In each stage."""
    channels: int = 16
    """Of the first stage."""


class ResidualBlock(nn.Module):
    """ReLU, 3×3, BN twice, the first with stride 2; the shortcut is the mean of 2×2 pixels and a 1×1 convolution."""

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ConvNorm(self.channels, self.norm, 3, 2, name="conv_1")(kernels.relu(x))
        y = ConvNorm(self.channels, self.norm, 3, name="conv_2")(kernels.relu(y))
        return SparseConv(self.channels, name="shortcut")(Halved()(x)) + y


def check_sides(height: int, width: int) -> None:
    """Raises UserError for an image that cannot be halved twice."""
    if height % 4 or width % 4:
        raise UserError(f"image = {height}×{width}; allowed: height and width that are multiples of 4")


def three_stages(
    x: jax.Array,
    sizes: Sizes,
    norm: Norm,
    last_norm: Norm,
    cell: Callable[[int, str], Callable[[jax.Array], jax.Array]],
) -> jax.Array:
    """images [C, H, W, N] → outputs, as the head gives them; to be called by a module, whose parts it makes.

    Args:
      norm: of the stem, of the residual blocks and of the head.
      last_norm: after the last cell.
      cell: (channels, name) → what maps [channels, H, W, N] to the same shape.

    Raises:
      UserError: on an image that cannot be halved twice.
    """
    height, width = x.shape[1:3]
    check_sides(height, width)
    x = ConvNorm(sizes.channels, norm, 3, name="stem")(x)
    for stage in range(STAGES):
        channels = sizes.channels * 2**stage
        if stage:
            x = ResidualBlock(channels, norm, name=f"block_{stage - 1}")(x)
        for index in range(stage * sizes.cells, (stage + 1) * sizes.cells):
            x = cell(channels, f"cell_{index}")(x)
    return head(sizes.outputs, norm, (height, width))(kernels.relu(last_norm(name="norm")(x)))
