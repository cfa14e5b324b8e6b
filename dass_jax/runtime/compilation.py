"""How a program is traced, and what XLA is told when it is compiled. Measured in docs/performance.md.

For a program of your own: `copy_calls_late()` before JAX starts, then
`jax.jit(f).lower(x).compile(compiler_options=options(jax.default_backend()))`.
"""

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")

_CPU = {
    # Library calls for sums, which XLA's CPU backend prefers, read operands that must be written to memory first.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # The pass removes optimisation barriers before loops are formed. Ours keep the loops of a window operation apart
    # from the flat view of its result that a matrix product takes: over a flat index they do not vectorise.
    # A loop of less than a kilobyte would become one function of its own, whose compiler knows no such barriers.
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
    # LLVM keeps to 256 bits where a processor has vectors of 512, for the sake of processors that slow down for them.
    "xla_cpu_prefer_vector_width": "512",
}


_EFFORT = "exec_time_optimization_effort"
"""JAX's own name for how long a compiler looks for a faster program, from -1 to 1; its default is 0."""


@functools.cache
def options(platform: str) -> dict[str, Any]:
    """The compiler options for a platform ("cpu", "gpu", "tpu"): those of ours that this version of XLA knows.

    They change how fast a program is, and the order of its additions, never what it computes. For a TPU it is the least
    effort, with which a supernet compiles 3 to 5 times faster; JAX_EXEC_TIME_OPTIMIZATION_EFFORT says otherwise.
    """
    if platform == "tpu" and f"JAX_{_EFFORT.upper()}" not in os.environ:
        return {_EFFORT: -1.0}
    return {name: value for name, value in _CPU.items() if _known(name, value)} if platform == "cpu" else {}


def copy_calls_late() -> None:
    """Has XLA's CPU compiler copy what several calls share after it is simplified, laid out and fused, not before.

    To be called before JAX starts; later it changes nothing. XLA takes this as a flag of the process only. With it,
    a function that is called several times is fused with nothing around it, so that small ones must be inlined when
    they are traced, as those of this package are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:  # else the user's own
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options=xla_cpu_flatten_after_fusion".strip()


def hastily(function: Callable[..., Any]) -> Any:
    """`jax.jit` of a function that is called a few times only: no time is spent on making it fast."""
    return jax.jit(function, compiler_options=_hasty(jax.default_backend()))


def as_wide(work: Callable[[], T]) -> Callable[[], T]:
    """`work` for a thread of its own, in which floats are as wide as they are here: each thread has its own setting."""
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # jax makes the attribute when it is imported

    def call() -> T:
        with jax.enable_x64(wide):
            return work()

    return call


@functools.cache
def _hasty(platform: str) -> dict[str, str | bool]:
    known: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
    return {name: value for name, value in known.items() if _known(name, value)} if platform == "cpu" else {}


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Python's garbage collector rests, if it was at work. Tracing a supernet makes millions of objects, hardly one of
    them garbage, and the collector would look through them an eighth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _known(name: str, value: str | bool) -> bool:
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(jnp.negative).lower(1.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True
