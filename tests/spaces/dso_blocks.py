"""Small spaces of DSO-NAS, and blocks of them."""

import numpy as np

from dass_jax.architectures.dso import Blocks, connections, swept
from dass_jax.spaces import dso as space_of
from dass_jax.spaces.dso import Fields

SMALL = Fields(levels=2, operations=("sep3", "avg3", "max3"), stages=(1, 1), channels=4)
FULL = Fields(scope="full", levels=2, operations=("max3", "sep3"), stages=(2, 1), channels=2)


def drawn(c: Fields, seed: int) -> Blocks:
    """Blocks with about half of all connections, and one kind of reduction."""
    rng, size = np.random.default_rng(seed), (c.levels, len(c.operations))
    blocks = [swept((pair for pair in connections(*size) if rng.random() < 0.5), *size) for _ in space_of.names(c)]
    return space_of.everything(c)._replace(blocks=tuple(blocks), reductions=(("3x3",),))
