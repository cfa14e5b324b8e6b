"""The supernet's shapes and rules, and how a genotype is read off."""

import collections
import functools
import itertools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES, Cell, edges, reductions
from dass_jax.spaces.darts import SupernetConfig, darts, derive_cell, sample, settle
from dass_jax.variables import PARAMS, layers, prunable


@pytest.mark.parametrize(("none", "operations"), [(True, 8), (False, 7)])
@pytest.mark.parametrize(("nodes", "rows"), [(2, 5), (3, 9), (4, 14)])
def test_a_choice_has_one_row_per_edge_and_one_column_per_operation(
    nodes: int, rows: int, none: bool, operations: int
) -> None:
    space = darts(SupernetConfig(nodes=nodes, none=none))
    assert {name: choice.shape for name, choice in space.choices.items()} == {
        "normal": (rows, operations),
        "reduce": (rows, operations),
    }


@pytest.mark.parametrize(
    ("nodes", "stem", "none"),
    [(2, "cifar", True), (3, "cifar", False), (4, "cifar", True), (2, "imagenet", False)],
)
def test_logits_are_one_row_per_image(nodes: int, stem: str, none: bool) -> None:
    space = darts(SupernetConfig(classes=7, cells=2, channels=4, nodes=nodes, stem=stem, none=none))

    def logits(images: jax.Array) -> Any:
        v = space.init(jax.random.key(0), (32, 32, 3))
        weights = {name: jnp.ones(choice.shape) for name, choice in space.choices.items()}
        return space.apply(v["params"], v["batch_stats"], weights, images, False)[0]

    assert jax.eval_shape(logits, jnp.zeros((3, 32, 32, 5))).shape == (5, 7)


def test_reductions_are_at_a_third_and_at_two_thirds() -> None:
    assert {cells: reductions(cells) for cells in (3, 8, 20, 16)} == {3: (1, 2), 8: (2, 5), 20: (6, 13), 16: (5, 10)}


def test_derive_cell_takes_the_two_strongest_edges_in_the_order_of_their_strength() -> None:
    config = SupernetConfig(nodes=3)
    weights = np.zeros((len(edges(3)), len(PRIMITIVES)))

    def put(source: int, node: int, operation: str, value: float) -> None:
        weights[edges(3).index((source, node)), PRIMITIVES.index(operation)] = value

    put(0, 2, "max_pool_3x3", 0.3), put(0, 2, "dil_conv_5x5", 0.1), put(1, 2, "sep_conv_3x3", 0.4)
    put(0, 3, "sep_conv_5x5", 0.5), put(1, 3, "avg_pool_3x3", 0.2), put(2, 3, "skip_connect", 0.3)
    put(0, 4, "skip_connect", 0.1), put(1, 4, "skip_connect", 0.2), put(2, 4, "dil_conv_3x3", 0.6)
    put(3, 4, "avg_pool_3x3", 0.5), put(3, 4, "max_pool_3x3", 0.4)
    # Weights on none decide nothing: neither which edges stay nor which operation.
    put(1, 3, "none", 0.9), put(0, 4, "none", 1.0), put(2, 4, "none", 0.7)
    assert derive_cell(weights, config) == (
        (("sep_conv_3x3", 1), ("max_pool_3x3", 0)),
        (("sep_conv_5x5", 0), ("skip_connect", 2)),
        (("dil_conv_3x3", 2), ("avg_pool_3x3", 3)),
    )


def test_derive_cell_never_derives_none_even_if_every_edge_prefers_it() -> None:
    weights = np.full((14, 8), 0.01)
    weights[:, 0] = 0.93
    weights[:, 5] = 0.02
    cell = derive_cell(weights, SupernetConfig())
    assert {operation for node in cell for operation, _ in node} == {"sep_conv_5x5"}


@pytest.mark.parametrize("none", [True, False])
def test_derive_cell_gives_ties_to_the_earlier_edge_and_operation(none: bool) -> None:
    config = SupernetConfig(none=none)
    cell = derive_cell(np.full((14, len(config.operations)), 1 / 8), config)
    assert cell == ((("max_pool_3x3", 0), ("max_pool_3x3", 1)),) * 4


def test_derive_agrees_with_a_search_over_all_edges_and_operations() -> None:
    config = SupernetConfig(none=True)
    weights = {
        name: np.random.default_rng(seed).dirichlet(np.ones(8), 14) for seed, name in enumerate(("normal", "reduce"))
    }
    found = darts(config).decode({name: jnp.asarray(array) for name, array in weights.items()})
    for name, cell in found._asdict().items():
        for node, pairs in enumerate(cell, start=2):
            best = {}
            for row, (source, target) in enumerate(edges(4)):
                if target == node:
                    best[source] = max((float(np.float32(weights[name][row, o])), PRIMITIVES[o]) for o in range(1, 8))
            strongest = sorted(best, key=lambda source: best[source][0], reverse=True)[:2]
            assert pairs == tuple((best[source][1], source) for source in strongest)


def swept(weights: np.ndarray, nodes: int) -> Cell:
    """Sweeps from the inputs forward, over and over: a node without an edge is removed with the edges from it. Backward
    there is nothing to do, since every node is part of the output."""
    rows = {edge: PRIMITIVES[row.argmax()] for edge, row in zip(edges(nodes), weights, strict=True)}
    left = {edge: operation for edge, operation in rows.items() if operation != "none"}
    while True:
        reached = {0, 1, *(node for _, node in left)}
        after = {edge: operation for edge, operation in left.items() if edge[0] in reached}
        if after == left:
            break
        left = after
    return tuple(
        tuple((left[source, node], source) for source in range(node) if (source, node) in left)
        for node in range(2, nodes + 2)
    )


def test_what_is_settled_is_what_sweeps_leave() -> None:
    config, rng, cut = SupernetConfig(nodes=5), np.random.default_rng(0), 0
    for _ in range(300):
        weights = {name: rng.dirichlet(np.ones(8), 20) for name in ("normal", "reduce")}
        for cell in weights.values():
            cell[:, 0] += rng.random()  # `none` wins now less, now more often
        found = settle(weights, config)
        for name, cell in found._asdict().items():
            assert cell == swept(weights[name], 5)
            cut += sum(len(node) for node in cell) < (weights[name].argmax(-1) > 0).sum()
    assert cut > 50


def test_without_none_every_edge_is_settled_on_its_strongest_operation() -> None:
    config, weights = SupernetConfig(nodes=2, none=False), np.random.default_rng(0).random((5, 7))
    found = settle({"normal": weights, "reduce": weights[::-1]}, config)
    for cell, rows in ((found.normal, weights), (found.reduce, weights[::-1])):
        names = [OPERATIONS[row.argmax()] for row in rows]
        assert cell == (((names[0], 0), (names[1], 1)), ((names[2], 0), (names[3], 1), (names[4], 2)))


def test_samples_have_two_different_inputs_a_node_and_any_operation_but_none() -> None:
    generator = np.random.default_rng(0)
    drawn = [cell for _ in range(400) for cell in sample(generator, 3)]
    assert drawn[:2] == list(sample(np.random.default_rng(0), 3))
    for node in range(3):
        pairs = collections.Counter(tuple(sorted(source for _, source in cell[node])) for cell in drawn)
        assert pairs.keys() == set(itertools.combinations(range(node + 2), 2))
        names = collections.Counter(name for cell in drawn for name, _ in cell[node])
        assert names.keys() == set(OPERATIONS)
        for counts in (pairs, names):  # five standard deviations
            share, number = 1 / len(counts), counts.total()
            assert all(abs(n - number * share) <= 5 * (number * share * (1 - share)) ** 0.5 for n in counts.values())


@functools.cache
def paper_supernet() -> tuple[Any, Any]:
    """Shapes of θ and number of stack axes per prunable leaf of the paper's supernet."""
    space = darts(SupernetConfig(cells=8, channels=16, nodes=4))
    params = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))[PARAMS]
    return params, prunable(params, space.rules)


def expected_layers(cells: int, channels: int, nodes: int) -> collections.Counter[int]:
    """How many layers there are of each number of weights, edge by edge and operation by operation."""
    found = collections.Counter({3 * channels * 3 * 9: 1})
    before = previous = 3 * channels
    c, reduced = channels, False
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        c *= 2 if reduction else 1
        found.update([before * c // 2] * 2 if reduced else [before * c])
        found.update([previous * c])
        for node in range(2, nodes + 2):
            for source in range(node):
                for k in (3, 5):
                    found.update([c * k * k, c * c] * 2)  # separable: twice
                    found.update([c * k * k, c * c])  # dilated
                if reduction and source < 2:
                    found.update([c * c // 2] * 2)  # factorized reduce
        before, previous, reduced = previous, nodes * c, reduction
    found.update([previous * 10])
    return found


def test_every_layer_of_the_supernet_is_a_layer_of_its_own() -> None:
    params, stacks = paper_supernet()
    found: collections.Counter[int] = collections.Counter()
    for _, count, size in layers(params, stacks):
        found[size] += count
    wanted = expected_layers(cells=8, channels=16, nodes=4)
    assert found == wanted
    # Stem, classifier, 16 preprocessings of which 2 are pairs, 112 edges of 12 convolutions, 16 reduced skips of two.
    assert found.total() == 1 + 1 + 16 + 2 + 112 * 12 + 16 * 2


def test_a_leaf_that_no_rule_covers_is_an_error() -> None:
    params, _ = paper_supernet()
    strange = {**params, "cell_3": {**params["cell_3"], "gate": {"kernel": jnp.zeros(3)}}}
    with pytest.raises(ValueError, match=re.escape("no rule says whether 'cell_3/gate/kernel' is prunable")):
        prunable(strange, darts(SupernetConfig()).rules)


def test_remat_changes_neither_outputs_nor_gradients(x64: None, random_like: Any) -> None:
    config = SupernetConfig(classes=3, cells=3, channels=4, nodes=1)
    images = np.random.default_rng(0).normal(size=(1, 4, 4, 3))
    results = []
    for remat in (False, True):
        space = darts(config._replace(remat=remat))
        v = jax.jit(lambda key, space=space: space.init(key, (4, 4, 1)))(jax.random.key(0))
        weights = {name: jnp.full(choice.shape, 0.125) for name, choice in space.choices.items()}

        def loss(params: Any, space: Any = space, v: Any = v, weights: Any = weights) -> jax.Array:
            return (space.apply(params, v["batch_stats"], weights, images, True)[0] ** 2).sum()

        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), v["params"])
        results.append(jax.jit(jax.value_and_grad(loss))(params))
    chex.assert_trees_all_close(*results, rtol=1e-9, atol=1e-9)
