"""`python -m dass_jax.train --config FILE`: search, train what was found, report."""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from dass_jax.config import Config, Runtime, differences, digest, load, parse, to_toml
from dass_jax.errors import UserError, process, show


def default_folder(config_file: pathlib.Path, config: Config) -> pathlib.Path:
    """`runs/<config's name>-<seed>-<digest>`: the same command finds its run again, another one gets its own folder."""
    seeds = f"seed{config.seed}" if config.seeds == 1 else f"seeds{config.seed}-{config.seed + config.seeds - 1}"
    return pathlib.Path("runs") / f"{config_file.stem}-{seeds}-{digest(config)}"


def finished(path: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """The results of the run in folder `path` if it is over; None if it is not, or not begun.

    A folder in which no epoch has ended holds nothing that could be lost: another configuration may have it.

    Raises:
      UserError: if the folder belongs to another configuration or to something else.
    """
    from dass_jax.runtime import folder

    own = path / "config.toml"
    if own.exists():
        differing = differences(load(own), config)
        if differing and folder.has_begun(path):
            raise UserError(
                f"--workdir = {str(path)!r} holds a run of another configuration ({'; '.join(differing)}); "
                "allowed: the same configuration, or another folder"
            )
        results = path / "results.json"
        return json.loads(results.read_text(encoding="utf-8")) if results.exists() and not differing else None
    if path.is_dir() and not folder.is_fresh(path):
        raise UserError(f"--workdir = {str(path)!r} is not empty and no run folder; allowed: a new or an empty folder")
    return None


def prepare_jax(config: Config) -> str | None:
    """Settles how programs are compiled and kept before any is, and a CPU's devices before anything looks at them. A
    cache that the user has chosen for JAX stays; returns why there is none where one is wanted."""
    import jax

    from dass_jax.runtime import compilation

    compilation.copy_calls_late()
    if config.parallel.axis == "seeds":
        # A device for each seed, whatever the cores: the system shares them out evenly among the devices' threads.
        # Where JAX is at work already, as in a notebook, it keeps the devices that it has.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.seeds)
    cache, there = config.runtime.compilation_cache, jax.config.values["jax_compilation_cache_dir"]
    if not cache or (there and cache == Runtime.compilation_cache):
        return None
    try:
        path = pathlib.Path(cache).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        return f"nothing is compiled for later: runtime.compilation_cache = {cache!r}: {error}"
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return None


def perform(
    config: Config, path: pathlib.Path, progress: Any, shared: Any = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Runs or continues a configuration in `path`; the results and the report's page.

    Args:
      progress: a `runtime.progress.Progress`.
      shared: a `runtime.shelf.Shelf`, for runs that have stages in common.

    Raises:
      UserError: for whatever the user can mend, see `finished`, `runtime.folder` and `pipeline.run`.
      Stopped: after SIGINT or SIGTERM.
    """
    from dass_jax import compose, pipeline, report
    from dass_jax.runtime import folder, hosts, origin, signals

    dataset = compose.load_data(where_data_lie(config, path))
    assert dataset.record is not None
    lines = f"data: {dataset.record.said}", *dataset.notes
    # Before anything is made of them: what no longer fits is wrong because the data have changed.
    known = hosts.told_json(lambda: origin.to_json(of_data(config, path, dataset.record)))
    dataset = compose.as_recorded(dataset, origin.from_json(known, f"run folder {str(path)!r}"))
    setting = compose.setting(config, dataset)
    with contextlib.ExitStack() as held, folder.writable(path):
        results = hosts.told_json(lambda: begin(setting, path, held))
        for line in (*lines, *(known["accepted"] if known else ())):
            progress.say(line)
        if known is None and results is not None:
            progress.say("which data it was trained on is not known: an earlier version has not kept it")
        if results is None:
            progress.say(f"run folder: {path}")
            with signals.noted() as noted, hosts.watched():
                results = pipeline.run(setting, path, progress, noted, shared)
        else:
            progress.say(f"already finished: {path}")
        return results, report.build(path) if hosts.first() else path


def where_data_lie(config: Config, path: pathlib.Path) -> Config:
    """The configuration with the data where they are; a relative path that leads nowhere from here, as the run of the
    folder `path` knows it."""
    from dass_jax import compose
    from dass_jax.data import load
    from dass_jax.runtime import origin

    known = None if load.exists(config.data.source, config.data.folder) else origin.read(path)
    return config if known is None else compose.located(config, path, known.beside, known.record.place)


def of_data(config: Config, path: pathlib.Path, now: Any) -> Any:
    """The record of the data of the run in folder `path`, which may have been read again as `now`; None if it has not
    begun, or nothing is known.

    Raises:
      UserError: as `finished`, or if the data have changed and `data.accept_changed` is not set.
    """
    from dass_jax.runtime import folder, origin

    over = finished(path, config) is not None
    if not over and not folder.has_begun(path):
        return None
    known = origin.read(path)
    if known is None:
        return None if over else now._replace(accepted=("which data the run began with is not known",))
    return origin.accepted(known.record, now, config.data.accept_changed, f"run folder {str(path)!r}", over)


def begin(setting: Any, path: pathlib.Path, held: contextlib.ExitStack) -> dict[str, Any] | None:
    """The results of the run in its folder if it is over; else the folder is claimed until `held` ends, and None.

    Raises:
      UserError: as `finished`, or if the folder cannot be written or is another process's.
    """
    from dass_jax.runtime import folder, origin

    record = setting.dataset.record
    results = finished(path, setting.config)
    if results is None:
        with folder.writable(path):
            folder.make(path)
            held.enter_context(folder.claimed(path))
            # Another process may have finished the run, or begun another, until this one had the folder.
            results = finished(path, setting.config)
            if results is None:
                folder.write_text(path / "config.toml", to_toml(setting.config))
                facts = folder.environment(setting.config.seed, setting.devices)
                folder.write_environment(path, {**facts, "data": record.said})
                origin.write(path, record)
    elif record.accepted:
        with folder.writable(path):
            origin.write(path, record)
    return results


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0. Raises as `perform`."""
    config, config_file, workdir = parse(argv, prog="python -m dass_jax.train")
    # What the run needs is imported once the arguments are known to be right: a wrong one is answered at once.
    from dass_jax import report
    from dass_jax.runtime import hosts, settings
    from dass_jax.runtime.progress import Progress

    path = workdir or default_folder(config_file, config)
    with contextlib.ExitStack() as held:
        aside, without = held.enter_context(settings.own()), prepare_jax(config)
        wanted = hosts.wanted()
        if wanted:
            hosts.join(wanted)
        settings.check_platform()
        quiet = None if hosts.first() else held.enter_context(open(os.devnull, "w", encoding="utf-8"))
        progress = Progress(quiet)
        for line in filter(None, (settings.said(aside), without)):
            progress.say(line)
        results, page = perform(config, path, progress)
    if hosts.first():
        show(report.table(results))
        show(f"run folder: {path}\nreport: {page}")
    return 0


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
