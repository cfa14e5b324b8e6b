"""Whole runs by the command line, as tests start, stop and compare them."""

import contextlib
import io
import json
import os
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from matplotlib.figure import Figure
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from dass_jax import report, runner, train
from dass_jax.architectures import FAMILIES
from dass_jax.errors import guarded
from dass_jax.methods import METHODS
from dass_jax.networks import NETWORKS
from dass_jax.recipes import RECIPES
from dass_jax.runtime import checkpoint
from dass_jax.spaces import SPACES
from dass_jax.tasks import TASKS

SEARCHED = """
[space]
cells = 1
channels = 2
nodes = 1
[method]
epochs = 2
prune_epochs = 2
batch_size = 16
alpha_lr = 1e-6
"""
"""With so small a rate for α all searches find one architecture, whose programs are then compiled once."""
CONFIG = f"""
data = {{ limit = 64, crop_padding = 1 }}
sparsity = {{ keep = 0.3 }}
network = {{ cells = 1, channels = 2, auxiliary = false, drop_path = 0.0 }}
{SEARCHED}
[train]
batch_size = 32
pretrain_epochs = 2
score_epochs = 2
finetune_epochs = 2
[runtime]
devices = 1
"""
GIVEN = CONFIG.replace(SEARCHED, "")
"""The same without a search, for an architecture that is given."""


SYSTEM = pathlib.Path(__file__).with_name("a_new_system.py")
TOY = f"""
controls = ["random"]
plugins = ["{SYSTEM}"]
data = {{ limit = 64, crop_padding = 1 }}
space = {{ name = "ladder" }}
method = {{ name = "wander" }}
task = {{ name = "dial" }}
train = {{ recipe = "polish", batch_size = 32 }}
[runtime]
devices = 1
"""
"""A run of a plugin's system, whose programs are compiled in a moment."""

LADDER = f"""
seeds = 2
controls = []
plugins = ["{SYSTEM}"]
data = {{ limit = 64, crop_padding = 1 }}
sparsity = {{ keep = 0.25 }}
space = {{ name = "ladder" }}
"""
"""The same space with a method and a recipe of one's own: they follow."""


class Finished(NamedTuple):
    """A run's folder, and what the command said."""

    folder: pathlib.Path
    code: int
    out: str
    err: str


@contextlib.contextmanager
def own_tables() -> Iterator[None]:
    """What plugins add to the package's tables is taken away again at the end."""
    tables = [(table, dict(table)) for table in (FAMILIES, SPACES, NETWORKS, METHODS, RECIPES, TASKS)]
    yield
    for table, entries in tables:
        table.clear()
        table.update(entries)
    for name in [name for name in sys.modules if name.startswith("dass_jax_plugin_")]:
        del sys.modules[name]


@contextlib.contextmanager
def workplace(folder: pathlib.Path, config: str, own_cache: bool = False) -> Iterator[pathlib.Path]:
    """`folder`, with `config` in its `run.toml`. Runs here and in the folders beside it share one compilation cache:
    compiling is the cost, and most tests compile the same. Whoever may damage a cache has its own. Plugins are known
    in it alone."""
    cache = (folder if own_cache else folder.parent) / "cache"
    (folder / "run.toml").write_text(config + f'compilation_cache = "{cache}"\n', encoding="utf-8")
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    # JAX settles whether there is a cache when it first compiles; other tests have compiled without one.
    compilation_cache.reset_cache()
    with own_tables():
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Inside it runs leave empty pages, and an experiment's page has empty pictures: they take longer than a tiny run,
    and are what tests/report looks at."""

    def build(folder: pathlib.Path) -> pathlib.Path:
        (folder / "report.html").write_text("", encoding="utf-8")
        return folder / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build", build)
        patch.setattr(Figure, "savefig", lambda figure, file, **given: file.write(b"<svg/>"))
        yield


def arguments(folder: pathlib.Path) -> list[str]:
    return ["--config", str(folder.parent / "run.toml"), "--workdir", str(folder)]


def command(folder: pathlib.Path, argv: list[str] | None = None) -> Finished:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guarded(lambda: train.main(argv or arguments(folder)))
    return Finished(folder, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def interrupting(epochs: int, number: int | None = None) -> Iterator[None]:
    """Inside it Ctrl-C, or the signal of that number, comes after so many epochs."""
    keep_epoch, seen = runner.run.keep_epoch, []

    def stopping(*given: Any) -> None:
        keep_epoch(*given)
        seen.append(given)
        if len(seen) == epochs and number is not None:
            os.kill(os.getpid(), number)
        elif len(seen) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.run, "keep_epoch", stopping)
        yield


def interrupted(folder: pathlib.Path, epochs: int) -> Finished:
    """The command, with Ctrl-C after so many epochs."""
    with interrupting(epochs):
        return command(folder)


def metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def results(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def timeless(data: Any) -> Any:
    """Without what only the clock knows."""
    if isinstance(data, dict):
        return {name: timeless(value) for name, value in data.items() if name != "seconds"}
    return [timeless(item) for item in data] if isinstance(data, list) else data


def events(folder: pathlib.Path) -> Iterator[Any]:
    """What a folder of events holds, one after another: length, its checksum, the event, its checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder: pathlib.Path) -> dict[str, dict[int, float]]:
    """Tag → step → value, as TensorBoard reads a folder of events: where a file says that it goes on from a step, what
    was written from there on is dropped."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            found = {tag: {n: x for n, x in own.items() if n < event.step} for tag, own in found.items()}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: own for tag, own in found.items() if own}


def table(folder: pathlib.Path) -> tuple[set[str], dict[str, Any]]:
    """(tags of the figures, parameters) of TensorBoard's table of runs."""
    metrics, parameters = set[str](), dict[str, Any]()
    for event in events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = plugin_hparams_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                metrics |= {info.name.tag for info in data.experiment.metric_infos}
                own = data.session_start_info.hparams
                parameters |= {name: getattr(own[name], own[name].WhichOneof("kind")) for name in own}
    return metrics, parameters


def last(folder: pathlib.Path) -> checkpoint.Checkpoint:
    with checkpoint.manager(folder / "checkpoints", keep=3) as manager:
        found = checkpoint.newest(manager)
    assert found is not None
    return found
