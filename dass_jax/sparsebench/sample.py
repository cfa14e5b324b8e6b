"""Which cells are trained, and in which order."""

import numpy as np

from dass_jax.architectures.nasbench201 import Cell, of_key, reaches
from dass_jax.architectures.nasbench201_alike import kinds


def order(seed: int) -> list[tuple[Cell, int]]:
    """All kinds of cells that an image gets through, each by the cell that stands for it and with the number of cells
    of its kind, in an order drawn with the seed: the first n are a sample of n, uniformly without replacement."""
    found = [(of_key(first), len(own)) for first, own in kinds().items() if reaches(of_key(first))]
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]
