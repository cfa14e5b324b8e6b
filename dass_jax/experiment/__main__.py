"""`python -m dass_jax.experiment FILE [--out DIR]`: the runs of an experiment, its results.csv and its report."""

import pathlib
import sys
from collections.abc import Sequence

from dass_jax import config
from dass_jax.errors import Parser, process, show
from dass_jax.experiment import plan


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 1 if something of a run has failed, else 0. Raises Stopped after a signal."""
    parser = Parser(
        prog="python -m dass_jax.experiment", description="Does all runs of an experiment, then its report."
    )
    parser.add_argument("file", metavar="FILE", help="TOML file of the experiment, or the name of a shipped one")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help="folder; default: runs/<name of FILE>")
    parser.add_argument("--list", action="store_true", help="name the runs and do nothing")
    parser.add_argument("--workers", action="store_true", help="say how far it is and who is at work, and do nothing")
    given = parser.parse_args(argv)
    file = config.find(given.file, "experiment")
    wanted = plan.load(file)
    if given.list:
        show("\n".join(f"{run.name}  {run.network}" for run in wanted.runs))
        return 0
    path = given.out or pathlib.Path("runs") / file.stem
    if given.workers:
        from dass_jax.experiment import workers

        show("\n".join(workers.state(wanted, path)))
        return 0
    # What the runs need is imported once the file is known to be right: a wrong one is answered at once.
    from dass_jax import train
    from dass_jax.experiment.execute import carry_out
    from dass_jax.report import experiment as report
    from dass_jax.runtime import settings
    from dass_jax.runtime.progress import Progress

    progress = Progress()
    with settings.own() as aside:
        without = train.prepare_jax(wanted.runs[0].config)
        settings.check_platform()
        for line in filter(None, (settings.said(aside), without)):
            progress.say(line)
        rows = carry_out(wanted, path, progress)
    page = report.build(path)
    failed = [row for row in rows if row.get("error")]
    for row in failed:
        progress.say(f"failed: {row['run']}: {row['error']}")
    show(f"experiment folder: {path}\nreport: {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
