"""What a cell keeps of its weights: the counts of its derived network, laid out as `networks.any_cell` has its layers.
On the host, in NumPy."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import accounting, sparsity, variables
from dass_jax.architectures.nasbench201 import EDGES, Cell
from dass_jax.networks.any_cell import RULES, any_cell
from dass_jax.nn.skeletons import Sizes
from dass_jax.sparsebench.training import Kept
from dass_jax.variables import PARAMS


class Skeleton(NamedTuple):
    """The network of all cells, as shapes."""

    params: Any
    stacks: Any
    uses: Mapping[str, int]
    """Leaf → how often each of its weights is used for an image."""


class Size(NamedTuple):
    """Of a network."""

    weights: int
    """Prunable ones."""
    macs: int
    """Multiply-accumulates for one image."""


def skeleton(sizes: Sizes, image_shape: tuple[int, int, int]) -> Skeleton:
    """That of the given sizes, for images [H, W, C]."""
    net = any_cell(sizes, np.zeros(len(EDGES), np.int32))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image_shape))
    height, width, channels = image_shape

    def forward() -> Any:
        v = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return net.apply(v[PARAMS], v[variables.BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    uses = accounting.macs_per_weight(shapes[PARAMS], RULES, forward)
    return Skeleton(shapes[PARAMS], variables.prunable(shapes[PARAMS], RULES), uses)


def kept(whole: Skeleton, cell: Cell, keep: float, distribution: sparsity.Distribution) -> Kept:
    """What a cell's network keeps at the fraction `keep`; layers of edges with other operations keep nothing."""
    derived, places = {}, {}
    for path, leaf in variables.flatten(variables.select(whole.params, whole.stacks)).items():
        for edge, name in derived_of(path, cell).items():
            shape = leaf.shape if edge is None else leaf.shape[1:]
            derived[name], places[name] = jax.ShapeDtypeStruct(shape, leaf.dtype), (path, edge)
    stacks = variables.unflatten(dict.fromkeys(derived, 0))
    counts = sparsity.kept_counts(variables.unflatten(derived), stacks, keep, distribution)
    layers = {path: np.zeros(leaf.shape, np.float32) for path, leaf in variables.flatten(whole.params).items()}
    layers = {path: layers[path] for path in whole.uses}
    for path, edge in places.values():
        layers[path][... if edge is None else edge] = 1
    if isinstance(counts, sparsity.Pooled):
        return Kept(variables.unflatten(layers), counts)
    own = variables.flatten(counts)
    laid = {path: np.zeros(len(EDGES) if _stacked(path) else 1, np.int32) for path in whole.uses}
    for name, (path, edge) in places.items():
        laid[path][0 if edge is None else edge] = own[name][0]
    return Kept(variables.unflatten(layers), variables.unflatten(laid))


def size(whole: Skeleton, masks: Any) -> Size:
    """Of the network with the weights that masks keep."""
    counts = {path: int(np.count_nonzero(mask)) for path, mask in variables.flatten(masks).items()}
    return Size(sum(counts.values()), sum(whole.uses[path] * count for path, count in counts.items()))


def derived_of(path: str, cell: Cell) -> dict[int | None, str]:
    """Edge → the leaf of the derived network that is this part of a leaf of weights; None: the whole leaf."""
    if not _stacked(path):
        return {None: path}
    own, operation, _ = path.split("/")
    return {
        edge: f"{own}/edge_{target}_{source}_{operation}/conv/conv/weight"
        for edge, (source, target) in enumerate(EDGES)
        if cell[edge] == operation
    }


def _stacked(path: str) -> bool:
    return re.fullmatch(r"cell_\d+/nor_conv_\dx\d/weight", path) is not None
