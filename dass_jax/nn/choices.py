"""One of several modules, which one being data: only that one is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax


def one_of(module: nn.Module, branches: Sequence[Callable[[Any, Any], jax.Array]], index: Any, x: Any) -> jax.Array:
    """`branches[index](module, x)`; all branches return one shape. Under `vmap` over the index all are computed.

    Args:
      branches: functions of (module, x) that call the module's own submodules.
      index: an integer array, or an integer: the other branches are then not even compiled.
    """
    if module.is_initializing():
        every = [branch(module, x) for branch in branches]
        return every[0]
    if isinstance(index, int):
        return branches[index](module, x)
    found: jax.Array = nn.switch(index, branches, module, x)
    return found
