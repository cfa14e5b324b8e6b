"""An experiment, carried out by one process or by many on any machines, each run in an ordinary run folder.

EXPERIMENT/  experiment.toml  experiment.json  results.csv  report.html  tables/  figures/
             runs/<method>-keep<k>-seed<s>-<digest>/  errors/<run>.txt  shared/<phase>-<digest>/  claims/<run>.<n>

A run that is finished is not done again, one that was interrupted resumes where it stopped, and one that failed leaves
its error in errors/ and is tried again by the next call; the others are done all the same. Processes that see one
folder share its runs: each takes the next one that is free, until none is left. One that finds all that are left in
other hands waits, since these may die.
"""

import dataclasses
import pathlib
import time
import traceback
from typing import Any

import jax

from dass_jax import __version__, train
from dass_jax.errors import UserError, number_of
from dass_jax.experiment import carbon, features, same_data, sharing, table, workers
from dass_jax.experiment.plan import Plan, Planned, Report
from dass_jax.runtime import claims, folder, parallel
from dass_jax.runtime.progress import Progress


def carry_out(plan: Plan, path: pathlib.Path, progress: Progress) -> list[dict[str, Any]]:
    """Does what is left of an experiment in the folder `path`, beside other processes that do; returns the rows of its
    results.csv once nothing is left.

    Raises:
      UserError: if `path` cannot be the experiment's folder, CO2 cannot be measured as it is asked for, or runs that
        are averaged have other data.
      Stopped: after SIGINT or SIGTERM.
    """
    if plan.report.country:
        carbon.check(plan.report.country)
    with folder.writable(path):
        prepare(plan, path)
        same_data.check(plan, path, progress)
        return do_all(plan, path, progress)


def do_all(plan: Plan, path: pathlib.Path, progress: Progress) -> list[dict[str, Any]]:
    """The runs that are left, one after another, as far as no other process does them; the rows."""
    rows = table.write(plan, path)
    queue = workers.queue(plan, path)
    count, start = len(queue.left), time.monotonic()
    finished = sum(row["status"] == "finished" for row in rows)
    progress.say(f"experiment {plan.title}: {number_of(len(plan.runs), 'run')}, {finished} of them finished")
    while queue.left:
        taken = workers.taken(queue, progress)
        if taken is None:
            continue
        run, number = taken
        place, began = f"[{count - len(queue.left) + 1}/{count}] {run.name}", time.monotonic()
        with claims.held(path / workers.CLAIMS, run.name, number, lambda: progress.now) as own:
            try:
                own.outcome = attempt(run, plan.report, path, progress, place)
            finally:  # also after a signal
                rows = table.write(plan, path)
        del queue.left[run.name]
        row = next(row for row in rows if row["run"] == run.name)
        said = f"{row['final']:.2f} {row['unit']}".rstrip() if row["status"] == "finished" else row["status"]
        said += f": {row['error']}" if row.get("error") else ""
        each = (time.monotonic() - start) / (count - len(queue.left))
        rest = f"about {duration(each * len(queue.left))} left" if queue.left else "none left"
        progress.say(f"{place}: {said}, {duration(time.monotonic() - began)}; {rest}")
        workers.name_others(queue, progress)
    return table.write(plan, path)  # with what the others have done


def prepare(plan: Plan, path: pathlib.Path) -> None:
    """Makes `path` the experiment's folder; more runs may have come to the plan since, or fewer be left in it.

    Raises:
      UserError: if it holds something else, or cannot be written to.
    """
    own = path / "experiment.toml"
    # A process that begins at the same time may have come as far as a part of this.
    mine = ("experiment.", "runs", workers.CLAIMS)
    if not own.exists() and path.is_dir() and not all(each.name.startswith(mine) for each in path.iterdir()):
        raise UserError(
            f"--out = {str(path)!r} is not empty and no experiment's folder; allowed: a new or an empty one"
        )
    folder.make(path / "runs")
    folder.make(path / workers.CLAIMS)
    folder.write_text(own, plan.text)
    about = {"title": plan.title, "report": dataclasses.asdict(plan.report)}
    folder.write_json(path / "experiment.json", about)


def attempt(run: Planned, report: Report, path: pathlib.Path, progress: Progress, place: str) -> str:
    """Does or continues one run, and what the report needs beside it; with what it is to be released. What goes wrong
    is left in errors/. A signal ends the experiment: Stopped goes through, and the run has not failed."""
    file = table.error_file(path, run.name)
    if workers.is_over(run, report, path):  # its last holder has died after that
        return workers.FINISHED
    progress.say(place)
    try:
        shelf = sharing.shelf(run.config, machine(run), path / "shared")
        own = path / "runs" / run.name
        with carbon.metered(report.country, own):
            perform(run, own, progress, shelf)
        if not features.is_complete(run, report, own):
            features.write(run, report, own, shelf, progress)
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        line = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
        folder.make(file.parent)
        detail = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error))
        folder.write_text(file, line + "\n" + detail)
        return workers.FAILED
    else:
        file.unlink(missing_ok=True)
        return workers.FINISHED
    finally:
        jax.clear_caches()  # a run's programs are of no use to the next: what is compiled twice lies on the disk


def perform(run: Planned, own: pathlib.Path, progress: Progress, shelf: Any) -> None:
    """The run, as soon as nobody is at work in its folder who knows of no claims: a command of its own, or a process
    that stood still for so long that it was thought dead."""
    waiting = False
    while True:
        try:
            train.perform(run.config, own, progress, shelf)
            return
        except folder.InUse as error:
            if not waiting:
                progress.say(f"{run.name}: waiting: {error}")
            waiting = True
            time.sleep(workers.POLL)


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
