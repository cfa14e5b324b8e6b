"""What a space is for the benchmark: the order of its cells, and what a cell keeps against its own network."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import count, sparsity
from dass_jax.architectures.darts import OPERATIONS, PUBLISHED, Genotype
from dass_jax.architectures.nasbench201 import Cell, of_key
from dass_jax.architectures.nasbench201_alike import alike, kinds
from dass_jax.errors import UserError
from dass_jax.networks import NETWORKS
from dass_jax.networks.any_genotype import Fields as Genotypes
from dass_jax.networks.derived import Fields as Derived
from dass_jax.networks.nasbench201 import Fields as Network
from dass_jax.nn.layers import one_device
from dass_jax.sparsebench import sample, sizes, spaces
from dass_jax.sparsebench.fields import Fields
from dass_jax.variables import PARAMS, flatten, prunable

SHAPE, CLASSES = (8, 8, 3), 10
IMAGES = count.Images(8, 3, CLASSES)
C = Fields()
DARTS = Fields(space="darts", network=Genotypes(cells=4, channels=4, nodes=2))


@pytest.mark.parametrize("distribution", ["layer", "erk"])
@pytest.mark.parametrize("c", [C, DARTS], ids=["nasbench201", "darts"])
def test_counts_are_those_of_the_cells_own_network(c: Fields, distribution: Any) -> None:
    space, network, keep = spaces.space_of(c), Derived(cells=4, channels=4) if c is DARTS else Network(1, 8), 0.03
    whole = sizes.skeleton(space, CLASSES, SHAPE)
    for place in range(2):
        cell, _ = space.order.at(place)
        own = NETWORKS[c.space].make(cell, network, CLASSES, False, one_device, None)
        params = jax.eval_shape(lambda own=own: own.init(jax.random.key(0), SHAPE))[PARAMS]
        counts = flatten(sparsity.kept_counts(params, prunable(params, own.rules), keep, distribution))
        assert sizes.layers(whole, cell) == sum(map(np.size, counts.values()))
        kept = sizes.kept(whole, cell, keep, distribution)
        for path, found in flatten(kept.counts).items():
            for edge, name in space.derived_of(path, cell).items():
                rows = found if edge is None else found.reshape(space.numbers(cell).shape[-1], -1)[edge]
                np.testing.assert_array_equal(rows, counts.pop(name), err_msg=name)
        assert not counts
        masks = jax.tree.map(first_of, kept.layers, kept.counts)
        wanted = count.network_count(c.space, cell, network, IMAGES, keep, distribution)
        assert sizes.size(whole, masks) == (wanted.kept, wanted.macs_nonzero)
        assert sizes.size(whole, kept.layers) == (wanted.prunable, wanted.macs)


def first_of(layers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A mask with so many ones in each layer."""
    rows = layers.reshape(len(counts), -1)
    assert (counts <= rows.sum(1)).all()
    return (np.arange(rows.shape[1]) < counts[:, None]).reshape(layers.shape)


def test_under_global_counts_the_total_is_that_of_the_others() -> None:
    for c in (C, DARTS):
        space = spaces.space_of(c)
        whole, (cell, _) = sizes.skeleton(space, CLASSES, SHAPE), space.order.at(7)
        erk = jax.tree.leaves(sizes.kept(whole, cell, 0.05, "erk").counts)
        total = sum(int(counts.sum()) for counts in erk)
        assert sizes.kept(whole, cell, 0.05, "global").counts.totals == {True: total}


def test_a_cell_that_no_image_gets_through_is_in_no_sample_and_trained_on_demand() -> None:
    order = spaces.space_of(C).order
    dead = [of_key("000000"), of_key("333000"), of_key("000033")]
    assert sample.places(order, dead, 0) == [order.size]
    assert order.at(order.size) == (dead[0], len(kinds()["000000"]))
    assert order.size not in sample.places(order, [], order.size + 1)


def test_a_sample_is_of_different_networks_and_grows_at_its_end() -> None:
    found = cells(3)
    assert len(found) == len(kinds()) - 1 and sum(number for _, number in found) == 5**6 - len(kinds()["000000"])
    assert all(alike(cell) == cell for cell, _ in found[:50]) and len({cell for cell, _ in found}) == len(found)
    assert found == cells(3) and found[:50] != cells(4)[:50]


def cells(seed: int) -> list[tuple[Cell, int]]:
    """All of NAS-Bench-201, in their order."""
    order = spaces.space_of(Fields(sample=seed)).order
    return [order.at(place) for place in range(order.size)]


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 1000])
def test_a_permutation_has_every_number_once_and_its_inverse_finds_it(size: int) -> None:
    one, other = sample.permutation(0, size), sample.permutation(1, size)
    found = [one.at(number) for number in range(size)]
    assert sorted(found) == list(range(size)) and [one.back(number) for number in found] == list(range(size))
    assert size < 15 or found != [other.at(number) for number in range(size)]


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_sample_of_genotypes_is_uniform_and_each_network_has_one_place(nodes: int) -> None:
    order = spaces.space_of(Fields(space="darts", network=Genotypes(nodes=nodes))).order
    pairs = {1: 1, 2: 1 * 3, 4: 1 * 3 * 6 * 10}[nodes]
    assert order.size == (49**nodes * pairs) ** 2
    found = [order.at(place)[0] for place in range(1000)]
    assert len(set(found)) == 1000 and all(order.place(cell) == place for place, cell in enumerate(found))
    for cell in (0, 1):
        last = [node for genotype in found for node in genotype[cell][-1:]]
        assert all(len({source for _, source in node}) == 2 for node in last)
        names, sources = zip(*(pair for node in last for pair in node), strict=True)
        for values, allowed in ((names, OPERATIONS), (sources, range(nodes + 1))):
            chance = len(values) / len(allowed)
            assert all(abs(values.count(value) - chance) < 5 * chance**0.5 for value in allowed)
    turned = Genotype(*(tuple(node[::-1] for node in cell) for cell in found[3]))
    assert turned != found[3] and order.place(turned) == 3


ONE = (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))


@pytest.mark.parametrize(
    ("c", "architecture", "part"),
    [
        (C, PUBLISHED["dass_99"], "dass_99"),
        (DARTS, of_key("341032"), "~0"),
        (DARTS, PUBLISHED["dass_99"], "dass_99"),
        (DARTS, Genotype((ONE, ONE[:1]), (ONE, ONE)), "sep_conv_3x3"),
        (DARTS, Genotype((ONE, (*ONE, ("skip_connect", 2))), (ONE, ONE)), "skip_connect"),
        (DARTS, Genotype((ONE, ONE), (ONE, (("sep_conv_3x3", 1), ("dil_conv_3x3", 1)))), "dil_conv_3x3"),
    ],
)
def test_what_cannot_be_trained_on_demand_is_said_in_a_line(c: Fields, architecture: Any, part: str) -> None:
    allowed = {
        "nasbench201": "cells of nasbench201",
        "darts": "darts genotypes of 2 nodes, each with two different inputs",
    }[c.space]
    with pytest.raises(UserError, match=f"^--also = .*; allowed: {allowed}$") as error:
        sample.places(spaces.space_of(c).order, [architecture], 3)
    assert part in str(error.value)
