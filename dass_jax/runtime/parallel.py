"""Data parallelism by `pmap`: the one file that names it.

Every device holds the same variables and sees its slice of the global batch. Gradients, losses and BN statistics are
averaged over the devices, and random numbers are drawn for the global batch and then sliced, so that the result does
not depend on the number of devices (up to the order of additions).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dass_jax.errors import UserError
from dass_jax.runtime import compilation

AXIS = "devices"


def local_devices(count: int) -> list[jax.Device]:
    """The first `count` local devices, all of them for 0.

    Raises:
      UserError: if there are fewer.
    """
    devices = jax.local_devices()
    if count > len(devices):
        raise UserError(f"runtime.devices = {count}; allowed: 0 (all) to {len(devices)}, the devices of this machine")
    return devices[: count or len(devices)]


def check_batch(name: str, batch_size: int, devices: int) -> None:
    """Raises UserError, naming the nearest sizes that fit, if a global batch does not divide over the devices."""
    if batch_size % devices:
        lower = batch_size // devices * devices
        fitting = " or ".join(str(size) for size in (lower, lower + devices) if size)
        raise UserError(f"{name} = {batch_size}; allowed on {devices} devices: a multiple of {devices}, e.g. {fitting}")


def check_parts(name: str, parts: int, images: int) -> None:
    """Raises UserError, naming the nearest numbers that fit, if the images of one device do not divide into parts."""
    if images % parts:
        lower = max(k for k in range(1, min(parts, images) + 1) if images % k == 0)
        higher = min((k for k in range(parts, images + 1) if images % k == 0), default=None)
        fitting = f"{lower} or {higher}" if higher else str(lower)
        raise UserError(f"{name} = {parts}; allowed: a divisor of {images}, the batch of each device, e.g. {fitting}")


def mean(tree: Any) -> Any:
    """The mean over the devices; inside a mapped function."""
    return jax.lax.pmean(tree, AXIS)


def total(tree: Any) -> Any:
    """The sum over the devices; inside a mapped function."""
    return jax.lax.psum(tree, AXIS)


def own_slice(x: jax.Array, devices: int, axis: int = -1) -> jax.Array:
    """This device's part of a global batch along `axis`; inside a mapped function."""
    size = x.shape[axis] // devices
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size, axis)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`tree` with a leading axis: one copy on each device. The copies share no memory with `tree`."""
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.device_put(np.stack([x] * len(devices)), everywhere), tree)


def distribute(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`tree`, whose leading axis is that of the devices, with each part on its device."""
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.device_put(x, everywhere), tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy, as NumPy arrays of their own."""
    return jax.tree.map(lambda x: np.array(x[0]), tree)


def program(
    function: Callable[..., Any], devices: Sequence[jax.Device], arguments: tuple[Any, ...], donate: bool
) -> Any:
    """`function` compiled to run on all devices at once, for `arguments` like the given ones.

    The first two arguments (state and data) carry a leading device axis, the rest are the same everywhere. With
    `donate` the first argument's memory is handed over to the result.
    """
    in_axes = tuple(0 if index < 2 else None for index in range(len(arguments)))
    donated = (0,) if donate else ()
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=in_axes, devices=devices, donate_argnums=donated)
    return mapped.lower(*arguments).compile(compiler_options=compilation.options(devices[0].platform))
