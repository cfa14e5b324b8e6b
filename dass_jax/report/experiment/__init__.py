"""Tables and figures of an experiment from its folder alone: results.csv, experiment.json and the run folders.

`build` writes the page, the tables and the figures; `is_experiment` knows such a folder.
"""

import pathlib

from dass_jax.report.experiment.page import build

__all__ = ["build", "is_experiment"]


def is_experiment(folder: pathlib.Path) -> bool:
    """Whether a folder is an experiment's and not a run's."""
    return (folder / "experiment.json").is_file()
