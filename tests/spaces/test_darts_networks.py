"""The supernet with the encoding of an architecture computes what its network does, on the weights that both share."""

import functools
import itertools
import re
from typing import Any

import chex
import jax
import numpy as np
import pytest

from dass_jax.architectures.darts import OPERATIONS, Cell, Genotype, connected, reductions
from dass_jax.networks import derived as networks
from dass_jax.networks.derived import DerivedCell, NetworkConfig, derived
from dass_jax.nn.layers import batch_norm
from dass_jax.nn.mixed import NORMS
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, unflatten

SIZES = SupernetConfig(classes=3, cells=3, channels=2, nodes=3)
"""A normal cell, then both reductions."""
IMAGE = (8, 8, 3)
EMPTY: Cell = ((), (), ())


def any_cell(seed: int) -> Cell:
    """Nodes with any number of edges, each with any operation, from connected nodes."""
    rng, cell = np.random.default_rng(seed), []
    for _ in range(SIZES.nodes):
        sources = [source for source in (0, 1, *connected(tuple(cell))) if rng.random() < 0.55]
        cell.append(tuple((OPERATIONS[rng.integers(len(OPERATIONS))], source) for source in sources))
    return tuple(cell)


FOUND = (
    Genotype(any_cell(36), any_cell(25)),
    Genotype(any_cell(33), any_cell(23)),
    Genotype(EMPTY, any_cell(17)),
)


def test_the_cells_have_every_operation_at_both_strides_and_nodes_with_0_to_4_edges() -> None:
    cells = [(reduces, cell) for genotype in FOUND for reduces, cell in enumerate(genotype)]
    used = {(name, reduces and source < 2) for reduces, cell in cells for node in cell for name, source in node}
    assert used == set(itertools.product(OPERATIONS, (False, True)))
    assert {len(node) for _, cell in cells for node in cell} == {0, 1, 2, 3, 4}


def test_settle_gives_back_what_was_encoded() -> None:
    space = darts(SIZES)
    assert all(space.settle(space.encode(genotype)) == genotype for genotype in FOUND)


_OF_NODE = re.compile(
    r"(\w+/cell_\d+)/node_(\d)_(\d)_(\w+)/(depthwise_\d|pointwise_\d|factorized|norm(_\d)?)/(?:conv/)?(\w+)"
)
_READS_CELL = re.compile(r"params/(?:cell_(\d)/preprocess_(\d)/.*/weight|head/classifier/linear/weight)")


def cell_of(genotype: Genotype, index: int) -> Cell:
    return genotype.reduce if index in reductions(SIZES.cells) else genotype.normal


def columns(genotype: Genotype, index: int) -> np.ndarray:
    """Which channels of a cell's output in the supernet the network has: of a cell without edges any node's zeros."""
    channels = SIZES.channels * 2 ** sum(reduction <= index for reduction in reductions(SIZES.cells))
    nodes = connected(cell_of(genotype, index)) or (2,)
    return np.concatenate([np.arange((node - 2) * channels, (node - 1) * channels) for node in nodes])


def of_network(shapes: Any, mixed: dict[str, Any], genotype: Genotype) -> Any:
    """A network's variables, copied out of the supernet's; BN scales 1 and offsets 0, which that does not have."""

    def of_node(cell: str, node: int, pair: int, operation: str, part: str, which: str | None, leaf: str) -> np.ndarray:
        source = cell_of(genotype, int(cell[-1]))[node][pair][1]
        # Group 0 holds the edges from both inputs to all nodes, group j those from node j − 1 to the later ones.
        group, row, column = (0, source, node) if source < 2 else (source - 1, 0, node - (source - 1))
        if not part.startswith("norm"):
            name = operation if part == "factorized" else f"{operation}_{part}"
            return mixed[f"{cell}/edges_{group}/{name}/{leaf}"][row, column]
        kind = {
            "sep": f"norm{which}",
            "dil": "norm_dilated",
            "max": "norm_pool",
            "avg": "norm_pool",
            "ski": "norm_skip",
        }
        name = kind[operation[:3]]
        stacked = mixed[f"{cell}/edges_{group}/{name}/{leaf}"]
        parts = stacked.reshape(2 if group == 0 else 1, len(NORMS[name]), -1, stacked.shape[-1])
        return parts[row, NORMS[name].index(operation), 0 if name == "norm_pool" else column]

    def own(path: str, shape: Any) -> np.ndarray:
        if path.endswith(("/scale", "/bias")) and path not in mixed:
            return np.full(shape.shape, float(path.endswith("/scale")))
        if found := _OF_NODE.fullmatch(path):
            cell, node, pair, *rest = found.groups()
            return of_node(cell, int(node), int(pair), *rest)
        if found := _READS_CELL.fullmatch(path):
            read = int(found[1]) - 2 + int(found[2]) if found[1] else SIZES.cells - 1
            return mixed[path] if read < 0 else mixed[path][..., columns(genotype, read)]
        return mixed[path]

    return unflatten({path: own(path, shape) for path, shape in flatten(shapes).items()})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("train", "none", "genotypes"), [(True, True, FOUND[:2]), (False, False, FOUND[1:])], ids=["training", "evaluation"]
)
def test_the_supernet_at_the_encoding_of_an_architecture_is_its_network(
    random_like: Any, monkeypatch: pytest.MonkeyPatch, train: bool, none: bool, genotypes: tuple[Genotype, ...]
) -> None:
    # The supernet's pools have a norm, the networks' do not.
    pool_norm = batch_norm(train, affine=False)
    monkeypatch.setattr(networks, "DerivedCell", functools.partial(DerivedCell, pool_norm=pool_norm))
    space = darts(SIZES._replace(none=none))
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), IMAGE))
    params, stats = random_like(shapes[PARAMS], 1), flatten(random_like(shapes[BATCH_STATS], 2))
    stats = unflatten({path: np.abs(leaf) + 0.1 if path.endswith("/var") else leaf for path, leaf in stats.items()})
    images = np.random.default_rng(3).normal(size=(IMAGE[2], *IMAGE[:2], 3))
    supernet = jax.jit(functools.partial(space.apply, train=train))
    for genotype in genotypes:
        network = derived(genotype, NetworkConfig(SIZES.classes, SIZES.cells, SIZES.channels, auxiliary=False))
        wanted_shapes = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), IMAGE))
        own = of_network(wanted_shapes, flatten({PARAMS: params, BATCH_STATS: stats}), genotype)
        chex.assert_trees_all_equal_shapes(own, wanted_shapes)
        wanted, _, _ = jax.jit(functools.partial(network.apply, train=train))(own[PARAMS], own[BATCH_STATS], images)
        assert np.ptp(wanted, axis=0).max() > 1e-3
        found, _ = supernet(params, stats, space.encode(genotype), images)
        chex.assert_trees_all_close(found, wanted, rtol=1e-8, atol=1e-8)
