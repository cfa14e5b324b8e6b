"""Networks of cells whose nodes have any number of edges, 0 included: as layers, folded, counted and deployed."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import accounting
from dass_jax.architectures.darts import Cell, Genotype, connected, reductions
from dass_jax.deploy import compact, evaluate, graph, rewrite, trace, xla
from dass_jax.latency import lookup
from dass_jax.networks.derived import NetworkConfig, cell_maps, derived
from dass_jax.networks.inference import fold, inference
from tests.deploy import networks

pytestmark = pytest.mark.usefixtures("x64")

ANY: Cell = (
    (("skip_connect", 1),),
    (),
    (("dil_conv_3x3", 0), ("skip_connect", 1), ("sep_conv_5x5", 2)),
    (("avg_pool_3x3", 2),),
    (("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("skip_connect", 2), ("dil_conv_5x5", 4), ("max_pool_3x3", 5)),
)
"""Nodes with 1, 0, 3, 1 and 5 edges."""
OTHER: Cell = ((), (("max_pool_3x3", 0), ("skip_connect", 1)), (), (("skip_connect", 0), ("sep_conv_3x3", 3)), ())
EMPTY: Cell = ((),) * 5
FOUND = (Genotype(ANY, OTHER), Genotype(ANY, EMPTY), Genotype(EMPTY, ANY), Genotype(EMPTY, EMPTY))
SMALL = NetworkConfig(classes=3, cells=3, channels=4, auxiliary=False)
IMAGE = (9, 10, 3)


@functools.cache
def values(genotype: Genotype) -> Any:
    """Parameters and statistics of a network, half of its weights pruned."""
    return networks.sparse_values(derived(genotype, SMALL), IMAGE, 0.5, 0)


@functools.cache
def traced(genotype: Genotype) -> graph.Graph:
    return trace.trace(networks.logits(derived(genotype, SMALL)), *values(genotype), IMAGE)


@pytest.mark.parametrize("genotype", FOUND)
def test_layers_folded_layers_and_graphs_put_out_the_same(genotype: Genotype) -> None:
    params, statistics = values(genotype)
    images = np.random.default_rng(5).normal(size=(IMAGE[2], *IMAGE[:2], 2))
    wanted = jax.jit(networks.logits(derived(genotype, SMALL)))(params, statistics, images)
    folded = jax.jit(inference(genotype, SMALL))(fold(params, statistics), images)
    np.testing.assert_allclose(folded, wanted, rtol=1e-9, atol=1e-9)
    rows, whole = np.moveaxis(images, -1, 0), traced(genotype)
    small = compact.compact(rewrite.simplified(whole))
    for found in (whole, small):
        np.testing.assert_allclose(evaluate.evaluate(found, rows), wanted, rtol=1e-9, atol=1e-9)
    assert graph.size(small).macs < graph.size(whole).macs
    # Two reductions follow one another: without edges in them no image reaches the classifier.
    assert (np.ptp(wanted, axis=0).max() > 1e-6) == (genotype.reduce != EMPTY)


def test_what_no_image_reaches_is_there_for_all_images() -> None:
    rows = np.random.default_rng(5).normal(size=(2, IMAGE[2], *IMAGE[:2]))
    for found in map(traced, FOUND[2:]):
        wanted = evaluate.evaluate(found, rows)
        np.testing.assert_allclose(jax.jit(xla.function(found))(rows), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("genotype", FOUND)
def test_a_cell_puts_out_its_connected_nodes_and_one_of_zeros_without_any(genotype: Genotype) -> None:
    params, statistics = values(genotype)
    images = np.random.default_rng(5).normal(size=(IMAGE[2], *IMAGE[:2], 2))
    maps = jax.eval_shape(cell_maps(genotype, SMALL), params, statistics, images)
    nodes = [len(connected(genotype.reduce if index in reductions(3) else genotype.normal)) or 1 for index in range(3)]
    assert [found.shape for found in maps] == [
        (4 * nodes[0], 9, 10, 2),
        (8 * nodes[1], 5, 5, 2),
        (16 * nodes[2], 3, 3, 2),
    ]
    inputs = [params[f"cell_{index}"]["preprocess_1"]["pointwise"]["conv"]["weight"].shape[1] for index in (1, 2)]
    assert inputs == [4 * nodes[0], 8 * nodes[1]]
    assert params["head"]["classifier"]["linear"]["weight"].shape == (3, 16 * nodes[2])
    if genotype == Genotype(ANY, EMPTY):
        first, *others = jax.jit(cell_maps(genotype, SMALL))(params, statistics, images)
        assert np.any(first) and not any(np.any(other) for other in others)


def test_drop_path_has_an_entry_for_each_edge_of_the_node_with_the_most() -> None:
    model = derived(Genotype(OTHER, ANY), SMALL)
    assert model.paths == (3, 5, 5)
    assert derived(Genotype(EMPTY, EMPTY), SMALL).paths == (3, 5, 0)
    params, statistics = values(Genotype(OTHER, ANY))
    images = np.random.default_rng(5).normal(size=(IMAGE[2], *IMAGE[:2], 2))
    run = jax.jit(lambda scale: model.apply(params, statistics, images, False, scale)[0])
    ones = np.ones((*model.paths, 2))
    whole = jax.jit(networks.logits(model))(params, statistics, images)
    np.testing.assert_allclose(run(ones), whole, rtol=1e-9, atol=1e-9)
    for cell, node, pair, heard in ((2, 4, 4, True), (1, 2, 2, True), (1, 1, 0, False), (0, 3, 1, True)):
        changed = ones.copy()
        changed[cell, node, pair] = 0
        assert (np.abs(run(changed) - whole).max() > 1e-4) == heard, (cell, node, pair)


def weights_and_uses(genotype: Genotype) -> list[tuple[int, int]]:
    """(weights, positions) of every layer of the network on 8×8 images with 3 channels, edge by edge."""
    found, before, previous = [(3 * 12 * 9, 64)], 12, 12
    channels, side = 4, 8
    for index in range(3):
        cell, stride = (genotype.reduce, 2) if index in (1, 2) else (genotype.normal, 1)
        channels *= stride
        found += [(channels * before, side**2), (channels * previous, side**2)]
        for node in cell:
            for operation, source in node:
                reduces = stride == 2 and source < 2
                pixels = (side // 2 if stride == 2 else side) ** 2
                family, _, kernel = operation.rpartition("_")
                if family in ("sep_conv", "dil_conv"):
                    once = [(channels * int(kernel[0]) ** 2, pixels), (channels**2, pixels)]
                    found += once * (2 if family == "sep_conv" else 1)
                elif operation == "skip_connect" and reduces:
                    found.append((channels**2, pixels))
        side //= stride
        before, previous = previous, channels * (len(connected(cell)) or 1)
    return [*found, (3 * previous, 1)]


@pytest.mark.parametrize("genotype", FOUND)
def test_counts_are_those_of_the_layers(genotype: Genotype) -> None:
    model = derived(genotype, SMALL)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (8, 8, 3)))

    def forward() -> jax.Array:
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        return model.apply(zeros["params"], zeros["batch_stats"], np.zeros((3, 8, 8, 1), np.float32), False)[0]

    kept = accounting.kept_of_fraction(shapes["params"], model.rules, 1.0)
    found = accounting.count(shapes["params"], model.rules, kept, 1.0, forward)
    layers = weights_and_uses(genotype)
    assert found.prunable == sum(weights for weights, _ in layers)
    assert found.macs == sum(weights * uses for weights, uses in layers)


def test_the_lookup_table_adds_up_the_edges_that_are_there() -> None:
    sizes = lookup.Sizes(cells=3, channels=4, nodes=5, image=8, classes=3)
    for genotype in FOUND:
        names = lookup.operations(genotype, sizes)
        edges = [sum(map(len, cell)) for cell in (genotype.normal, genotype.reduce, genotype.reduce)]
        assert len(names) == sum(edges)
        table = lookup.Table({name: 0.5 for name in names}, 2.0)
        assert lookup.predicted(table, genotype, sizes) == 2 + 0.5 * sum(edges)
    whole = sum(weights * uses for weights, uses in weights_and_uses(FOUND[0]))
    assert graph.size(lookup.network(FOUND[0], sizes)).macs == whole
