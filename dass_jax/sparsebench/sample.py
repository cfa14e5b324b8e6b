"""Which cells are trained, and in which order."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from dass_jax.architectures import to_text
from dass_jax.architectures.nasbench201 import Cell, of_key, reaches
from dass_jax.architectures.nasbench201_alike import alike, kinds
from dass_jax.errors import UserError


def order(seed: int) -> list[tuple[Cell, int]]:
    """All kinds of cells that an image gets through, each by the cell that stands for it and with the number of cells
    of its kind, in an order drawn with the seed: the first n are a sample of n, uniformly without replacement."""
    found = [(of_key(first), len(own)) for first, own in kinds().items() if reaches(of_key(first))]
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]


def places(seed: int, architectures: Iterable[Any], number: int) -> list[int]:
    """Where cells are in `order`, then the first so many, each place once. Raises UserError for what is no cell, or one
    that no image gets through."""
    found = {cell: place for place, (cell, _) in enumerate(order(seed))}
    wanted: dict[int, None] = {}
    for architecture in architectures:
        if not isinstance(architecture, Cell) or alike(architecture) not in found:
            raise UserError(
                f"--also = {to_text(architecture)}; allowed: cells of nasbench201 that an image gets through"
            )
        wanted[found[alike(architecture)]] = None
    return list(wanted | dict.fromkeys(range(min(number, len(found)))))
