"""Functions whose computation XLA's CPU compiler works through once for all of their calls."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def compiled_once(function: Callable[..., Any], static_argnums: int | tuple[int, ...] = ()) -> Callable[..., Any]:
    """`jax.jit(function, static_argnums=…)`, whose calls XLA on a CPU does not inline.

    A supernet calls a kernel of some hundred operations a hundred times, with few different shapes. Inlined, each call
    goes through the compiler's passes by itself. The price: nothing before or after is fused with what is inside, so
    that this is for what reads and writes whole maps anyway. Other backends inline, and fuse better than they share.
    """

    @functools.partial(jax.jit, static_argnums=static_argnums)
    @functools.wraps(function)
    def compiled(*arguments: Any) -> Any:
        # The attribute reaches all that is traced under it; what the function itself calls is inlined.
        with set_xla_metadata(inlineable=None):
            return function(*arguments)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false" if jax.default_backend() == "cpu" else None):
            return compiled(*arguments)

    return call
