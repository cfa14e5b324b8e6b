"""The search spaces of the benchmark: what it asks of one, and which there are."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dass_jax import architectures
from dass_jax.architectures import darts, nasbench201
from dass_jax.architectures.nasbench201_alike import alike, kinds
from dass_jax.networks import any_cell, any_genotype
from dass_jax.networks.model import Model
from dass_jax.nn.skeletons import Sizes
from dass_jax.sparsebench.fields import Fields
from dass_jax.sparsebench.sample import Order, permutation


class Space(NamedTuple):
    """A space at the sizes of a configuration."""

    order: Order
    numbers: Callable[[Any], np.ndarray]
    """Cell → the integers that the programs take, places in the space's operations."""
    cell: Callable[[np.ndarray], Any]
    """Inverse of `numbers`, which are flat."""
    text: Callable[[Any], str]
    """Cell → what `architectures.load` reads."""
    model: Callable[[int, Any], Model]
    """(classes, numbers) → the network, whose shapes are those of all cells."""
    derived_of: Callable[[str, Any], dict[int | None, str]]
    """(path of a leaf, cell) → place in the leaf's first axis → the leaf of the cell's own network that is there; None:
    the whole leaf."""


def space_of(c: Fields) -> Space:
    """The space that a configuration names."""
    return {"nasbench201": _nasbench201, "darts": _darts}[c.space](c)


def _nasbench201(c: Fields) -> Space:
    """Each kind of cells is a network, by the cell that stands for it. The one that no image gets through is in no
    sample: it comes after all others, to be trained on demand, so that a search that ends there is placed too."""
    cells = [(nasbench201.of_key(first), len(own)) for first, own in kinds().items()]
    found = [(cell, number) for cell, number in cells if nasbench201.reaches(cell)]
    drawn = [found[place] for place in np.random.default_rng(c.sample).permutation(len(found))]
    drawn += [(cell, number) for cell, number in cells if not nasbench201.reaches(cell)]
    places = {cell: place for place, (cell, _) in enumerate(drawn)}

    def place(cell: Any) -> int | None:
        return places.get(alike(cell)) if isinstance(cell, nasbench201.Cell) else None

    return Space(
        order=Order(len(found), drawn.__getitem__, place, "cells of nasbench201"),
        numbers=any_cell.numbers,
        cell=lambda numbers: nasbench201.Cell(*(nasbench201.OPERATIONS[number] for number in numbers)),
        text=nasbench201.to_text,
        model=lambda classes, numbers: any_cell.any_cell(Sizes(classes, c.network.cells, c.network.channels), numbers),
        derived_of=any_cell.derived_of,
    )


def _darts(c: Fields) -> Space:
    """Each genotype whose nodes have two different inputs is a network, whatever the order of the two."""
    nodes = c.network.nodes
    choices = [_nodes(inputs) for inputs in range(2, nodes + 2)] * 2
    size = math.prod(map(len, choices))
    drawn = permutation(c.sample, size)

    def at(place: int) -> tuple[darts.Genotype, int]:
        number, found = drawn.at(place), []
        for own in choices:
            number, digit = divmod(number, len(own))
            found.append(own[digit])
        return darts.Genotype(tuple(found[:nodes]), tuple(found[nodes:])), 1

    def place(genotype: Any) -> int | None:
        if not isinstance(genotype, darts.Genotype) or len(genotype.normal) != nodes:
            return None
        found, number = [tuple(sorted(node, key=lambda pair: pair[1])) for cell in genotype for node in cell], 0
        if any(node not in own for node, own in zip(found, choices, strict=True)):
            return None
        for node, own in reversed(list(zip(found, choices, strict=True))):
            number = number * len(own) + own.index(node)
        return drawn.back(number)

    return Space(
        order=Order(size, at, place, f"darts genotypes of {nodes} nodes, each with two different inputs"),
        numbers=any_genotype.numbers,
        cell=any_genotype.genotype_of,
        text=architectures.to_text,
        model=lambda classes, numbers: any_genotype.any_genotype(classes, c.network, numbers),
        derived_of=lambda path, genotype: any_genotype.derived_of(path, genotype, c.network.cells),
    )


@functools.cache
def _nodes(inputs: int) -> tuple[darts.Node, ...]:
    """What a node after so many inputs and nodes can be: two operations, whose inputs differ and ascend."""
    return tuple(
        tuple(zip(operations, sources, strict=True))
        for sources in itertools.combinations(range(inputs), 2)
        for operations in itertools.product(darts.OPERATIONS, repeat=2)
    )
