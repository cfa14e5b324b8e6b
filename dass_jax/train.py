"""`python -m dass_jax.train --config FILE`: search, derive, train, prune, fine-tune, report."""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from dass_jax import config_cli, config_io
from dass_jax.config import Config
from dass_jax.errors import UserError, guarded


def default_folder(config_file: pathlib.Path, config: Config) -> pathlib.Path:
    """`runs/<config's name>-<seed>-<digest>`: the same command finds its run again, another one gets its own folder."""
    seeds = f"seed{config.seed}" if config.seeds == 1 else f"seeds{config.seed}-{config.seed + config.seeds - 1}"
    return pathlib.Path("runs") / f"{config_file.stem}-{seeds}-{config_io.digest(config)}"


def claim_folder(path: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """Makes `path` the folder of this run; returns its results if it is finished already.

    A folder in which no epoch has ended holds nothing that could be lost: another configuration may have it.

    Raises:
      UserError: if the folder belongs to another configuration or to something else.
    """
    from dass_jax.runtime import folder

    own = path / "config.toml"
    if own.exists():
        differing = config_io.differences(config_io.load(own), config)
        if differing and folder.has_begun(path):
            raise UserError(
                f"--workdir = {str(path)!r} holds a run of another configuration ({'; '.join(differing)}); "
                "allowed: the same configuration, or another folder"
            )
        if not differing:
            results = path / "results.json"
            return json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
    elif path.is_dir() and any(path.iterdir()):
        raise UserError(f"--workdir = {str(path)!r} is not empty and no run folder; allowed: a new or an empty folder")
    folder.make(path)
    folder.write_text(own, config_io.to_toml(config))
    return None


def prepare_jax(cache: str) -> None:
    """Settles the compilation cache before anything is compiled."""
    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def perform(
    config: Config, path: pathlib.Path, progress: Any, shared: Any = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Runs or continues a configuration in `path`; the results and the report's page.

    Args:
      progress: a `runtime.progress.Progress`.
      shared: a `runtime.shelf.Shelf`, for runs that have stages in common.

    Raises:
      UserError: as `claim_folder` and `pipeline.run`.
    """
    from dass_jax import build, pipeline, report
    from dass_jax.runtime import folder

    setting = build.setting(config)
    results = claim_folder(path, config)
    if results is None:
        progress.say(f"run folder: {path}")
        folder.write_json(path / "environment.json", folder.environment(config.seed, setting.devices))
        results = pipeline.run(setting, path, progress, shared)
    else:
        progress.say(f"already finished: {path}")
    return results, report.build(path)


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    config, config_file, workdir = config_cli.parse(argv, prog="python -m dass_jax.train")
    # JAX is imported once the arguments are known to be right: a wrong one is answered at once.
    from dass_jax import report
    from dass_jax.runtime.progress import Progress

    prepare_jax(config.runtime.compilation_cache)
    path = workdir or default_folder(config_file, config)
    results, page = perform(config, path, Progress())
    print(report.table(results))
    print(f"run folder: {path}\nreport: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
