"""Several processes as one run: who is who, and what they agree on.

All of them run the same programs in the same order, which a program over all devices needs: whoever is alone in it
waits for ever. So whatever depends on a clock or on a signal, which differ from host to host, is agreed on, and what is
read from a disk is read by the first process, which alone writes too, and told to the others.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dass_jax.errors import UserError

T = TypeVar("T")
PREFIX = "DASS_JAX_"
PATIENCE = 30
"""Seconds without a sign of life after which a process counts as dead."""


class Hosts(NamedTuple):
    """How a process finds the others."""

    coordinator: str
    """HOST:PORT, which the first process listens on; empty: a TPU pod, SLURM or Open MPI says it."""
    processes: int | None
    """How many there are; None: the cluster says it."""
    process: int | None
    """Which of them this one is, from 0; None: the cluster says it."""


def wanted(environment: Mapping[str, str] = os.environ) -> Hosts | None:
    """What DASS_JAX_COORDINATOR, DASS_JAX_PROCESSES and DASS_JAX_PROCESS say; None without the first.

    Raises:
      UserError: if one of them is missing or wrong.
    """
    coordinator = environment.get(f"{PREFIX}COORDINATOR", "")
    if not coordinator:
        return None
    if coordinator == "auto":
        return Hosts("", None, None)
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65_536):
        raise UserError(f"{PREFIX}COORDINATOR = {coordinator!r}; allowed: HOST:PORT of the first process, or auto")
    processes = _number(environment, "PROCESSES", 1, 65_536)
    return Hosts(coordinator, processes, _number(environment, "PROCESS", 0, processes - 1))


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment.get(f"{PREFIX}{name}", "")
    if not text.isdecimal() or not least <= int(text) <= most:
        said = repr(text) if text else "missing"
        raise UserError(f"{PREFIX}{name} = {said}; allowed: {least} to {most}, as {PREFIX}COORDINATOR is set")
    return int(text)


def join(hosts: Hosts) -> None:
    """Waits for the other processes; to be called before JAX looks at its devices.

    Raises:
      UserError: if they do not come, or the cluster does not say who they are.
    """
    try:
        jax.distributed.initialize(
            hosts.coordinator or None,
            hosts.processes,
            hosts.process,
            initialization_timeout=300,
            heartbeat_timeout_seconds=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        fitting = "an address that all processes reach, with as many of them as were named"
        if not hosts.coordinator:
            fitting = "on a TPU pod, under SLURM or Open MPI; elsewhere HOST:PORT of the first process"
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"{PREFIX}COORDINATOR = {hosts.coordinator or 'auto'!r}: {reason}; allowed: {fitting}"
        ) from error


def first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def agreed(numbers: Sequence[float]) -> list[float]:
    """Each number's largest value over the processes, all of which must ask."""
    if jax.process_count() == 1:
        return list(numbers)
    everyone = multihost_utils.process_allgather(np.array(numbers, np.float32))
    return [float(x) for x in np.max(everyone, axis=0)]


def told(work: Callable[[], T], packed: Callable[[T], bytes], unpacked: Callable[[bytes], T]) -> T:
    """What `work` of the first process returns, in all of them, all of which must ask; it travels as bytes.

    Raises:
      UserError: in all of them, if the first one's work raises it.
    """
    if jax.process_count() == 1:
        return work()
    found, refused = b"", ""
    if first():
        try:
            found = packed(work())
        except UserError as error:
            refused = str(error)
    header = np.array([len(found), len(refused.encode())], np.int32)
    sizes = multihost_utils.broadcast_one_to_all(header)
    content = np.zeros(int(sizes.sum()), np.uint8)
    if first():
        content = np.frombuffer(found + refused.encode(), np.uint8)
    content = np.asarray(multihost_utils.broadcast_one_to_all(content)) if content.size else content
    if sizes[1]:
        raise UserError(content[int(sizes[0]) :].tobytes().decode())
    return unpacked(content.tobytes())


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within the block the loss of another process is an error of the user's: what it brings about is an error of the
    runtime in some program or other.

    Raises:
      UserError: then.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UserError(
            f"process {jax.process_index()} of {jax.process_count()} has lost the others "
            f"({' '.join(str(error).split())[:200]}); allowed: the same command in all of them, which resumes from the "
            "last checkpoint"
        ) from error


def told_json(work: Callable[[], Any]) -> Any:
    """As `told`, for what JSON can say."""
    return told(work, lambda found: json.dumps(found).encode(), json.loads)
