"""What turns the image [C, H, W, N] into the two inputs of the first cell. Source: DARTS' published networks."""

import flax.linen as nn
import jax

from dass_jax.errors import UserError
from dass_jax.nn import kernels
from dass_jax.nn.layers import Norm, SparseConv


class CifarStem(nn.Module):
    """3×3 convolution to 3·channels, BN; both cell inputs are its output."""

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = SparseConv(3 * self.channels, 3, padding=1, name="conv")(x)
        x = self.norm(name="norm")(x)
        return x, x


class ImagenetStem(nn.Module):
    """Three 3×3 convolutions of stride 2: the image at a quarter and at an eighth of its size."""

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for part, features in ((1, self.channels // 2), (2, self.channels), (3, self.channels)):
            previous = x
            x = x if part == 1 else kernels.relu(x)
            x = SparseConv(features, 3, stride=2, padding=1, name=f"conv_{part}")(x)
            x = self.norm(name=f"norm_{part}")(x)
        return previous, x


STEMS = {"cifar": CifarStem, "imagenet": ImagenetStem}


def first_is_reduced(stem: str) -> bool:
    """Whether the first cell's inputs differ in size, as after a reduction cell."""
    return stem == "imagenet"


def stride_of(stem: str) -> int:
    """By how much the second of the first cell's inputs is smaller than the image."""
    return 8 if stem == "imagenet" else 1


def check_stem(table: str, stem: str, channels: int) -> None:
    """Raises UserError if a network with that stem cannot have so many channels; `table` is the configuration's."""
    if stem == "imagenet" and channels % 2:
        raise UserError(
            f"{table}.channels = {channels}; allowed: an even number, as {table}.stem = 'imagenet' halves it"
        )
