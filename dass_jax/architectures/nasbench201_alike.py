"""Which cells of NAS-Bench-201 are the same network: one of each kind stands for all of its kind.

Two cells are alike if their outputs are the same sum of the same operations, once

* edges that no image reaches, or that do not reach the output, are left out. (A convolution that no image reaches gives
  the offset of its BN, a constant; here it counts as nothing.)
* skip connections are the node that they come from: what is added twice stays added twice.
* poolings of one sum are one, as they have no weights. Convolutions of one sum are two, as each has its own.

That is stricter than the benchmark's own form, where two convolutions of one sum and one whose result is added twice
are the same. Its 6,466 kinds (arXiv 2001.00326 Section 2.1) leave edges that lead nowhere in place.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from dass_jax.architectures.nasbench201 import EDGES, NODES, Cell, cells, key, of_key

_INPUT = -1
_POOL = "avg_pool_3x3"

Sum = frozenset[tuple[int, int]]
"""(place of an operation in a list, or the input; how often it is added)."""


@functools.cache
def kinds() -> dict[str, tuple[str, ...]]:
    """The cell that stands for each kind, the first by its key, and all cells of that kind, as keys."""
    found: dict[Any, list[str]] = {}
    for cell in cells():
        found.setdefault(form(cell), []).append(key(cell))
    return {own[0]: tuple(own) for own in found.values()}


@functools.cache
def _stands_for() -> dict[str, str]:
    return {each: first for first, own in kinds().items() for each in own}


def alike(cell: Cell) -> Cell:
    """The cell that stands for a cell's kind."""
    return of_key(_stands_for()[key(cell)])


def form(cell: Cell) -> Any:
    """What cells that are alike have in common, and others do not: hashable."""
    operations, output = _operations(cell)
    reached = _reached(operations, output)
    return min(_written(operations, output, order) for order in _orders(operations, output, reached))


def _operations(cell: Cell) -> tuple[list[tuple[str, Sum]], Sum]:
    """(operation, what it is of) of all that compute something, in the order of the edges, and the output."""
    operations: list[tuple[str, Sum]] = []
    nodes = [Counter({_INPUT: 1}), *(Counter[int]() for _ in range(NODES - 1))]
    for operation, (source, target) in zip(cell, EDGES, strict=True):
        value = frozenset(nodes[source].items())
        if operation == "none" or not value:
            continue
        if operation == "skip_connect":
            nodes[target].update(nodes[source])
        elif operation == _POOL and (operation, value) in operations:
            nodes[target][operations.index((operation, value))] += 1
        else:
            operations.append((operation, value))
            nodes[target][len(operations) - 1] += 1
    return operations, frozenset(nodes[-1].items())


def _reached(operations: list[tuple[str, Sum]], output: Sum) -> list[int]:
    """The operations that the output needs."""
    found: set[int] = set()
    waiting = [place for place, _ in output]
    while waiting:
        place = waiting.pop()
        if place != _INPUT and place not in found:
            found.add(place)
            waiting += [each for each, _ in operations[place][1]]
    return sorted(found)


def _orders(operations: list[tuple[str, Sum]], output: Sum, reached: list[int]) -> Iterator[tuple[int, ...]]:
    """All orders of the reached operations that their own looks leave open."""

    @functools.cache
    def below(place: int) -> str:
        if place == _INPUT:
            return "x"
        operation, value = operations[place]
        return f"{operation}({sorted((below(each), times) for each, times in value)})"

    def above(place: int) -> str:
        users = [(below(user), dict(operations[user][1]).get(place, 0)) for user in reached]
        return str(sorted(user for user in users if user[1])) + str(dict(output).get(place, 0))

    looks = {place: (below(place), above(place)) for place in reached}
    ties = [list(own) for _, own in itertools.groupby(sorted(reached, key=looks.__getitem__), looks.__getitem__)]
    for parts in itertools.product(*map(itertools.permutations, ties)):
        yield tuple(itertools.chain(*parts))


def _written(operations: list[tuple[str, Sum]], output: Sum, order: tuple[int, ...]) -> tuple[Any, ...]:
    """The operations by their places in the order, and the output."""
    places = {_INPUT: _INPUT, **{place: number for number, place in enumerate(order)}}

    def renamed(value: Sum) -> tuple[tuple[int, int], ...]:
        return tuple(sorted((places[place], times) for place, times in value))

    return (*((operations[place][0], renamed(operations[place][1])) for place in order), renamed(output))
