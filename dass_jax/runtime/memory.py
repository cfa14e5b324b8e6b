"""Memory before the first step: what a compiled program needs, what there is, and what to change if it does not fit.

XLA plans a program's buffers when it compiles it, so their size is known before anything runs. What the process holds
beside them (the interpreter, JAX) is in use already when the rest is looked at. On a CPU one step of a supernet of 4
cells and 8 channels on 32 images of 16×16 pixels took 836 MB where the plan said 797 MB.
"""

import ctypes
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from dass_jax.errors import UserError


class Need(NamedTuple):
    """Bytes that a program holds at most, on each of its devices."""

    fixed: int
    """Arguments, and results that do not take an argument's place: data and variables."""
    temporary: int
    """Everything in between: for a training step mostly activations."""

    @property
    def total(self) -> int:
        return self.fixed + self.temporary


class Batch(NamedTuple):
    """A phase's batch, as the configuration says it."""

    section: str
    """The section with `batch_size` and `accumulate`."""
    size: int
    """Images on all devices."""
    parts: int
    """`accumulate`."""
    remat: str | None = None
    """The field that would have the program recompute what it now keeps; None: there is none, or it does."""


def needed(compiled: Any) -> Need | None:
    """What XLA has planned for a compiled function; None if it does not say."""
    try:
        found = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if found is None:
        return None
    fixed = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Need(fixed, found.temp_size_in_bytes)


def available(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that are free for each of the devices; None if one of them does not say. CPU devices share the host's."""
    if devices[0].platform == "cpu":
        trim()
        host = host_bytes()
        return None if host is None else host // len(devices)
    stats = [device.memory_stats() or {} for device in devices]
    if not all({"bytes_limit", "bytes_in_use"} <= found.keys() for found in stats):
        return None
    return min(found["bytes_limit"] - found["bytes_in_use"] for found in stats)


def trim() -> None:
    """Has the C library give freed memory back to the system, where it can (glibc). After a compilation that is most of
    what the compiler used, up to gigabytes in small pieces, of no use for a program's large buffers."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def held(arguments: Any, devices: Sequence[jax.Device]) -> int:
    """Bytes of a program's arguments that are in the memory of each of this process's devices already."""
    arrays = [x for x in jax.tree.leaves(arguments) if isinstance(x, jax.Array)]
    return sum(shard.data.nbytes for x in arrays for shard in x.addressable_shards) // len(devices)


def host_bytes(root: pathlib.Path = pathlib.Path("/")) -> int | None:
    """Memory that a process on this host could still have, under the limits of its control groups; None if unknown."""
    there = _number(root / "proc/meminfo", "MemAvailable:")
    known = [_physical_bytes() if there is None else there * 1024, *_left_by_groups(root)]
    return min((size for size in known if size is not None), default=None)


def _physical_bytes() -> int | None:
    """All of the host's memory: a bound, where what is free is not to be found out."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _left_by_groups(root: pathlib.Path) -> Iterator[int]:
    """What each control group above this process leaves, of either version. Pages of files that are not in use count
    as free, as they do in MemAvailable: the kernel drops them before it refuses memory."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, used, cached = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        inner = pathlib.PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):  # a container may see only the outermost
            folder = root / "sys/fs/cgroup" / base / group
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                yield max(most - now + (_number(folder / "memory.stat", cached) or 0), 0)


def _lines(file: pathlib.Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(file: pathlib.Path, name: str | None = None) -> int | None:
    """The first number of a file, or of its line that begins with the word `name`; None without one."""
    for line in _lines(file):
        words = line.split()
        value = words[:1] if name is None else words[1:2] if words[:1] == [name] else []
        if value and value[0].isdigit():
            return int(value[0])
    return None


def proposal(need: Need, there: int, batch: Batch, devices: int) -> list[str]:
    """Values of single fields with which a program that does not fit would, by a linear model: the fixed part stays,
    the temporary one grows with the images that a device sees at once. `remat` has no model: it is only named.

    Args:
      need: of the program as it is, for each device.
      there: bytes for each device.
    """
    own = batch.size // devices
    images = math.floor((there - need.fixed) * (own / batch.parts) / need.temporary) if need.temporary else 0
    found = []
    if images > 0:
        found.append(f"{batch.section}.batch_size = {images * batch.parts * devices}")
        parts = next(k for k in range(batch.parts, own + 1) if own % k == 0 and own // k <= images)
        found.append(f"{batch.section}.accumulate = {parts}")
    if batch.remat is not None:
        found.append(f"{batch.remat} = true")
    return found


def check(label: str, need: Need | None, there: int | None, batch: Batch, devices: int) -> None:
    """Refuses a program that does not fit; does nothing where one of the sizes is unknown.

    Args:
      label: what is about to run.
      there: bytes for each device, with what the program's arguments hold already.

    Raises:
      UserError: with both sizes, and with what would fit.
    """
    if need is None or there is None or need.total <= there:
        return
    where = f" on each of {devices} devices" if devices > 1 else ""
    parts = f" in {batch.parts} parts" if batch.parts > 1 else ""
    fitting = proposal(need, there, batch, devices) or ["a smaller network", "a machine with more memory"]
    raise UserError(
        f"{label}: {batch.section}.batch_size = {batch.size}{parts} needs {need.total / 1e9:.3g} GB{where} by XLA's "
        f"plan and {there / 1e9:.3g} GB are available; allowed: {' or '.join(fitting)}; "
        "runtime.memory_check = false to run it all the same"
    )
