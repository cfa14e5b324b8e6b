"""An experiment, carried out: its runs one after another, in one process, each in an ordinary run folder.

EXPERIMENT/  experiment.toml  experiment.json  results.csv  report.html  tables/  figures/
             runs/<method>-keep<k>-seed<s>-<digest>/  errors/<run>.txt  shared/<phase>-<digest>/  lock

A run that is finished is not done again, one that was interrupted goes on where it stopped, and one that failed leaves
its error in errors/ and is tried again by the next call; the others are done all the same.
"""

import dataclasses
import pathlib
import time
import traceback
from typing import Any

import jax

from dass_jax import __version__, train
from dass_jax.errors import UserError
from dass_jax.experiment import carbon, features, same_data, sharing, table
from dass_jax.experiment.plan import Plan, Planned, Report
from dass_jax.runtime import folder, parallel
from dass_jax.runtime.progress import Progress


def carry_out(plan: Plan, path: pathlib.Path, progress: Progress) -> list[dict[str, Any]]:
    """Does what is left of an experiment in the folder `path`; returns the rows of its results.csv.

    Raises:
      UserError: if `path` cannot be the experiment's folder, another process is at work in it, CO2 cannot be
        measured as it is asked for, or runs that are averaged have other data.
      Stopped: after SIGINT or SIGTERM.
    """
    if plan.report.country:
        carbon.check(plan.report.country)
    with folder.writable(path):
        prepare(plan, path)
        with folder.claimed(path, "--out"):
            same_data.check(plan, path, progress)
            return do_all(plan, path, progress)


def do_all(plan: Plan, path: pathlib.Path, progress: Progress) -> list[dict[str, Any]]:
    """The runs that are left, one after another; the rows."""
    rows = table.write(plan, path)
    finished = [row["status"] == "finished" for row in rows]
    left = [
        run
        for run, done in zip(plan.runs, finished, strict=True)
        if not (done and features.is_complete(run, plan.report, path / "runs" / run.name))
    ]
    progress.say(f"experiment {plan.title}: {len(plan.runs)} runs, {sum(finished)} of them finished")
    start = time.monotonic()
    for done, run in enumerate(left, start=1):
        progress.say(f"[{done}/{len(left)}] {run.name}")
        began = time.monotonic()
        try:
            attempt(run, plan.report, path, progress)
        finally:  # also after a signal
            rows = table.write(plan, path)
        row = next(row for row in rows if row["run"] == run.name)
        said = f"{row['final']:.2f} {row['unit']}".rstrip() if row["status"] == "finished" else row["status"]
        said += f": {row['error']}" if row.get("error") else ""
        each = (time.monotonic() - start) / done
        rest = f"about {duration(each * (len(left) - done))} left" if done < len(left) else "none left"
        progress.say(f"[{done}/{len(left)}] {run.name}: {said}, {duration(time.monotonic() - began)}; {rest}")
    return rows


def prepare(plan: Plan, path: pathlib.Path) -> None:
    """Makes `path` the experiment's folder; more runs may have come to the plan since, or fewer be left in it.

    Raises:
      UserError: if it holds something else, or cannot be written to.
    """
    own = path / "experiment.toml"
    if not own.exists() and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"--out = {str(path)!r} is not empty and no experiment's folder; allowed: a new or an empty one"
        )
    folder.make(path / "runs")
    folder.write_text(own, plan.text)
    about = {"title": plan.title, "report": dataclasses.asdict(plan.report)}
    folder.write_json(path / "experiment.json", about)


def attempt(run: Planned, report: Report, path: pathlib.Path, progress: Progress) -> None:
    """Does or continues one run, and what the report needs beside it; what goes wrong is left in errors/. A signal ends
    the experiment: Stopped goes through, and the run has not failed."""
    file = table.error_file(path, run.name)
    try:
        shelf = sharing.shelf(run.config, machine(run), path / "shared")
        own = path / "runs" / run.name
        with carbon.metered(report.country, own):
            train.perform(run.config, own, progress, shelf)
        if not features.is_complete(run, report, own):
            features.write(run, report, own, shelf, progress)
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        line = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
        folder.make(file.parent)
        detail = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error))
        folder.write_text(file, line + "\n" + detail)
    else:
        file.unlink(missing_ok=True)
    jax.clear_caches()  # the programs of a run are of no use to the next: what is compiled twice lies on the disk


def machine(run: Planned) -> list[str]:
    """What the bits of a phase depend on beside the configuration."""
    devices = parallel.all_devices(run.config.runtime.devices)
    return [__version__, jax.__version__, *(device.device_kind for device in devices)]


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
