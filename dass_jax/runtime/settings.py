"""What a user has set for JAX in general, and what of it holds for this package's commands.

A setting that would change numbers (the width of floats, how random bits are made) or refuse what is done here (a
transfer, a promotion) is set aside while a command works: a run must not become another one by the shell from which it
is called. What says where and how programs are made and kept (platforms, caches, XLA's flags, the precision of
products) is the user's.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from dass_jax.errors import UserError

OWN: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
    "jax_debug_nans": False,  # `runtime.nonfinite` says what becomes of them
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_disable_jit": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_thread_guard": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_legacy_prng_key": "allow",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
}
GUARDS = ("host_to_device", "device_to_device", "device_to_host")
"""JAX sets these with the guard of all transfers, and one of them alone goes before it."""


@contextlib.contextmanager
def own() -> Iterator[list[str]]:
    """Within the block JAX has the settings `OWN`; the names of those that the user had set otherwise."""
    wanted = {**OWN, **{f"jax_transfer_guard_{way}": "allow" for way in GUARDS}}
    before = {name: jax.config.values[name] for name in wanted if name in jax.config.values}
    for name in before:
        jax.config.update(name, wanted[name])
    # A transfer guard that is not set lets everything pass; the one of all transfers sets the three others.
    differing = [name for name, value in before.items() if value is not None and plain(value) != wanted[name]]
    guards = "jax_transfer_guard"
    aside = [
        name.upper() for name in differing if name == guards or not (name.startswith(guards) and guards in differing)
    ]
    try:
        yield aside
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def plain(value: Any) -> Any:
    """The value of a setting; JAX keeps some as members of enumerations."""
    return getattr(value, "value", value)


def said(aside: list[str]) -> str:
    """What a user is told of settings that do not hold; empty where all do."""
    return f"set aside while this runs: {', '.join(aside)}" if aside else ""


def check_platform() -> None:
    """Has JAX start its backend.

    Raises:
      UserError: if there is none of the kind that JAX_PLATFORMS names.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a platform that JAX knows and does not find
        asked = jax.config.values["jax_platforms"] or ""
        reason = " ".join(str(error).split()) or "JAX finds no device of it"
        raise UserError(
            f"JAX_PLATFORMS = {asked!r}: {reason[:200]}; allowed: one that JAX can use here, e.g. 'cpu', or '' for the "
            "best there is"
        ) from error


def of_user() -> dict[str, str]:
    """What the environment says to JAX and XLA."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(("JAX_", "XLA_"))}
