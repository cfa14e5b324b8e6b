"""What connections cost, as factors of their penalty γ. Source: DSO-NAS (Zhang et al., TPAMI 2020) Section 3.4.

Each function takes the fields of the space and a choice, and gives for every connection a factor of at most 1. Branches
of reductions, whose cost the paper's code leaves out, have 1. The last one has 0: nothing that comes behind it depends
on its scale, so that any penalty would take it away.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dass_jax.architectures.dso import OUT, targets

REDUCTIONS = "reductions"
"""The name of the matrix of the reductions' branches."""
PIXELS, CHANNELS = 16 * 16, 96
"""At which the published code counted multiply-accumulates: its constants match them to every digit."""


def _window(operation: str) -> int:
    """The side of a separable convolution; 0: a pool."""
    return int(operation[3:]) if operation.startswith("sep") else 0


def of_branches(matrix: Any) -> Any:
    """1 for the branches of a reduction that has both, else 0."""
    return jnp.broadcast_to((matrix > 0).all(-1, keepdims=True), matrix.shape).astype(matrix.dtype)


def uniform(c: Any, choice: Mapping[str, Any]) -> dict[str, Any]:
    """1."""
    return {name: of_branches(m) if name == REDUCTIONS else jnp.ones_like(m) for name, m in choice.items()}


def units(c: Any, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Adaptive FLOPs (Eq. 17) as the published code counts them, of each block by its present factors:

        (n + 1)/(n_all + 1),  n = separable operations with an input + connections to the output

    The first level always has an input. Nothing is swept.
    """
    return _of_blocks(c, choice, lambda side: 1.0, 1.0, 1.0)


def flops(c: Any, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Adaptive FLOPs (Eq. 17) exactly: (k²C + C²)·H·W for a separable operation with an input, C²·H·W for a connection
    to the output, over those of the full block, at the C of the space's first stage."""
    width = c.channels
    return _of_blocks(c, choice, lambda side: float(side**2 * width + width**2), float(width**2), 0.0)


def _of_blocks(c: Any, choice: Mapping[str, Any], separable: Any, end: float, more: float) -> dict[str, Any]:
    """(spent + more)/(spent by the full block + more) of each block, for all of its connections."""
    costs = [separable(_window(name)) if _window(name) else 0.0 for name in c.operations]
    rows = targets(c.levels, len(c.operations))
    inner = np.array([0.0 if row == OUT else costs[int(row.split(".")[1])] for row in rows])
    first, ends = sum(costs), c.levels * len(costs)
    total = first + inner.sum() + end * ends + more

    def share(name: str, matrix: Any) -> Any:
        if name == REDUCTIONS:
            return of_branches(matrix)
        used = (matrix > 0).any(-1) @ jnp.asarray(inner, matrix.dtype)
        spent = first + used + end * (matrix[-1] > 0).sum().astype(matrix.dtype) + more
        return jnp.broadcast_to(spent / total, matrix.shape).astype(matrix.dtype)

    return {name: share(name, matrix) for name, matrix in choice.items()}


def macs(c: Any, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Adaptive MAC (Eq. 18): memory accesses of the operation that a connection leads to, over the largest. They do not
    change during the search. For a map of 16×16 pixels and 96 channels, whatever the block."""
    size = PIXELS * CHANNELS

    def accesses(operation: str) -> int:
        if side := _window(operation):
            return 4 * size + side**2 * CHANNELS + CHANNELS**2
        return 2 * size

    costs, end = [accesses(name) for name in c.operations], 2 * size + CHANNELS
    rows = targets(c.levels, len(costs))
    found = np.array([end if row == OUT else costs[int(row.split(".")[1])] for row in rows])

    def share(name: str, matrix: Any) -> Any:
        if name == REDUCTIONS:
            return of_branches(matrix)
        return jnp.broadcast_to(jnp.asarray(found / max(*costs, end), matrix.dtype)[:, None], matrix.shape)

    return {name: share(name, matrix) for name, matrix in choice.items()}


COSTS = {"uniform": uniform, "units": units, "flops": flops, "macs": macs}
"""By the names of `method.budget`."""
