"""The search space of DSO-NAS: blocks with a factor λ on every connection, shared by all blocks or not. Source: Zhang
et al., TPAMI 2020, Section 3; what the paper leaves open is as in its published code.

A choice holds the factors themselves: {"block": [targets, sources]} of the one shared block, or "block 0", "block 1", …
of each, and "reductions" [reductions, branches]. Entries without a connection have no meaning.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import numpy as np

from dass_jax import variables
from dass_jax.architectures.dso import (
    BRANCHES,
    MOST_LEVELS,
    MOST_OPERATIONS,
    OUT,
    Blocks,
    Connections,
    connections,
    living,
    placed,
    swept,
    targets,
    whole,
)
from dass_jax.errors import UserError
from dass_jax.nn import layers
from dass_jax.nn.initial import NORMAL
from dass_jax.nn.level_blocks import EPSILON, Block, Reduction, Sizes, columns, module_of, staged
from dass_jax.schema import CountOrZero, Range
from dass_jax.spaces import dso_latency, latencies
from dass_jax.spaces import live as living_parts
from dass_jax.spaces.dso_costs import COSTS, REDUCTIONS
from dass_jax.spaces.live import Live
from dass_jax.spaces.space import Choice, Space, of_module
from dass_jax.tasks import Outputs

RULES: variables.Rules = ((r".*/weight", 0), (r".*/(scale|bias)", None))


@dataclasses.dataclass(frozen=True)
class Fields:
    """Blocks of levels of operations, whose connections are to be pruned."""

    scope: Literal["share", "full"] = "share"
    """`share`: all blocks have the connections of one; `full`: each its own."""
    levels: Annotated[int, Range(1, MOST_LEVELS)] = 4
    """Levels of a block (M)."""
    operations: tuple[Literal["sep3", "sep5", "sep7", "max3", "avg3"], ...] = ("sep3", "sep5", "max3", "avg3")
    """Operations of each level (N of them)."""
    stages: tuple[Annotated[int, Range(1, 100)], ...] = (8, 8, 8)
    """Blocks of each stage of the supernet. ImageNet: 2 2 13 6."""
    channels: Annotated[int, Range(1, 4096)] = 48
    """Channels of the supernet's first stage (C); each stage has twice as many as the one before. ImageNet: 28."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (two, each of stride 2)."""
    random_connections: CountOrZero = 0
    """Connections of a block that is drawn at random, a control: as many as a search has left, within 10 per cent after
    sweeping. 0: half of them."""
    latency: latencies.Path = ""
    """A table of milliseconds on the device for which is searched, for `method.budget` = "latency"."""
    remat: bool = False
    """Recompute each block in the backward pass: about a third more time for a fraction of the memory."""


def check(c: Fields) -> None:
    """Raises UserError for fields that do not go together."""
    for name in ("operations", "stages"):
        if not getattr(c, name):
            raise UserError(f"space.{name} = (); allowed: at least one")
    if len(c.operations) > MOST_OPERATIONS:
        raise UserError(f"space.operations = {len(c.operations)} of them; allowed: at most {MOST_OPERATIONS}")
    if c.stem == "imagenet" and c.channels % 2:
        raise UserError(f"space.channels = {c.channels}; allowed: an even number, as the imagenet stem halves it")


def fits(c: Fields, outputs: Outputs, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if the table of latencies is not for images [H, W, C] and these sizes."""
    if c.latency:
        latencies.check(c.latency, image_shape, dso_latency.timed(c, outputs, image_shape).parts)


def names(c: Fields) -> tuple[str, ...]:
    """The matrices of the blocks."""
    return ("block",) if c.scope == "share" else tuple(f"block {number}" for number in range(sum(c.stages)))


def choices(c: Fields) -> dict[str, Choice]:
    """What rows and columns are called."""
    sizes = c.levels, len(c.operations)
    found = {name: Choice(name, targets(*sizes), columns(*sizes)) for name in names(c)}
    reductions = tuple(f"reduction {stage}" for stage in range(len(c.stages) - 1))
    return {**found, **({REDUCTIONS: Choice("reductions", reductions, BRANCHES)} if reductions else {})}


class Supernet(nn.Module):
    """The network of all living connections."""

    fields: Fields
    live: Blocks
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: dict[str, jax.Array], train: bool) -> jax.Array:
        c, live = self.fields, self.live
        x = x if self.dtype is None else x.astype(self.dtype)
        free = layers.batch_norm(train, affine=True, average=self.average, epsilon=EPSILON)
        fixed = functools.partial(free, scaled=False)
        make = nn.remat(Block) if c.remat else Block

        def block(number: int, first: bool, dilation: int) -> Any:
            own = 0 if c.scope == "share" else number
            of_all, name = (c.operations, c.levels), f"block_{number}"
            module = make(*of_all, live.blocks[own], first, fixed, free, dilation, name=name)
            return lambda x: module(x, choice[names(c)[own]])

        def reduction(number: int, stride: int) -> Any:
            branches = live.reductions[number]
            module = Reduction(branches, fixed, stride, name=f"reduction_{number}")
            own = [BRANCHES.index(branch) for branch in branches]
            return lambda x: module(x, choice[REDUCTIONS][number, np.array(own)])

        return staged(x, Sizes(self.outputs, c.stages, c.channels, c.stem), free, block, reduction)


def dso(
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
      live: {matrix: bool [targets, sources]}, the connections that are part of the program; None: all. Those that are
        on no way through their block, and operations without connections, have no variables and cost nothing.

    Raises:
      ValueError: if `live` does not have the names and shapes of the choices.
    """
    labels = choices(c)
    left = decode(c, living_parts.checked(live, labels))
    init, apply = of_module(Supernet(c, left, outputs, average, dtype), labels, RULES, NORMAL)
    derive = functools.partial(decode, c)
    return Space(
        init=init,
        apply=apply,
        encode=functools.partial(encode, c),
        decode=derive,
        settle=derive,
        sample=functools.partial(sample, c),
        choices=labels,
        rules=RULES,
        carried=functools.partial(carried, c),
        whole=everything(c),
        costs=costs(c, outputs),
    )


def costs(c: Fields, outputs: Outputs) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """What connections cost, by the names of `method.budget`; latency only with a table."""
    found: dict[str, Any] = {name: functools.partial(cost, c) for name, cost in COSTS.items()}
    return found | ({"latency": dso_latency.cost(c, outputs)} if c.latency else {})


def everything(c: Fields) -> Blocks:
    """The architecture of all connections."""
    return whole(c.scope, c.levels, c.operations, sum(c.stages), len(c.stages) - 1)


def encode(c: Fields, a: Blocks) -> dict[str, np.ndarray]:
    """Factors float32: 1 for each connection of an architecture. One of scope `share` has them in every block, and is
    `placed` in the space's stages.

    Raises:
      UserError: for an architecture with other levels or operations than the space has, or other blocks or reductions
        in scope `full`.
    """
    a = placed(a, len(c.stages) - 1)
    blocks = a.blocks * len(names(c)) if a.scope == "share" else a.blocks
    sizes = a.levels, a.operations, len(blocks), len(a.reductions)
    wanted = c.levels, c.operations, len(names(c)), len(c.stages) - 1
    for what, own, other in zip(("levels", "operations", "blocks", "reductions"), wanted, sizes, strict=True):
        if own != other:
            raise UserError(f"architecture: {what} = {other}; allowed: {own}, as the space's fields say")
    rows, named = targets(c.levels, len(c.operations)), columns(c.levels, len(c.operations))
    found = {name: np.zeros(choice.shape, np.float32) for name, choice in choices(c).items()}
    for name, block in zip(names(c), blocks, strict=True):
        for source, target in block:
            found[name][rows.index(target), named.index(source)] = 1
    for number, branches in enumerate(a.reductions):
        found[REDUCTIONS][number, [BRANCHES.index(branch) for branch in branches]] = 1
    return found


def decode(c: Fields, choice: Mapping[str, Any]) -> Blocks:
    """Of all connections with a factor greater than 0 those on a way through their block; of a reduction whose branches
    are both 0 the larger, of two that are equal 3×3."""
    sizes = c.levels, len(c.operations)
    rows, named = targets(*sizes), columns(*sizes)

    def block(matrix: np.ndarray) -> Connections:
        left = ((s, t) for s, t in connections(*sizes) if matrix[rows.index(t), named.index(s)] > 0)
        return swept(left, *sizes)

    def branches(row: np.ndarray) -> tuple[str, ...]:
        left = tuple(name for name, factor in zip(BRANCHES, row, strict=True) if factor > 0)
        return left or (BRANCHES[int(row[0] <= row[1])],)

    reductions = np.asarray(choice[REDUCTIONS]) if REDUCTIONS in choice else ()
    found = tuple(block(np.asarray(choice[name])) for name in names(c))
    return Blocks(c.scope, *sizes[:1], c.operations, found, tuple(map(branches, reductions)))


TRIES = 1000
NEAR = 0.1


def sample(c: Fields, generator: np.random.Generator) -> Blocks:
    """An architecture with the given number of connections, drawn uniformly and swept, and all reductions.

    Of a thousand draws the first one that has within 10 per cent of that number left after sweeping, else the nearest.
    """
    sizes = c.levels, len(c.operations)
    every = connections(*sizes)
    wanted = min(c.random_connections, len(every)) or len(every) // 2

    def block() -> Connections:
        nearest: Connections = ()
        for _ in range(TRIES):
            drawn = generator.choice(len(every), size=wanted, replace=False)
            found = swept((every[i] for i in drawn), *sizes)
            if abs(len(found) - wanted) < abs(len(nearest) - wanted) or not nearest:
                nearest = found
            if abs(len(nearest) - wanted) <= NEAR * wanted:
                break
        return nearest

    return everything(c)._replace(blocks=tuple(block() for _ in names(c)))


_LEAF = re.compile(r"(?:.*/)?(?:block_(\d+)/(op_\w+|outputs|norm)|reduction_(\d+)/conv_(\w+))/.*")
"""Block and part, or reduction and branch."""


def carried(c: Fields, tree: Any, live: Live, before: Live | None = None) -> Any:
    """What the program of `live` keeps of a tree of the program of `before` (None: of all connections): params,
    batch_stats, or what has the structure of one of them, such as momentum, scores or masks.

    Raises:
      ValueError: if something in `live` was not in `before`, or if a shape is wrong.
    """
    now, then = (decode(c, each) for each in living_parts.smaller(live, before, choices(c)))

    def pieces(path: str, leaf: Any) -> dict[str, Any] | None:
        found = _LEAF.fullmatch(path)
        if found is None:
            return None
        if found[3]:
            return None if found[4] in now.reductions[int(found[3])] else {}
        own, old = (a.blocks[0 if c.scope == "share" else int(found[1])] for a in (now, then))
        ends, earlier = ([source for source, target in block if target == OUT] for block in (own, old))
        if found[2].startswith("op_"):
            return None if found[2] in map(module_of, living(own)) else {}
        if not ends:
            return {}
        if found[2] == "norm":
            return None
        parts = leaf.reshape(len(leaf), len(earlier), -1)
        kept = parts[:, np.array([source in ends for source in earlier])]
        return {path: kept.reshape(len(leaf), -1)}

    return living_parts.carried(tree, pieces)


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any, live: Live | None = None) -> Space:
    """The space that a configuration describes."""
    return dso(c, outputs, average, dtype, live)
