"""One of several operations, where which one is data of the program."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def chosen(branches: Sequence[Callable[..., Any]], index: Any, x: jax.Array, weights: Any) -> Any:
    """`branches[index](x, weights)`, and nothing of the others. An integer that is no array is a program of its own;
    under `vmap` over the index all branches are computed."""
    if isinstance(index, int):
        return branches[index](x, weights)
    # Only x is kept for the way back: kept by a loop, what all branches keep would be written for each of them.
    switch = jax.checkpoint(lambda index, x, weights: jax.lax.switch(index, branches, x, weights), prevent_cse=False)
    return switch(index, x, weights)
