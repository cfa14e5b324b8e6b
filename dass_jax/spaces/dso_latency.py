"""Latency in the penalty of DSO-NAS' connections (Zhang et al., TPAMI 2020, Section 3.4, Eq. 19), by a table of parts.

What the network loses without a connection is what leaves with it, after sweeping: its 1×1 convolution, if it leads to
the output, and every operation that is on no way any more. Sums have no entry: they are passes over memory that
compilers merge.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.architectures.dso import OUT, Blocks, living
from dass_jax.nn.heads import Scale, halved
from dass_jax.nn.layers import Norm, SparseConv
from dass_jax.nn.level_blocks import Operation, Sizes, stride_of
from dass_jax.spaces import latencies
from dass_jax.spaces.dso_costs import REDUCTIONS, of_branches
from dass_jax.tasks import Outputs

END = "output"
"""A connection to the block's output: a 1×1 convolution."""


class Stage(NamedTuple):
    """Where blocks are."""

    blocks: int
    channels: int
    size: tuple[int, int]
    """(H, W)."""
    dilation: int


def stages(c: Any, outputs: Outputs, image: tuple[int, int]) -> tuple[Stage, ...]:
    """Of the space's supernet, for images of (H, W)."""
    sizes, found = Sizes(outputs, c.stages, c.channels, c.stem), []
    at, channels = Scale(stride_of(sizes.stem)), sizes.channels
    for blocks in sizes.stages:
        height, width = (-(-side // at.stride) for side in image)
        found.append(Stage(blocks, channels, (height, width), at.dilation))
        at, channels = halved(sizes.outputs, at), 2 * channels
    return tuple(found)


def key(part: str, stage: Stage) -> str:
    """`"sep3, 48 channels, 32×32"`."""
    holes = f", dilation {stage.dilation}" if stage.dilation > 1 else ""
    return f"{part}, {stage.channels} channels, {stage.size[0]}×{stage.size[1]}{holes}"


def timed(c: Any, outputs: Outputs, image_shape: tuple[int, int, int]) -> latencies.Timed:
    """What is measured: each kind of operation, and a connection to the output, in each stage."""
    own = stages(c, outputs, image_shape[:2])
    of_block = [stage for stage in own for _ in range(stage.blocks)]

    def part(name: str, stage: Stage) -> latencies.Part:
        def make(norm: Norm, called: str) -> Any:
            if name == END:
                return SparseConv(stage.channels, name=called)
            return Operation(name, norm, stage.dilation, name=called)

        return latencies.Part(make, (stage.channels, *stage.size), True)

    def uses(a: Blocks) -> Mapping[str, int]:
        blocks, found = a.blocks * (len(of_block) // len(a.blocks)), Counter[str]()
        for block, stage in zip(blocks, of_block, strict=True):
            found.update(key(a.operations[int(node.split(".")[1])], stage) for node in living(block))
            found[key(END, stage)] += sum(target == OUT for _, target in block)
        return found

    names = (*dict.fromkeys(c.operations), END)
    return latencies.Timed({key(name, stage): part(name, stage) for stage in own for name in names}, uses)


def total(live: jax.Array, levels: int, operations: jax.Array, end: Any) -> jax.Array:
    """Milliseconds of what sweeping leaves of a block.

    Args:
      live: bool [targets, sources].
      operations: milliseconds of each operation of a level [N], and `end` of a connection to the output.
    """
    number = len(operations)
    reached = jnp.ones(1 + number, bool)  # the block's input and the first level
    for level in range(2, levels + 1):
        rows = live[(level - 2) * number : (level - 1) * number, : len(reached)]
        reached = jnp.concatenate([reached, (rows & reached).any(-1)])
    useful = [live[-1, 1 + (levels - 1) * number :]]  # of the last level
    for level in range(levels - 1, 0, -1):
        columns = slice(1 + (level - 1) * number, 1 + level * number)
        later = live[(level - 1) * number : -1, columns] & jnp.concatenate(useful)[:, None]
        useful.insert(0, live[-1, columns] | later.any(0))
    there = reached[1:] & jnp.concatenate(useful)
    spent: jax.Array = there.reshape(levels, number).sum(0) @ operations + (there & live[-1, 1:]).sum() * end
    return spent


def saved(live: jax.Array, levels: int, operations: jax.Array, end: Any) -> jax.Array:
    """What a block loses without each connection, milliseconds of the shape of `live`, see `total`."""
    without = live & ~np.eye(live.size, dtype=bool).reshape(live.size, *live.shape)
    left = jax.vmap(lambda one: total(one, levels, operations, end))(without)
    return (total(live, levels, operations, end) - left).reshape(live.shape)


def cost(c: Any, outputs: Outputs) -> Callable[[Any], dict[str, Any]]:
    """The factors of γ by the table that the fields name; of reductions as without. Raises UserError."""
    table = latencies.read(c.latency)
    own = stages(c, outputs, table.image[:2])
    times = np.array(
        [[table.entries.get(key(name, stage), np.nan) for name in (*c.operations, END)] for stage in own]
    ).repeat([stage.blocks for stage in own], axis=0)
    times = times.sum(0, keepdims=True) if c.scope == "share" else times

    def latency(choice: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name in choice if name != REDUCTIONS]
        factors = jnp.stack([choice[name] for name in names])
        ms = jnp.asarray(times, factors.dtype)
        lost = jax.vmap(lambda live, one: saved(live, c.levels, one[:-1], one[-1]))(factors > 0, ms)
        found = dict(zip(names, latencies.penalties(lost, factors > 0), strict=True))
        return {name: found[name] if name in found else of_branches(matrix) for name, matrix in choice.items()}

    return latency
