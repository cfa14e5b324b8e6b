"""`python -m dass_jax.report FOLDER`: the report of a run or of an experiment; prints its path."""

import pathlib
import sys
from collections.abc import Sequence

from dass_jax.errors import Parser, guarded, show
from dass_jax.report import experiment, page


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    parser = Parser(prog="python -m dass_jax.report", description="Writes FOLDER/report.html.")
    text = "run folder (config.toml, metrics.jsonl, …) or experiment folder (experiment.json, results.csv, …)"
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help=text)
    folder = parser.parse_args(argv).folder
    show(str((experiment.build if experiment.is_experiment(folder) else page.build)(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
