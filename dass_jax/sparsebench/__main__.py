"""`python -m dass_jax.sparsebench --config FILE --out FOLDER`: a table of sparse networks, cell by cell."""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from dass_jax import architectures, config
from dass_jax.config import shipped
from dass_jax.errors import Parser, UserError, number_of, process
from dass_jax.sparsebench.fields import Fields, noted, structured


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0. Raises UserError, or Stopped after a signal."""
    given = parse(argv)
    c, also = fields(given.config), [architectures.load(text) for text in given.also]
    # What the run needs is imported once the arguments are known to be right.
    from dass_jax.runtime import compilation, folder, signals
    from dass_jax.runtime.progress import Progress

    compilation.copy_calls_late()
    import jax

    progress = Progress()
    folder.make(given.out, "--out")
    with folder.claimed(given.out, "--out"), folder.writable(given.out), signals.noted() as signal:
        begin(given.out, c)
        from dass_jax.sparsebench import bench, sample, spaces

        space = spaces.space_of(c)
        places = sample.places(space.order, also, given.cells)
        with progress.busy("data and shapes"):
            found = bench.bench(c, space)
        jax.config.update("jax_compilation_cache_dir", str(given.out.absolute() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        progress.say(f"programs are compiled with the first cell, or found in {given.out / 'programs'}")
        stop = bench.Stop(given.limit_seconds, signal.check)
        rows = bench.extend(found, given.out, places, progress.say, stop)
    print(f"{number_of(len(rows), 'cell')}: {given.out / 'table.npz'}")
    return 0


def begin(path: pathlib.Path, c: Fields) -> None:
    """Notes the configuration in the folder. Raises UserError if it holds a table of another one."""
    from dass_jax.runtime import folder

    own, text = path / "fields.json", json.dumps(dataclasses.asdict(c), indent=2) + "\n"
    if own.exists() and (path / "table.npz").exists() and noted(own) != c:
        raise UserError(f"--out = {str(path)!r} holds a table of other fields (fields.json); allowed: another folder")
    folder.write_text(own, text)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.sparsebench",
        description="Trains cells of a search space, dense and pruned, and keeps a table of them. docs/sparsebench.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a TOML file of the fields, or a shipped one")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FOLDER", help="of the table; resumes there")
    parser.add_argument("--cells", type=int, default=600, help="cells of the sample in all; default: 600")
    parser.add_argument(
        "--also",
        nargs="+",
        metavar="ARCHITECTURE",
        default=[],
        help="cells that are trained too, first: a published name, |op~0|+…, or a run's architecture.json",
    )
    parser.add_argument("--limit-seconds", type=float, default=math.inf, help="stop after a cell when they are over")
    given = parser.parse_args(argv)
    if given.cells < (0 if given.also else 1):
        raise UserError(f"--cells = {given.cells}; allowed: a number of at least 1, or 0 with --also")
    if not given.limit_seconds > 0:
        raise UserError(f"--limit-seconds = {given.limit_seconds}; allowed: a number above 0")
    return given


def fields(name: str) -> Fields:
    """The configuration in a file, a path or a shipped one's name; a relative path in data.source starts where the
    command does, one in `base` at the file. Raises UserError."""
    found = structured(_tables(shipped.find(name, "sparsebench")))
    for name in ("keep", "distributions"):
        values = getattr(found.sparsity, name)
        if len(set(values)) < len(values) or not values:
            raise UserError(f"sparsity.{name} = {list(values)}; allowed: a list of different ones")
    return found


def _tables(file: pathlib.Path) -> dict[str, Any]:
    """Those of a file, which change those of its `base`."""
    _, own = config.read_toml(file, "sparsebench")
    if "base" not in own:
        return own
    base = own.pop("base")
    if not isinstance(base, str):
        raise UserError(f"base = {config.short(base)}; allowed: a TOML file, relative to this one")
    _, found = config.read_toml(file.parent / base, "sparsebench")
    if "base" in found:
        raise UserError(f"base = {base!r} has a base of its own; allowed: a file without one")
    for name, table in own.items():
        both = isinstance(table, dict) and isinstance(found.get(name), dict)
        found[name] = found[name] | table if both else table
    return found


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
