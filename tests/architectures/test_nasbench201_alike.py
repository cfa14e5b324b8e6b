"""Kinds of cells: their number by the benchmark's own form, and what cells compute, weight by weight, in NumPy."""

import itertools
from collections.abc import Callable

import numpy as np

from dass_jax.architectures import nasbench201
from dass_jax.architectures.nasbench201 import EDGES, OPERATIONS, Cell, cells, key, of_key, reaches
from dass_jax.architectures.nasbench201_alike import alike, kinds


def published(cell: Cell) -> str:
    """`Structure.to_unique_str(consider_zero=True)` of the benchmark's code, which counts 6,466."""
    nodes, places = ["0"], iter(cell)
    for target in range(1, 4):
        found = []
        for source in range(target):
            operation, before = next(places), nodes[source]
            if operation == "none" or before == "#":
                found.append("#")
            else:
                found.append(before if operation == "skip_connect" else f"({before})@{operation}")
        nodes.append("+".join(sorted(found)))
    return nodes[3]


COMPUTE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "skip_connect": lambda x, w: x,
    "avg_pool_3x3": lambda x, w: 0.5 * x * x - 0.2,
    "nor_conv_1x1": lambda x, w: w * x + 0.3 * x * x,
    "nor_conv_3x3": lambda x, w: 1.1 - w * x * x,
}
"""Stand-ins of the operations: whatever is not the same sum of the same operations has another value."""


def computed() -> dict[str, tuple[float, ...]]:
    """For each cell two numbers that no order of its convolutions changes: the means of the output and of its square
    over all ways to give six weights to six edges. Operations of nothing give nothing."""
    weights = np.array(list(itertools.permutations(np.array([0.11, 0.27, 0.43, 0.61, 0.83, 0.97])))).T
    found = {}
    for cell in cells():
        nodes = [np.full(weights.shape[1], 0.7), None, None, None]
        for operation, own, (source, target) in zip(cell, weights, EDGES, strict=True):
            x = nodes[source]
            if operation == "none" or x is None:
                continue
            y = COMPUTE[operation](x, own)
            nodes[target] = y if nodes[target] is None else nodes[target] + y
        output = np.zeros(1) if nodes[3] is None else nodes[3]
        found[key(cell)] = tuple(np.round([output.mean(), (output**2).mean(), (output**3).mean()], 9).tolist())
    return found


def test_cells_are_alike_exactly_where_they_compute_the_same_with_the_same_weights() -> None:
    found, by_value = computed(), dict[tuple[float, ...], set[str]]()
    for name, value in found.items():
        by_value.setdefault(tuple(0.0 if v == 0 else v for v in value), set()).add(name)
    assert {frozenset(own) for own in by_value.values()} == {frozenset(own) for own in kinds().values()}


def test_the_benchmark_counts_6466_kinds_and_dropping_dead_edges_leaves_fewer() -> None:
    assert len({published(cell) for cell in cells()}) == 6466
    assert len(kinds()) == 5260 and sum(map(len, kinds().values())) == len(OPERATIONS) ** len(EDGES)
    assert [first for first in kinds() if not reaches(of_key(first))] == ["000000"]


def test_a_cell_stands_for_its_kind_without_its_dead_edges() -> None:
    # 3←0 alone reaches the output: 1←0 and 2←1 lead nowhere.
    assert key(alike(of_key("303200"))) == "000200"
    # Both inner nodes may change their places.
    assert alike(of_key("300020")) == alike(of_key("030002"))
    # What is added twice is not added once, and two convolutions are not one.
    for one, other in (("100110", "000100"), ("300110", "330011")):
        assert alike(of_key(one)) != alike(of_key(other))
    assert alike(of_key("430020")) in set(map(of_key, kinds()))
    assert all(alike(of_key(first)) == of_key(first) for first in kinds())
    assert nasbench201.to_text(alike(nasbench201.PUBLISHED["nb201_resnet"]))
