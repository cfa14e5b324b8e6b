"""How the benchmarks measure: alternately, in one run, with every repetition kept, memory in processes of their own."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dass_jax import config
from dass_jax.config import Config
from dass_jax.errors import UserError
from dass_jax.runtime import compilation, memory

compilation.copy_calls_late()  # as a run does, before JAX starts

DIGITS = pathlib.Path(__file__).parents[1] / "configs" / "digits_dass.toml"
"""The configuration whose sizes the small benchmarks take."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "onnx", "onnxruntime")


def alternately(
    cases: dict[str, Callable[[], Any]], repetitions: int, warmup: int = 1, rest: float = 0.0, lead: int = 0
) -> dict[str, list[float]]:
    """Seconds of each repetition, the cases alternating (A, B, C, A, B, C, …), so that a slow minute of the machine
    hits all of them. JAX results are waited for; the first `warmup` turns do not count.

    `rest`: seconds of sleep before each call. The threads of some libraries spin for a while after their work is done,
    and where all cores are in use the next case of a few milliseconds would pay for that.
    `lead`: calls right before each that is measured. A virtual machine may hand memory that was freed back to its host,
    and gigabytes cost seconds to get again after the other cases; a search repeats its own step at once.

    Raises:
      ValueError: without a case or a repetition.
    """
    if not cases or repetitions < 1:
        raise ValueError(f"{len(cases)} cases, {repetitions} repetitions; allowed: at least one of each")
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + repetitions):
        for name, case in cases.items():
            for _ in range(lead):
                jax.block_until_ready(case())
            time.sleep(rest)
            start = time.perf_counter()
            jax.block_until_ready(case())
            passed = time.perf_counter() - start
            if turn >= warmup:
                seconds[name].append(passed)
    return seconds


def compiled(lowered: Any) -> Any:
    """A lowered program compiled as a run compiles its own."""
    return lowered.compile(compiler_options=compilation.options(jax.default_backend()))


def tell(
    parser: argparse.ArgumentParser, options: argparse.Namespace, make: Callable[[Config], list[dict[str, Any]]]
) -> None:
    """Prints the rows that a benchmark makes of the configuration `options.config`, and writes them with the machine to
    `options.output`, if that is given. What the user has got wrong ends the command with the parser's one line."""
    try:
        found = make(config.load(options.config))
    except UserError as error:
        parser.error(str(error))
    print(table(found))
    if options.output:
        write_json(options.output, {"machine": machine(), "rows": found})


def onward(
    function: Callable[..., Any], state: Any, *arguments: Any, planned: Callable[[int], Any] = lambda size: None
) -> Callable[[], Any]:
    """Calls of `function` (state, *arguments) → (state, found), compiled as a run's, that return what was found. Each
    starts from the state in which the last one ended, and takes its memory.

    Args:
      planned: is told the bytes that the program has at most, by XLA's own plan, where there is one.
    """
    run = compiled(jax.jit(function, donate_argnums=0).lower(state, *arguments))
    need = memory.needed(run)
    if need is not None:
        planned(need.total)

    def call() -> Any:
        nonlocal state
        state, found = run(state, *arguments)
        return found

    return call


def ratio_of_medians(one: Sequence[float], other: Sequence[float]) -> float:
    """Below 1: `one` is faster."""
    return statistics.median(one) / statistics.median(other)


class Finished(NamedTuple):
    """What a process left behind."""

    code: int
    output: str
    """Its stdout."""
    peak_bytes: int
    """Its largest resident set; that of its own children is not in it."""


# A process that is started directly inherits its parent's peak: before `exec` it is still the parent's memory. So a
# bare interpreter of a few MB starts it, and leaves the numbers in the file that it is given.
_LAUNCHER = """
import json, os, sys
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_maxrss], file)
"""


def run_in_process(command: Sequence[str]) -> Finished:
    """Runs a command to its end and says how much memory it had at most. Its stderr goes to ours."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "usage.json"
        launcher = [sys.executable, "-S", "-E", "-c", _LAUNCHER, str(file)]
        output = subprocess.run([*launcher, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
        code, peak = json.loads(file.read_text(encoding="utf-8"))
    return Finished(code, output, peak * (1 if sys.platform == "darwin" else 1024))


def _field(file: str, name: str) -> str | None:
    """The value of the first line "name : value" of a file under /proc, if there is one."""
    try:
        lines = pathlib.Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What a number depends on: processor, memory, platform, versions, device."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def write_json(path: str | os.PathLike[str], record: Any) -> None:
    """Writes a record, with its folder if it is not there."""
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as plain text with a head: words to the left, numbers (three digits) to the right; None is "-"."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    aligned = (
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, words, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
