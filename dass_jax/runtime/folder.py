"""The run folder: the interface between training, report and deployment.

config.toml  environment.json  data.json  phases.json  metrics.jsonl  architecture.json  results.json  report.html
events/  checkpoints/  networks/  lock

With several seeds, architecture_<seed>.json of each takes the place of architecture.json. What a killed process was
about to write has the name of its file with further letters.
"""

import contextlib
import errno
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from dass_jax.errors import UserError
from dass_jax.runtime import settings

try:
    import fcntl
except ImportError:  # not a POSIX system: then no folder is locked
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.chmod(name, 0o644)
    os.replace(name, path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: pathlib.Path, data: Any) -> None:
    """Writes JSON, indented, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def make(path: pathlib.Path, option: str = "--workdir") -> None:
    """Creates the folder that `option` names.

    Raises:
      UserError: if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{option} = {str(path)!r}: {error.strerror}; allowed: a folder to write in") from error


class InUse(UserError):
    """Another process has the folder."""


@contextlib.contextmanager
def claimed(path: pathlib.Path, option: str = "--workdir") -> Iterator[None]:
    """Within the block no other process can claim the folder, which must exist. The lock goes with the process, however
    it ends; a system or a file system that knows no locks gives none.

    Args:
      option: what has named the folder.

    Raises:
      InUse: if another process has it.
    """
    with (path / LOCK).open("a", encoding="utf-8") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"{option} = {str(path)!r} is in use by another process; "
                "allowed: to wait for its end, or another folder"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def is_fresh(path: pathlib.Path) -> bool:
    """Whether there is nothing in the folder but what a run leaves that was killed before its first file was whole."""
    names = [each.name for each in path.iterdir()]
    return all(name == LOCK or name.startswith("config.toml") for name in names)


@contextlib.contextmanager
def writable(path: pathlib.Path) -> Iterator[None]:
    """Turns the errors of a full, broken or read-only disk within the block into one of the user's.

    Raises:
      UserError: naming the folder and what the system says.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(
            f"run folder {str(path)!r} cannot be written: {reason}; allowed: a folder with room on a disk in order. "
            "What was kept before is as it was; the same command resumes from there"
        ) from error


def _reason(error: BaseException | None) -> str | None:
    """What the system says of a failed write, which libraries pack into errors of their own; None of another error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
            return os.strerror(error.errno)
        said = re.search(r"\[OS error (\d+):|\[os_error_code='(\d+)'", str(error))
        if said and int(said[1] or said[2]) in _NOT_WRITABLE:
            return os.strerror(int(said[1] or said[2]))
        error = error.__cause__ or error.__context__
    return None


def environment(seed: int, devices: list[jax.Device]) -> dict[str, Any]:
    """Versions, machine, devices, commit, seed and what is said to JAX: what a number depends on beside the
    configuration."""
    packages = ("dass_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "seed": seed,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "host": platform.node(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in devices],
        "commit": _commit(),
        **{name: _version(name) for name in packages},
        "settings": settings.of_user(),
    }


def write_environment(path: pathlib.Path, facts: dict[str, Any]) -> None:
    """Leaves in environment.json what holds now, and under "starts" what held before: for each start of the run when it
    was, how many lines of metrics there were, and the facts that are not those of the start before."""
    starts: dict[str, Any] = {}
    metrics, now = path / "metrics.jsonl", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if has_begun(path):  # of a start in which no epoch has ended there is nothing
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # a damaged one is no reason to stop
            found = json.loads((path / "environment.json").read_text(encoding="utf-8"))
            starts = dict(found.get("starts", {"1": found}))
    before: dict[str, Any] = {}
    for start in starts.values():
        before |= start
    lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    changed = {name: value for name, value in facts.items() if name not in before or before[name] != value}
    own = {"at": now, "lines": lines, **changed}
    write_json(path / "environment.json", {**facts, "starts": {**starts, str(len(starts) + 1): own}})


def _version(name: str) -> str:
    from dass_jax import __version__

    return __version__ if name == "dass_jax" else importlib.metadata.version(name)


def _commit(package: pathlib.Path = pathlib.Path(__file__).parents[1]) -> str:
    """The commit of the source tree, with "+" if it has been changed since; "unknown" outside a checkout of this
    package, as in somebody's repository in which it is installed."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as a hook of git's

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return os.fsdecode(subprocess.run(command, capture_output=True, check=True, env=outside).stdout).strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            return "unknown"
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def architecture_names(seeds: Sequence[int]) -> list[str]:
    """The file of each seed's architecture."""
    return ["architecture.json"] if len(seeds) == 1 else [f"architecture_{seed}.json" for seed in seeds]


def append_metrics(path: pathlib.Path, record: dict[str, Any]) -> int:
    """Appends one line of JSON; returns the file's size in bytes after it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def has_begun(path: pathlib.Path) -> bool:
    """Whether an epoch of the run has ended: each leaves a line of metrics."""
    metrics = path / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def cut_metrics(path: pathlib.Path, size: int) -> None:
    """Drops what was written after a checkpoint that is gone back to."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
