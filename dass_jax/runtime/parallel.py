"""What devices share out among themselves: a batch, by `pmap`, or seeds, by `vmap`. The one file that knows how.

Of a batch every device sees its slice, and holds the same variables. Gradients, losses and BN statistics are averaged
over the devices, and random numbers are drawn for the global batch and then sliced, so that the result does not depend
on the number of devices (up to the order of additions), nor on how many hosts they belong to: each process puts there
what its own devices hold, and runs the same programs in the same order.

Of several seeds every device has its own, with whole batches, and sends nothing to another.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dass_jax.errors import UserError
from dass_jax.runtime import compilation

AXIS = "devices"


class Layout(NamedTuple):
    """How the arrays of a run lie on its devices, and how its programs get there. What depends on the seed has a
    leading axis over the seeds, of length 1 too."""

    put: Callable[[Any], Any]
    """What a program trains or evaluates, of all seeds. What is put there shares no memory with what it was."""
    put_everywhere: Callable[[Any], Any]
    """What all devices need whole."""
    get: Callable[[Any], Any]
    """The way back of what was put there, and of what a program returns, as NumPy arrays of their own."""
    over: Callable[[Callable[..., Any], tuple[int | None, ...]], Callable[..., Any]]
    """(function of one seed, in_axes as for `jax.vmap`) → that of all seeds."""
    program: Callable[[Callable[..., Any], tuple[Any, ...], bool], Any]
    """(function, arguments like those to come, whether the first one's memory goes to the result) → compiled. The first
    two arguments are on the devices, the rest are the host's."""
    sharing: int
    """Devices that share a batch."""
    like: Callable[[Any], Any] | None
    """Shapes → the shapes of what `put` makes of such arrays, for which `program` can be asked; None: it needs the
    arrays themselves."""
    over_devices: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
    """`mean` or `total` → the same, or what stands for it where the devices share no batch."""


def layout(devices: Sequence[jax.Device], seeds: int, apart: bool) -> Layout:
    """Of `seeds` seeds.

    Args:
      apart: the devices share the seeds, and each has whole batches, instead of sharing every batch.
    """
    return _of_seeds(devices) if apart and len(devices) > 1 else _of_batches(devices, seeds)


def _of_batches(devices: Sequence[jax.Device], seeds: int) -> Layout:
    """Devices that share each batch: everything has a leading axis over them, and they agree on it."""
    put = functools.partial(replicate, devices=devices)
    return Layout(
        put,
        put,
        unreplicate,
        functools.partial(over_seeds, seeds),
        lambda function, *given: program(function, devices, *given),
        len(devices),
        functools.partial(_on_each, len(devices)) if jax.process_count() == 1 else None,
        lambda reduce: reduce,
    )


def _on_each(devices: int, shapes: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape), x.dtype), shapes)


def _of_seeds(devices: Sequence[jax.Device]) -> Layout:
    """Devices that share the seeds, as `each_seed` does: a device holds the state of its own."""
    own, whole = (NamedSharding(_mesh(devices), spec) for spec in (PartitionSpec(AXIS), PartitionSpec()))

    def compiled(function: Callable[..., Any], arguments: tuple[Any, ...], donate: bool) -> Any:
        return _compiled(jax.jit(function, donate_argnums=(0,) if donate else ()), arguments, devices)

    return Layout(
        lambda tree: jax.device_put(jax.tree.map(np.array, tree), own),
        lambda tree: jax.device_put(tree, whole),
        lambda tree: jax.tree.map(np.array, tree),
        lambda function, in_axes: each_seed(function, devices, in_axes, 0),
        compiled,
        1,
        None,
        lambda reduce: alone,
    )


def over_seeds(count: int, function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`function` for `count` seeds: batched over the arguments whose entry in `in_axes` is 0, shared in the others.

    On an accelerator the seeds advance together (`vmap`). On a CPU the one program takes them one after another:
    together they would not fit into its caches, and compile for longer (`each_seed` has a device for each). A single
    seed's program is that of the function itself.
    """
    if count > 1 and jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes)

    def over_all(*arguments: Any) -> Any:
        batched = [argument for argument, axis in zip(arguments, in_axes, strict=True) if axis == 0]

        def of_one(own: list[Any]) -> Any:
            parts = iter(own)
            return function(
                *(argument if axis is None else next(parts) for argument, axis in zip(arguments, in_axes, strict=True))
            )

        if count == 1:
            return jax.tree.map(lambda x: x[None], of_one(jax.tree.map(lambda x: x[0], batched)))
        return jax.lax.map(of_one, batched)

    return over_all


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)


def each_seed(
    function: Callable[..., Any], devices: Sequence[jax.Device], in_axes: tuple[int | None, ...], out_axes: Any
) -> Callable[..., Any]:
    """`vmap` of a function of one seed, with the axis of the seeds cut into as many parts as there are devices.

    Args:
      in_axes, out_axes: as for `jax.vmap`; a number of seeds that divides over the devices.
    """
    whole = PartitionSpec()
    # What a device returns is its own, so there is no claim to check that all of them return the same.
    alone = jax.shard_map(function, mesh=_mesh(devices), in_specs=whole, out_specs=whole, check_vma=False)
    return jax.vmap(alone, in_axes, out_axes, spmd_axis_name=AXIS)


def all_devices(count: int) -> list[jax.Device]:
    """The first `count` devices of each process, all of them for 0.

    Raises:
      UserError: if this process has fewer.
    """
    there = len(jax.local_devices())
    if count > there:
        raise UserError(f"runtime.devices = {count}; allowed: 0 (all) to {there}, the devices of this machine")
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    return [device for own in by_process.values() for device in own[: count or None]]


def own_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Those of this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def check_batch(name: str, batch_size: int, devices: int) -> None:
    """Raises UserError, naming the nearest sizes that fit, if a global batch does not divide over the devices."""
    if batch_size % devices:
        lower = batch_size // devices * devices
        fitting = " or ".join(str(size) for size in (lower, lower + devices) if size)
        raise UserError(f"{name} = {batch_size}; allowed on {devices} devices: a multiple of {devices}, e.g. {fitting}")


def check_seeds(streaming: bool) -> None:
    """Raises UserError if the seeds cannot be shared out among the devices."""
    axis = "parallel.axis = 'seeds'"
    if jax.process_count() > 1:
        raise UserError(f"{axis} with {jax.process_count()} processes; allowed: 'batch', or one process")
    if streaming:
        raise UserError(f"{axis} with data.streaming = true; allowed: 'batch', or data in memory")


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


def alone(tree: Any) -> Any:
    """`mean` and `total` of devices that share nothing: each has what it has."""
    return tree


def own_slice(x: jax.Array, devices: int, axis: int = -1) -> jax.Array:
    """This device's part of a global batch along `axis`, of as many devices as share it; inside a mapped function."""
    if devices == 1:
        return x
    size = x.shape[axis] // devices
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * size, size, axis)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`tree` with a leading axis: one copy on each device. The copies share no memory with `tree`."""
    return distribute(jax.tree.map(lambda x: np.stack([x] * len(own_devices(devices))), tree), devices)


def distribute(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`tree`, whose leading axis is that of this process's devices, with each part on its device; the axis of what
    comes back is that of all devices."""
    everywhere = NamedSharding(_mesh(devices), PartitionSpec(AXIS))

    def put(x: Any) -> jax.Array:
        shape = len(devices), *x.shape[1:]
        return jax.make_array_from_process_local_data(everywhere, np.asarray(x), shape)

    return jax.tree.map(put, tree)


def unreplicate(tree: Any) -> Any:
    """The copy of this process's first device, as NumPy arrays of their own."""
    return jax.tree.map(lambda x: np.array(np.asarray(x.addressable_shards[0].data)[0]), tree)


def program(
    function: Callable[..., Any],
    devices: Sequence[jax.Device],
    arguments: tuple[Any, ...],
    donate: bool,
) -> Any:
    """`function` compiled to run on all devices at once, for `arguments` like the given ones.

    The first two arguments (state and data) carry a leading device axis, the rest are the same everywhere. With
    `donate` the first argument's memory is handed over to the result.
    """
    in_axes = tuple(0 if number < 2 else None for number in range(len(arguments)))
    donated = (0,) if donate else ()
    everywhere = jax.pmap(function, axis_name=AXIS, in_axes=in_axes, devices=devices, donate_argnums=donated)
    return _compiled(everywhere, arguments, devices)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))


def _compiled(traceable: Any, arguments: tuple[Any, ...], devices: Sequence[jax.Device]) -> Any:
    with compilation.without_collector():
        lowered = traceable.lower(*arguments)
    return lowered.compile(compiler_options=compilation.options(devices[0].platform))
