"""The mobile space of DSO-NAS: blocks of six inverted residuals with a factor λ on each. Source: Zhang et al., TPAMI
2020, Section 4.3.

A choice holds the factors themselves: {"blocks": [blocks, operations]}. The last operation of a block is never
penalised, and never leaves.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.mobile import OPERATIONS, Mobile, whole
from dass_jax.errors import UserError
from dass_jax.nn import layers
from dass_jax.nn.initial import NORMAL
from dass_jax.nn.mobile_blocks import EPSILON, REPEATS, Block, Operation, Place, Sizes, check_stages, places, staged
from dass_jax.schema import Range
from dass_jax.spaces import latencies
from dass_jax.spaces import live as living_parts
from dass_jax.spaces.live import Live
from dass_jax.spaces.space import Choice, Space, of_module
from dass_jax.tasks import Outputs

RULES: variables.Rules = ((r".*/weight", 0), (r".*/(scale|bias)", None))
BLOCKS = "blocks"
"""The name of the one matrix of a choice."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Blocks of six inverted residuals, of which one is to be left in each."""

    backbone: Literal["gpu", "cpu"] = "gpu"
    """Whose channels: those of ProxylessNAS' network for a GPU or for a CPU."""
    stages: tuple[Annotated[int, Range(1, 100)], ...] = REPEATS
    """Blocks of each stage, of six stages at most."""
    width: Annotated[float, Range(0, 8, open_low=True)] = 1.0
    """Factor of the channels, which are rounded to multiples of 8."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """A 3×3 convolution of stride 2 (`imagenet`) or 1 (`cifar`)."""
    latency: latencies.Path = ""
    """A table of milliseconds on the device for which is searched, for `method.budget` = "latency"."""
    remat: bool = False
    """Recompute each block in the backward pass: about a third more time for a fraction of the memory."""


def check(c: Fields) -> None:
    """Raises UserError for fields that do not go together."""
    check_stages("space", c.stages)


def fits(c: Fields, outputs: Outputs, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if the table of latencies is not for images [H, W, C] and these sizes."""
    if c.latency:
        latencies.check(c.latency, image_shape, timed(c, outputs, image_shape).parts)


def sizes_of(c: Any, outputs: Outputs) -> Sizes:
    """Of the fields of the space or of the network."""
    return Sizes(outputs, c.backbone, c.stages, c.width, c.stem)


class Supernet(nn.Module):
    """The network of all living operations."""

    fields: Fields
    live: Mobile
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: dict[str, jax.Array], train: bool) -> jax.Array:
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average, epsilon=EPSILON)
        fixed = functools.partial(norm, scaled=False)
        make = nn.remat(Block) if self.fields.remat else Block

        def block(number: int, place: Place) -> Any:
            left = self.live.blocks[number]
            own = np.array([OPERATIONS.index(name) for name in left])
            module = make(left, place, norm, fixed, name=f"block_{number}")
            return lambda x: module(x, jnp.asarray(choice[BLOCKS])[number, own])

        return staged(x, sizes_of(self.fields, self.outputs), norm, block)


def mobile(
    c: Fields,
    outputs: Outputs,
    average: layers.Average = layers.one_device,
    dtype: Any = None,
    live: Live | None = None,
) -> Space:
    """The space of the given fields.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables, factors and outputs are float32 at least.
      live: {"blocks": bool [blocks, operations]}, the operations that are part of the program; None: all.

    Raises:
      ValueError: if `live` does not have the name and shape of the choice.
      UserError: if the table of latencies cannot be read.
    """
    labels = choices(c)
    left = decode(living_parts.checked(live, labels))
    init, apply = of_module(Supernet(c, left, outputs, average, dtype), labels, RULES, NORMAL)
    return Space(
        init=init,
        apply=apply,
        encode=functools.partial(encode, c),
        decode=decode,
        settle=settle,
        sample=functools.partial(sample, c),
        choices=labels,
        rules=RULES,
        carried=functools.partial(carried, c),
        whole=whole(sum(c.stages)),
        costs=costs(c, outputs),
    )


def choices(c: Fields) -> dict[str, Choice]:
    """What rows and columns are called."""
    return {BLOCKS: Choice(BLOCKS, tuple(f"block {number}" for number in range(1, sum(c.stages) + 1)), OPERATIONS)}


def encode(c: Fields, a: Mobile) -> dict[str, np.ndarray]:
    """Factors float32: 1 for each operation of an architecture.

    Raises:
      UserError: for one of another number of blocks.
    """
    if len(a.blocks) != sum(c.stages):
        raise UserError(f"architecture: {len(a.blocks)} blocks; allowed: {sum(c.stages)}, as the space's fields say")
    return {BLOCKS: np.array([np.isin(OPERATIONS, block) for block in a.blocks], np.float32)}


def decode(choice: Mapping[str, Any]) -> Mobile:
    """The operations with a factor greater than 0; of a block without any the one of the largest."""

    def block(row: np.ndarray) -> tuple[str, ...]:
        left = tuple(name for name, factor in zip(OPERATIONS, row, strict=True) if factor > 0)
        return left or (OPERATIONS[int(row.argmax())],)

    return Mobile(tuple(map(block, np.asarray(choice[BLOCKS]))))


def settle(choice: Mapping[str, Any]) -> Mobile:
    """Of each block the operation of the largest factor; of equal ones the first."""
    return Mobile(tuple((OPERATIONS[column],) for column in np.asarray(choice[BLOCKS]).argmax(-1)))


def sample(c: Fields, generator: np.random.Generator) -> Mobile:
    """One operation in each block, drawn uniformly."""
    return Mobile(tuple((OPERATIONS[i],) for i in generator.integers(len(OPERATIONS), size=sum(c.stages))))


_LEAF = re.compile(r"(?:.*/)?block_(\d+)/(k\de\d)/.*")


def carried(c: Fields, tree: Any, live: Live, before: Live | None = None) -> Any:
    """What the program of `live` keeps of a tree of the program of `before` (None: of all operations): params,
    batch_stats, or what has the structure of one of them, such as momentum, scores or masks.

    Raises:
      ValueError: if something in `live` was not in `before`, or if a shape is wrong.
    """
    now = decode(living_parts.smaller(live, before, choices(c))[0])

    def pieces(path: str, leaf: Any) -> dict[str, Any] | None:
        found = _LEAF.fullmatch(path)
        return None if found is None or found[2] in now.blocks[int(found[1])] else {}

    return living_parts.carried(tree, pieces)


def costs(c: Fields, outputs: Outputs) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """What operations cost: all the same; or by their latency, where there is a table. The last of a block: 0."""

    def several(factors: Any) -> Any:
        return ((factors > 0).sum(-1, keepdims=True) > 1).astype(factors.dtype)

    def uniform(choice: Mapping[str, Any]) -> dict[str, Any]:
        factors = choice[BLOCKS]
        return {BLOCKS: jnp.broadcast_to(several(factors), factors.shape)}

    if not c.latency:
        return {"uniform": uniform}
    table = latencies.read(c.latency)
    own = places(sizes_of(c, outputs), table.image[:2])
    times = np.array([[table.entries.get(key(name, place), np.nan) for name in OPERATIONS] for place in own])

    def latency(choice: Mapping[str, Any]) -> dict[str, Any]:
        factors = choice[BLOCKS]
        found = latencies.penalties(jnp.asarray(times, factors.dtype), factors > 0)
        return {BLOCKS: found * several(factors)}

    return {"uniform": uniform, "latency": latency}


def key(operation: str, place: Place) -> str:
    """`"k3e6, 24→32 channels, 112×112, stride 2"`."""
    (height, width), before, channels, stride, dilation = place
    holes = f", dilation {dilation}" if dilation > 1 else ""
    return f"{operation}, {before}→{channels} channels, {height}×{width}, stride {stride}{holes}"


def timed(c: Fields, outputs: Outputs, image_shape: tuple[int, int, int]) -> latencies.Timed:
    """What is measured: each operation at each of its places, 66 for the paper's 21 blocks."""
    own = places(sizes_of(c, outputs), image_shape[:2])

    def part(operation: str, place: Place) -> latencies.Part:
        (height, width), before, channels, stride, dilation = place

        def make(norm: layers.Norm, name: str) -> Operation:
            return Operation(operation, channels, stride, norm, norm, dilation, name=name)

        return latencies.Part(make, (before, height, width), stride == 1 and before == channels)

    def uses(a: Mobile) -> Mapping[str, int]:
        return Counter(key(name, place) for block, place in zip(a.blocks, own, strict=True) for name in block)

    return latencies.Timed({key(name, place): part(name, place) for place in own for name in OPERATIONS}, uses)


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any, live: Live | None = None) -> Space:
    """The space that a configuration describes."""
    return mobile(c, outputs, average, dtype, live)
