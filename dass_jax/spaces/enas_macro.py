"""ENAS' space of whole networks (arXiv 1802.03268 Section 2.3; the authors' code, as published), with shared weights.

A choice is integers, and they are data: one program serves all architectures, and of a layer's operations only the
chosen one is computed. The operations of a layer have weights of their own. Skip connections are added, as in the
published search (the paper joins them): a layer puts out BN of its operation plus the chosen maps, and layer 0 without.

Batch normalisation always uses the batch's statistics: running ones would be mixed over all architectures.
"""

import dataclasses
import functools
import operator
import re
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.enas_macro import OPERATIONS, Arc, map_name, pools
from dass_jax.nn import kernels, layers
from dass_jax.nn.choosing import chosen
from dass_jax.nn.heads import head
from dass_jax.nn.initial import HE_NORMAL
from dass_jax.nn.kernels import relu
from dass_jax.nn.precision import widened
from dass_jax.policies import enas_macro as policies
from dass_jax.policies.enas_macro import OPERATIONS as CHOSEN
from dass_jax.policies.enas_macro import SKIPS
from dass_jax.schema import Range
from dass_jax.spaces.space import Choice, Sampled, Space, of_module, uniform
from dass_jax.tasks import Outputs

RULES: variables.Rules = (
    (r".*/factorized/weight", 2),
    (r"stage_\d/.*/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)
EPSILON = 1e-3
"""Of the BN after a convolution, as the published code has it; elsewhere 1e-5."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Networks of layers with any operation each and any skip connections; all maps are halved twice."""

    layers: Annotated[int, Range(3, 100)] = 12
    """Layers (L)."""
    channels: Annotated[int, Range(2, 4096)] = 36
    """Channels of all maps (C), an even number."""


class Layers(NamedTuple):
    """A layer of a stage, or all of them with a leading axis."""

    number: Any
    """In the network."""
    operation: Any
    bits: Any
    """[maps], 0 for those that come later."""
    weights: Any
    """Of all operations, by their names."""
    affine: Any
    """Of the BN after the sum."""
    target: Any
    """The map that it makes."""


def operated(average: layers.Average, x: jax.Array, index: Any, weights: Any) -> jax.Array:
    """The operation of that number (see `chosen`), with its own 1×1 convolution before it: x [C, H, W, N] → the same
    shape.

    Three steps, as the way back works out anew what a choice has not handed on: the 1×1 convolution is no choice, as
    all operations have one, and of a convolution only its input is wanted again, and not its result.
    """

    def before(operation: str) -> tuple[jax.Array, Any]:
        return weights[operation]["inputs"], weights[operation]["norm_inputs"]

    def convolved(operation: str, x: jax.Array, weights: Any) -> jax.Array:
        if operation.endswith("pool_3x3"):
            return kernels.avg_pool(x) if operation.startswith("avg") else kernels.max_pool(x)
        own = weights[operation]
        if operation.startswith("sep"):
            return kernels.pointwise(kernels.depthwise(x, own["kernel"]), own["pointwise"])
        return kernels.convolution(x, own["kernel"], padding=own["kernel"].shape[-1] // 2)

    def after(operation: str, x: jax.Array, weights: Any) -> jax.Array:
        if operation.endswith("pool_3x3"):
            return x
        return relu(kernels.normalised(x, weights[operation]["norm"], average, EPSILON)[0])

    if isinstance(index, int):
        inputs, affine = before(OPERATIONS[index])
    else:
        inputs, affine = jax.tree.map(lambda *each: jnp.stack(each)[index], *map(before, OPERATIONS))
    x = relu(kernels.normalised(kernels.pointwise(x, inputs), affine, average, layers.BatchNorm.epsilon)[0])
    for part in (convolved, after):
        x = chosen([functools.partial(part, operation) for operation in OPERATIONS], index, x, weights)
    return x


def layer_of(average: layers.Average, maps: Any, own: Layers) -> jax.Array:
    """What a layer puts out, of maps [maps, C, H, W, N]."""
    y = operated(average, maps[own.number], own.operation, own.weights)
    if isinstance(own.operation, int):
        if not own.number:
            return y
        total = functools.reduce(jnp.add, (maps[j] for j, bit in enumerate(own.bits) if bit), widened(y))
        return kernels.normalised(total.astype(y.dtype), own.affine, average, layers.BatchNorm.epsilon)[0]
    joined = widened(y) + jnp.tensordot(own.bits.astype(widened(y).dtype), widened(maps), 1)
    normalised = kernels.normalised(joined.astype(y.dtype), own.affine, average, layers.BatchNorm.epsilon)[0]
    return jnp.where(own.number > 0, normalised, y)


class Stage(nn.Module):
    """Layers between two halvings: maps [maps so far, C, H, W, N] → [all maps, C, H, W, N].

    A loop over its layers, so that it compiles like one of them; layers of plain numbers are not.
    """

    first: int
    """Number of its first layer."""
    count: int
    average: layers.Average

    @nn.compact
    def __call__(self, maps: jax.Array, operations: Any, rows: Any) -> jax.Array:
        """operations: of its layers, rows [its layers, maps]: their bits."""
        numbers = range(self.first, self.first + self.count)
        average = layers.one_device if self.is_initializing() else self.average
        weights, affine = self._weights(maps.shape[1]), self._norms(maps.shape[1])
        nothing = jnp.zeros((self.count, *maps.shape[1:]), maps.dtype)
        if isinstance(operations, tuple):
            found = list(maps)
            for place, number in enumerate(numbers):
                own, scale = (jax.tree.map(operator.itemgetter(place), leaves) for leaves in (weights, affine))
                found.append(
                    layer_of(average, found, Layers(number, operations[place], rows[place], own, scale, number + 1))
                )
            return jnp.stack(found)

        def step(maps: jax.Array, own: Layers) -> tuple[jax.Array, None]:
            return maps.at[own.target].set(layer_of(average, maps, own)), None

        each = jnp.asarray(numbers)
        xs = Layers(each, jnp.asarray(operations), jnp.asarray(rows), weights, affine, each + 1)
        return jax.lax.scan(step, jnp.concatenate([maps, nothing]), xs)[0]

    def _weights(self, channels: int) -> dict[str, dict[str, Any]]:
        """Of all operations of all layers."""
        found: dict[str, dict[str, Any]] = {}
        for name in OPERATIONS:
            k, square = int(name[-1]), (self.count, channels, channels)
            own: dict[str, Any] = {"inputs": layers.SparseWeight(square, name=f"{name}_inputs")()}
            own["norm_inputs"] = layers.ScaleAndBias(square[:2], name=f"{name}_norm_inputs")()
            if "conv" in name:
                window = square[:2] if name.startswith("sep") else square
                own["kernel"] = layers.SparseWeight((*window, k, k), name=f"{name}_kernel")()
                own["norm"] = layers.ScaleAndBias(square[:2], name=f"{name}_norm")()
            if name.startswith("sep"):
                own["pointwise"] = layers.SparseWeight(square, name=f"{name}_pointwise")()
            found[name] = own
        return found

    def _norms(self, channels: int) -> Any:
        """Of the BN after the sum: the network's first layer has none, and gets zeros, which it does not use."""
        missing, nothing = int(self.first == 0), jnp.zeros((0, channels))
        rows = self.count - missing
        found = layers.ScaleAndBias((rows, channels), name="norms")() if rows else (nothing, nothing)
        return jax.tree.map(lambda leaf: jnp.pad(leaf, ((missing, 0), (0, 0))), found)


class Halving(nn.Module):
    """A factorized reduction of each map by itself, without ReLU: [maps, C, H, W, N] → [maps, C, H/2, W/2, N]."""

    average: layers.Average

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        count, channels = maps.shape[:2]
        weight = layers.SparseWeight((count, 2, channels // 2, channels), name="factorized")()
        affine = layers.ScaleAndBias((count, channels), name="norms")()
        y = kernels.pointwise(kernels.shifted_pair(maps), weight)
        average = layers.one_device if self.is_initializing() else self.average
        y = y.reshape(count, channels, *y.shape[-3:])
        return kernels.normalised(y, affine, average, layers.BatchNorm.epsilon)[0]


class Supernet(nn.Module):
    """The network of all architectures."""

    sizes: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: Any, train: bool) -> jax.Array:
        size = x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(True, affine=True, average=self.average, running=False)
        maps = layers.ConvNorm(self.sizes.channels, norm, 3, name="stem")(x)[None]
        for number, (first, end) in enumerate(stages(self.sizes.layers)):
            if number:
                maps = Halving(self.average, name=f"halving_{number}")(maps)
            each = [row_of(choice[SKIPS], layer, end + 1) for layer in range(first, end)]
            rows = each if isinstance(choice[SKIPS], tuple) else jnp.stack(each)
            stage = Stage(first, end - first, self.average, name=f"stage_{number}")
            maps = stage(maps, choice[CHOSEN][first:end], rows)
        return head(self.outputs, norm, size, bias=False)(maps[-1])


def stages(count: int) -> list[tuple[int, int]]:
    """(first layer, layer after the last) between the halvings."""
    ends = [*(pool + 1 for pool in pools(count)), count]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def row_of(bits: Any, layer: int, count: int) -> Any:
    """A layer's bits, filled up with zeros to `count` maps."""
    own = bits[layer * (layer - 1) // 2 :][:layer]
    if isinstance(bits, tuple):
        return own
    return jnp.zeros(count, jnp.int32).at[:layer].set(own)


def choices(count: int) -> dict[str, Choice]:
    """Of so many layers."""
    pairs = [(layer, j) for layer in range(count) for j in range(layer)]
    rows = tuple(f"{map_name(j)} → {map_name(layer + 1)}" for layer, j in pairs)
    grid = tuple((layer - 1, j) for layer, j in pairs)
    names = tuple(map_name(layer + 1) for layer in range(count))
    return {
        CHOSEN: Choice("operations", names, OPERATIONS, allowed=(len(OPERATIONS),) * count),
        SKIPS: Choice("skip connections", rows, ("none", "skip"), grid, (2,) * len(rows)),
    }


def encode(arc: Arc) -> dict[str, np.ndarray]:
    """The choice of an architecture."""
    bits = [bit for row in arc.skips for bit in row]
    return {CHOSEN: np.array(arc.operations, np.int32), SKIPS: np.array(bits, np.int32)}


def decode(choice: Any) -> Arc:
    """The architecture of a choice."""
    operations, bits = (tuple(np.asarray(choice[name]).tolist()) for name in (CHOSEN, SKIPS))
    return Arc(operations, tuple(bits[n * (n - 1) // 2 :][:n] for n in range(len(operations))))


def moving(params: Any, choice: Any) -> Any:
    """Of each leaf whether it is part of the network of a choice: not the operations that are not chosen, and not the
    reductions of maps that nothing reads later."""
    read, bounds = read_later(choice), stages(len(choice[CHOSEN]))

    def of(path: str) -> Any:
        if found := re.match(r"stage_(\d+)/(\w+?_\dx\d)_", path):
            first, end = bounds[int(found[1])]
            return jnp.asarray(choice[CHOSEN][first:end]) == OPERATIONS.index(found[2])
        if found := re.match(r"halving_(\d+)/", path):
            return jnp.stack(read[bounds[int(found[1])][0] - 1])
        return jnp.asarray(True)

    return variables.unflatten({path: of(path) for path in variables.flatten(params)})


def read_later(choice: Any) -> dict[int, list[Any]]:
    """For each layer with a pool after it, and each map there is by then, whether a later layer reads it."""
    count = len(choice[CHOSEN])
    found: dict[int, list[Any]] = {}
    for pool in pools(count)[::-1]:
        after = min(found, default=None)
        maps = [jnp.asarray(index == pool + 1) for index in range(pool + 2)]
        for index in range(pool + 2):
            for layer in range(pool + 1, count if after is None else after + 1):
                maps[index] |= (choice[SKIPS][layer * (layer - 1) // 2 + index] > 0) if index < layer else False
            maps[index] |= found[after][index] if after is not None else False
        found[pool] = maps
    return found


def enas_macro(
    sizes: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None
) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and outputs are float32 at least.
    """
    labels = choices(sizes.layers)
    init, apply = of_module(Supernet(sizes, outputs, average, dtype), labels, RULES, HE_NORMAL)
    draw = uniform(labels)
    return Space(
        init=init,
        apply=apply,
        encode=encode,
        decode=decode,
        sample=lambda generator: decode(draw.host(generator)),
        choices=labels,
        rules=RULES,
        settle=decode,
        sampled=Sampled(policies.policy(sizes.layers, len(OPERATIONS)), draw.traced, moving),
    )


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any) -> Space:
    """The space that a configuration describes."""
    return enas_macro(c, outputs, average, dtype)


def check(c: Fields) -> None:
    """Raises UserError if the channels do not halve."""
    layers.check_even("space", c.channels)
