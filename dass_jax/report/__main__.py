"""`python -m dass_jax.report RUN`: writes RUN/report.html and prints its path."""

import pathlib
import sys
from collections.abc import Sequence

from dass_jax.errors import Parser, guarded
from dass_jax.report.page import build


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    parser = Parser(prog="python -m dass_jax.report", description="Writes RUN/report.html.")
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="run folder: config.toml, metrics.jsonl, …")
    print(build(parser.parse_args(argv).run))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
