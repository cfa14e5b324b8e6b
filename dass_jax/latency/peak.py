"""`python -m dass_jax.latency.peak FILE C H W`: memory that a deployed file takes, in a process that does only this."""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from dass_jax.deploy import files
from dass_jax.errors import guarded

RUNS = 5


def resident_peak() -> int | None:
    """Bytes of this process's largest resident set so far; None where the system does not say (only Linux does).

    Not `resource.getrusage`, which on Linux counts the parent's memory at the start of the process, too.
    """
    try:
        lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def measured(file: pathlib.Path, shape: tuple[int, int, int]) -> int | None:
    """Bytes that loading (compiling, where that is needed) and running a file takes beyond what the libraries and the
    interpreter take; None where that cannot be found out."""
    command = [sys.executable, "-m", __name__, str(file), *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.split()
    return int(last[-1]) if done.returncode == 0 and last and last[-1].isdigit() else None


def main(argv: Sequence[str]) -> int:
    """The command line; prints bytes."""
    file, *shape = argv
    images = np.zeros((1, *map(int, shape)), np.float32)
    files.import_packages(pathlib.Path(file).suffix)
    before = resident_peak()
    run = files.load(pathlib.Path(file))
    for _ in range(RUNS):
        run(images)
    after = resident_peak()
    print("unknown" if before is None or after is None else after - before)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
