"""Several seeds as one batch: what a run of several leaves, how it is named, and who is trained with whom.

That each seed of a batch has the numbers of a run of its own, and that a batch can be stopped anywhere, is held on toy
phases (test_runner.py).
"""

import io
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dass_jax import architectures, compose, config, feed, pipeline, train
from dass_jax.errors import UserError
from dass_jax.runner import Runner
from dass_jax.runtime import keeping, seeds
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from tests.config_files import one_line, written
from tests.runs import SYSTEM, Finished, command, metrics, results, timeless, undrawn, workplace

FIRST = 3
PRUNED = f"""
seeds = 2
seed = 1
controls = ["random"]
plugins = ["{SYSTEM}"]
data = {{ limit = 64, crop_padding = 1 }}
space = {{ name = "ladder", height = 1 }}
sparsity = {{ keep = 0.3 }}
method = {{ epochs = 1, prune_epochs = 1, batch_size = 16 }}
train = {{ batch_size = 32, pretrain_epochs = 2, score_epochs = 1, finetune_epochs = 1 }}
[runtime]
devices = 1
"""
"""DASS in a plugin's space, whose programs are compiled in a moment."""


def setting(seed: int, count: int, devices: int = 1, axis: str = "batch") -> compose.Setting:
    """Of all digits: a limit would be drawn with the first seed."""
    return compose.setting(
        config.from_dict(
            {
                "seed": seed,
                "seeds": count,
                "plugins": [str(SYSTEM)],
                "data": {"crop_padding": 1},
                "space": {"name": "ladder"},
                "method": {"batch_size": 256, "epochs": 1, "prune_epochs": 1},
                "sparsity": {"keep": 0.3},
                "train": {"batch_size": 512, "pretrain_epochs": 1, "score_epochs": 1, "finetune_epochs": 1},
                "runtime": {"devices": devices, "compilation_cache": ""},
                "parallel": {"axis": axis},
            }
        )
    )


def trained(s: compose.Setting, found: dict[int, Any], programs: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """(results, lines of metrics) of the training of what each seed has found; runs with one dictionary share
    programs."""
    lines: list[dict[str, Any]] = []

    class Watching(Runner):
        def record(self, s: Any, chain: Any, line: dict[str, Any]) -> None:
            lines.append(line)

        def checkpoint(self, *given: Any, **more: Any) -> None:
            """Nothing is kept."""

    facts = {**keeping.NOTHING, "epochs": {}, "current": {}, "declared": {}}
    r = Watching(Progress(io.StringIO()), Signals(), None, feed.of(s), None, facts, programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "search", lambda r, s, *given: [pipeline.Found(found[seed], ()) for seed in s.seeds])
        return pipeline.run_method(r, s, "dass", None), lines


def test_seeds_of_equal_architecture_are_trained_as_one_batch_and_are_each_run_alone(place: pathlib.Path) -> None:
    setting(FIRST, 1)  # knows ladders
    one, other = (
        architectures.from_json({"space": "ladder", "rungs": [*rungs, "fold"]})
        for rungs in (("wave", "fold"), ("fold", "wave"))
    )
    found = {FIRST: one, FIRST + 1: other, FIRST + 2: one}
    programs: dict[str, Any] = {}
    together, lines = trained(setting(FIRST, 3), found, programs)
    assert [line["seed"] for line in lines if line["phase"] == "finetune"] == [FIRST, FIRST + 2, FIRST + 1]
    assert len(programs) == 6, "weights, scores and evaluation of each architecture"
    (alone,), _ = trained(setting(FIRST + 1, 1), found, programs)
    assert timeless(together[1]) == timeless(alone) and len(programs) == 6, "a group of one has a single run's programs"
    for part, seed in zip(together, found, strict=True):
        assert part["seed"] == seed and architectures.from_json(part["architecture"]) == found[seed]


def test_devices_that_do_not_come_out_even_are_left_idle(place: pathlib.Path) -> None:
    s = setting(FIRST, 2, devices=2, axis="seeds")
    assert [len(s.of(own).devices) for own in ((3,), (3, 5), (3, 5, 7), (3, 5, 7, 9))] == [1, 2, 1, 2]
    assert s.layout.sharing == 1 and setting(FIRST, 2, devices=2).layout.sharing == 2
    assert [len(setting(FIRST, 2, devices=2).of(own).devices) for own in ((3,), (3, 5))] == [2, 2]


def test_streamed_batches_are_not_spread() -> None:
    given = {"parallel": {"axis": "seeds"}, "data": {"streaming": True}, "network": {"auxiliary": False}, "seeds": 2}
    with pytest.raises(UserError) as caught:
        compose.setting(config.from_dict(given))
    message = "parallel.axis = 'seeds' with data.streaming = true; allowed: 'batch', or data in memory"
    assert one_line(caught).startswith(message)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with undrawn(), workplace(tmp_path_factory.mktemp("runs"), PRUNED) as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    return command(place / "whole")


def test_a_finished_batch_reports_every_seed_and_their_spread(whole: Finished) -> None:
    assert whole.code == 0, whole.err
    data = results(whole.folder)
    for method, part in {"dass": data, **data["controls"]}.items():
        assert (part["method"], part["seeds"], part["keep"]) == (method, [1, 2], 0.3)
        assert [run["seed"] for run in part["runs"]] == [1, 2] and {run["method"] for run in part["runs"]} == {method}
        figures = {
            ("evaluations", name, metric): [run["evaluations"][name][metric] for run in part["runs"]]
            for name in ("dense", "sparse")
            for metric in ("accuracy", "loss")
        }
        figures |= {("parameters", "kept"): [run["parameters"]["kept"] for run in part["runs"]]}
        figures |= {("macs", "nonzero"): [run["macs"]["nonzero"] for run in part["runs"]]}
        for path, values in figures.items():
            found = part
            for name in path:
                found = found[name]
            assert found["mean"] == pytest.approx(statistics.mean(values), abs=1e-3)
            assert found["std"] == pytest.approx(statistics.stdev(values), abs=1e-3)
        for clock, seconds in part["seconds"].items():
            assert seconds == pytest.approx(sum(run["seconds"].get(clock, 0) for run in part["runs"]), abs=0.02)
    names = {path.name for path in whole.folder.iterdir()}
    assert {"architecture_1.json", "architecture_2.json", "report.html"} <= names and "architecture.json" not in names
    for run in data["runs"]:
        file = whole.folder / f"architecture_{run['seed']}.json"
        assert architectures.load(str(file)) == architectures.from_json(run["architecture"])
    rows = [line.split() for line in whole.out.splitlines() if line.startswith(("dass", "random"))]
    assert [row[:2] for row in rows] == [[m, s] for m in ("dass", "random") for s in ("1", "2", "mean")]


def test_every_epoch_of_every_seed_has_one_line(whole: Finished) -> None:
    found = [(x["method"], x["phase"], x["epoch"], x["seed"]) for x in metrics(whole.folder)]
    training = {"pretrain": 2, "scores": 1, "finetune": 1}
    epochs = {"dass": {"step1": 1, "step2": 1, **training}, "random": training}
    assert len(found) == len(set(found)) == 2 * (6 + 4)
    assert set(found) == {
        (m, p, e, k)
        for m, own in epochs.items()
        for p, count in own.items()
        for e in range(1, count + 1)
        for k in (1, 2)
    }
    assert {path.name for path in (whole.folder / "events").iterdir()} == {
        f"{method}-seed{seed}" for method in epochs for seed in (1, 2)
    }


def test_the_limit_is_drawn_with_the_first_seed() -> None:
    given = {
        "data": {"limit": 64},
        "network": {"auxiliary": False},
        "method": {"batch_size": 16},
        "train": {"batch_size": 32},
        "controls": [],
    }
    images = [
        compose.setting(config.from_dict({**given, **own})).dataset.train.images
        for own in ({"seed": 3}, {"seed": 3, "seeds": 2}, {"seed": 4})
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_folders_are_named_after_the_seeds() -> None:
    one, two = (config.from_dict({"seed": 4, "seeds": count}) for count in (1, 2))
    file = pathlib.Path("configs/digits.toml")
    assert train.default_folder(file, one) == pathlib.Path(f"runs/digits-seed4-{config.digest(one)}")
    assert train.default_folder(file, two) == pathlib.Path(f"runs/digits-seeds4-5-{config.digest(two)}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 0", "seeds = 0; allowed: an integer in [1, 1000]"),
        ("seed = 2147483647\nseeds = 2", "seeds = 2 with seed = 2147483647; allowed: seeds up to 2147483647"),
    ],
)
def test_impossible_seeds_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(written(tmp_path, text))
    assert message in one_line(caught)


def test_a_cpu_is_a_device_for_each_seed() -> None:
    """In a process of its own: here JAX has its devices."""
    seen = """
import jax
from dass_jax import config, train
runtime = {"compilation_cache": ""}
train.prepare_jax(config.from_dict({"seeds": 5, "parallel": {"axis": "seeds"}, "runtime": runtime}))
print(len(jax.devices()))
"""
    found = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert found.stdout == "5\n"


def test_seeds_are_named_and_grouped_in_their_order() -> None:
    assert [seeds.named(s) for s in ((3,), (0, 1), (0, 2, 5), (4, 5, 6))] == [
        "seed 3",
        "seeds 0, 1",
        "seeds 0, 2, 5",
        "seeds 4 to 6",
    ]
    assert seeds.alike([(5, "b"), (6, "a"), (7, "b")]) == [("b", (5, 7)), ("a", (6,))]
