"""A random cell: the control that any search has to beat. Source: DARTS (arXiv 1806.09055) Section 3.2.2's baseline."""

import numpy as np

from dass_jax.architectures.darts import OPERATIONS, Cell, Genotype


def sample(seed: int, nodes: int) -> Genotype:
    """A genotype drawn uniformly: per node two different inputs, each with any operation but `none`."""
    generator = np.random.default_rng(seed)

    def cell() -> Cell:
        return tuple(
            tuple(
                (OPERATIONS[generator.integers(len(OPERATIONS))], int(source))
                for source in generator.choice(node, size=2, replace=False)
            )
            for node in range(2, nodes + 2)
        )

    return Genotype(normal=cell(), reduce=cell())
