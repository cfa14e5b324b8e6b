"""ENAS' space of whole networks (arXiv 1802.03268 Section 2.3; the authors' code, as published), with shared weights.

A choice is integers, and they are data: one program serves all architectures, and of a layer's operations only the
chosen one is computed. The operations of a layer have weights of their own. Skip connections are added, as in the
published search (the paper joins them): a layer puts out BN of its operation plus the chosen maps, and layer 0 without.

Batch normalisation always uses the batch's statistics: running ones would be mixed over all architectures.
"""

import dataclasses
import functools
import re
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.architectures.enas_macro import OPERATIONS, Arc, map_name, pools
from dass_jax.nn import layers
from dass_jax.nn.choices import one_of
from dass_jax.nn.heads import Classifier
from dass_jax.nn.kernels import relu
from dass_jax.nn.precision import widened
from dass_jax.policies import enas_macro as policies
from dass_jax.policies.enas_macro import OPERATIONS as CHOSEN
from dass_jax.policies.enas_macro import SKIPS
from dass_jax.schema import Range
from dass_jax.spaces.space import Choice, Sampled, Space, of_module, uniform

RULES: variables.Rules = (
    (r".*/factorized/weight", 1),
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


class Operation(nn.Module):
    """One operation with its own 1×1 convolution before it: x [C, H, W, N] → the same shape."""

    operation: str
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, (kind, k) = x.shape[0], (self.operation.split("_")[0], int(self.operation[-1]))
        x = layers.ConvNorm(channels, self.norm, activation=relu, name="inputs")(x)
        if kind not in ("conv", "sep"):
            return layers.Pool(kind)(x)
        x = layers.SparseConv(channels, k, padding=k // 2, depthwise=kind == "sep", name="kernel")(x)
        if kind == "sep":
            x = layers.SparseConv(channels, name="pointwise")(x)
        return relu(self.norm(name="norm", epsilon=EPSILON)(x))


class Layer(nn.Module):
    """All operations of a layer, of which one is computed."""

    norm: layers.Norm

    def setup(self) -> None:
        for operation in OPERATIONS:
            setattr(self, operation, Operation(operation, self.norm))

    def __call__(self, x: jax.Array, index: Any) -> jax.Array:
        branches = [functools.partial(_branch, operation) for operation in OPERATIONS]
        return one_of(self, branches, index, x)


def _branch(operation: str, layer: Layer, x: jax.Array) -> jax.Array:
    found: jax.Array = getattr(layer, operation)(x)
    return found


class Supernet(nn.Module):
    """The network of all architectures."""

    sizes: Fields
    outputs: int
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: Any, train: bool) -> jax.Array:
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(True, affine=True, average=self.average, running=False)
        maps = [layers.ConvNorm(self.sizes.channels, norm, 3, name="stem")(x)]
        for layer in range(self.sizes.layers):
            y = Layer(norm, name=f"layer_{layer}")(maps[-1], choice[CHOSEN][layer])
            if layer:
                bits = choice[SKIPS][layer * (layer - 1) // 2 :][:layer]
                y = norm(name=f"norm_{layer}")(joined(y, bits, maps))
            maps.append(y)
            if layer in pools(self.sizes.layers):
                reduce = functools.partial(layers.FactorizedReduce, self.sizes.channels, norm, relu=False)
                maps = [reduce(name=f"pool_{layer}_{index}")(x) for index, x in enumerate(maps)]
        return Classifier(self.outputs, bias=False, name="head")(maps[-1])


def joined(y: jax.Array, bits: Any, maps: list[jax.Array]) -> jax.Array:
    """y plus the maps whose bit is 1; a bit that is a number and no array costs nothing if it is 0."""
    total = widened(y)
    for bit, x in zip(bits, maps, strict=False):
        if isinstance(bit, jax.Array | np.ndarray):
            total += x * bit.astype(total.dtype)
        elif bit:
            total += x
    return total.astype(y.dtype)


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
    read = read_later(choice)

    def of(path: str) -> Any:
        if found := re.match(r"layer_(\d+)/(\w+?)/", path):
            return choice[CHOSEN][int(found[1])] == OPERATIONS.index(found[2])
        if found := re.match(r"pool_(\d+)_(\d+)/", path):
            return read[int(found[1])][int(found[2])]
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


def enas_macro(sizes: Fields, outputs: int, average: layers.Average = layers.one_device, dtype: Any = None) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and outputs are float32 at least.
    """
    labels = choices(sizes.layers)
    init, apply = of_module(Supernet(sizes, outputs, average, dtype), labels, RULES, he_normal=True)
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


def from_fields(c: Fields, outputs: int, average: layers.Average, dtype: Any) -> Space:
    """The space that a configuration describes."""
    return enas_macro(c, outputs, average, dtype)


def check(c: Fields) -> None:
    """Raises UserError if the channels do not halve."""
    layers.check_even("space", c.channels)
