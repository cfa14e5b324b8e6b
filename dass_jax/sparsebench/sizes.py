"""What a cell keeps of its weights: the counts of its own network, laid out as the network of any cell has its layers.
On the host, in NumPy."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import accounting, sparsity, variables
from dass_jax.sparsebench.spaces import Space
from dass_jax.sparsebench.training import Kept
from dass_jax.variables import PARAMS


class Skeleton(NamedTuple):
    """The network of all cells, as shapes."""

    params: Any
    stacks: Any
    uses: Mapping[str, int]
    """Leaf → how often each of its weights is used for an image."""
    derived_of: Callable[[str, Any], dict[int | None, str]]
    """See `Space`."""


class Size(NamedTuple):
    """Of a network."""

    weights: int
    """Prunable ones."""
    macs: int
    """Multiply-accumulates for one image."""


def skeleton(space: Space, classes: int, image_shape: tuple[int, int, int]) -> Skeleton:
    """That of the space's network, for images [H, W, C]."""
    cell, _ = space.order.at(0)
    net = space.model(classes, space.numbers(cell))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image_shape))
    height, width, channels = image_shape

    def forward() -> Any:
        v = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return net.apply(v[PARAMS], v[variables.BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    uses = accounting.macs_per_weight(shapes[PARAMS], net.rules, forward)
    return Skeleton(shapes[PARAMS], variables.prunable(shapes[PARAMS], net.rules), uses, space.derived_of)


def kept(whole: Skeleton, cell: Any, keep: float, distribution: sparsity.Distribution) -> Kept:
    """What a cell's network keeps at the fraction `keep`; layers that it does not have keep nothing."""
    leaves, stacks = variables.flatten(whole.params), variables.flatten(whole.stacks)
    derived, derived_stacks, places = {}, {}, {}
    for path, stack in stacks.items():
        leaf = leaves[path]
        for edge, name in whole.derived_of(path, cell).items():
            axes = int(edge is not None)
            derived[name] = jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype)
            derived_stacks[name], places[name] = stack - axes, (path, edge)
    unlaid = variables.unflatten(derived), variables.unflatten(derived_stacks)
    counts = sparsity.kept_counts(*unlaid, keep, distribution)
    layers = {path: np.zeros(leaves[path].shape, np.float32) for path in stacks}
    for path, edge in places.values():
        layers[path][... if edge is None else edge] = 1
    if isinstance(counts, sparsity.Pooled):
        return Kept(variables.unflatten(layers), counts)
    own = variables.flatten(counts)
    laid = {path: np.zeros(leaves[path].shape[:stack], np.int32) for path, stack in stacks.items()}
    for name, (path, edge) in places.items():
        place = ... if edge is None else edge
        laid[path][place] = own[name].reshape(np.shape(laid[path][place]))
    return Kept(variables.unflatten(layers), variables.unflatten({path: each.ravel() for path, each in laid.items()}))


def layers(whole: Skeleton, cell: Any) -> int:
    """How many prunable layers a cell's network has."""
    shapes, stacks = variables.flatten(whole.params), variables.flatten(whole.stacks)
    own = [(path, edge) for path in stacks for edge in whole.derived_of(path, cell)]
    return sum(math.prod(shapes[path].shape[int(edge is not None) : stacks[path]]) for path, edge in own)


def size(whole: Skeleton, masks: Any) -> Size:
    """Of the network with the weights that masks keep."""
    counts = {path: int(np.count_nonzero(mask)) for path, mask in variables.flatten(masks).items()}
    return Size(sum(counts.values()), sum(whole.uses[path] * count for path, count in counts.items()))
