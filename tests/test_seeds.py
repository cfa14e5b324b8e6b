"""Several seeds as one batch: each has the numbers of a run of its own, and the batch can be stopped anywhere."""

import dataclasses
import functools
import hashlib
import io
import pathlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tomli_w

from dass_jax import bilevel, compose, config_io, feed, pipeline, running, train
from dass_jax.architectures import darts as genotype
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import programs
from dass_jax.errors import UserError
from dass_jax.runtime import records, seeds
from dass_jax.runtime.keeping import Keeper
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from dass_jax.variables import ALPHA, PARAMS, SCORES
from tests.config_files import one_line, written
from tests.runs import CONFIG, Finished, command, interrupted, last, metrics, results, timeless, workplace

FIRST = 3
SKIP = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),), reduce=((("skip_connect", 0), ("avg_pool_3x3", 1)),)
)
POOL = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),), reduce=((("avg_pool_3x3", 0), ("avg_pool_3x3", 1)),)
)


def setting(seed: int, count: int, devices: int = 1, axis: str = "batch") -> compose.Setting:
    """One cell of two channels on all digits: two steps an epoch, with every kind of random draw."""
    return compose.setting(
        config_io.from_dict(
            {
                "seed": seed,
                "seeds": count,
                "data": {"crop_padding": 1, "flip": True, "cutout": 2},
                "search": {"cells": 1, "channels": 2, "nodes": 1, "batch_size": 256, "epochs": 1, "prune_epochs": 1},
                "sparsity": {"keep": 0.3},
                "network": {"cells": 1, "channels": 2, "auxiliary": False, "drop_path": 0.3},
                "train": {"batch_size": 512, "pretrain_epochs": 2, "score_epochs": 1, "finetune_epochs": 1},
                "runtime": {"devices": devices, "compilation_cache": ""},
                "parallel": {"axis": axis},
            }
        )
    )


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), tree)


@pytest.fixture
def doubled(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs compute in 64 bits, where another order of additions stays far below 1e-9."""
    for name in ("augment", "normalise"):
        monkeypatch.setattr(programs, name, functools.partial(getattr(programs, name), dtype="float64"))
    starting = programs.starting

    def in_64_bits(*given: Any) -> Any:
        start = starting(*given)
        return lambda state: double(start(state))

    monkeypatch.setattr(programs, "starting", in_64_bits)


class Kept(NamedTuple):
    """What a run without a folder would have written."""

    run: running.Run
    lines: list[dict[str, Any]]
    states: list[bilevel.State]

    def of(self, seed: int, stage: str) -> list[dict[str, Any]]:
        """The lines of one seed and stage."""
        return [line for line in self.lines if line.get("seed", seed) == seed and line["stage"] == stage]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Any:
    """`begin(setting, programs)`: a run that keeps its lines and states; runs with one dictionary share programs."""
    kept: dict[int, Kept] = {}

    def keep_record(r: running.Run, chain: str, line: dict[str, Any], state: bilevel.State | None) -> None:
        kept[id(r.facts)].lines.append(line)
        if state is not None:
            kept[id(r.facts)].states.append(state)

    monkeypatch.setattr(pipeline, "keep_record", keep_record)

    def begun(s: compose.Setting, programs: dict[str, Any]) -> Kept:
        facts: dict[str, Any] = {"current": {}}
        kept_in = Keeper(tmp_path, None, None)
        r = running.Run(s, Progress(io.StringIO()), Signals(), kept_in, facts, programs, feed.of(s), [])
        kept[id(facts)] = Kept(r, [], [])
        return kept[id(facts)]

    return begun


def near(one: Any, other: Any) -> None:
    """The same structure, and the same numbers to 1e-9."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), one, other)


@pytest.fixture(scope="module")
def searched() -> dict[int, tuple[Kept, Any]]:
    """For tests to share: seed → (its search alone, what that found)."""
    return {}


@pytest.mark.parametrize(("axis", "count"), [("batch", 2), ("seeds", 4)])
def test_a_batch_of_searches_on_two_devices_is_each_search_alone_on_one(
    doubled: None, begin: Any, searched: dict[int, tuple[Kept, Any]], axis: str, count: int
) -> None:
    batch = begin(setting(FIRST, count, devices=2, axis=axis), {})
    found = pipeline.search(batch.run, "dass")
    programs: dict[str, Any] = {}
    assert len(batch.run.programs) == 2, "Step 1 and Step 2 are compiled once each"
    for member, seed in enumerate(range(FIRST, FIRST + count)):
        if seed not in searched:
            run = begin(setting(seed, 1), programs)
            searched[seed] = run, pipeline.search(run.run, "dass")
        alone, genotypes = searched[seed]
        assert genotypes == [found[member]]
        assert [state.variables.keys() for state in alone.states] == [state.variables.keys() for state in batch.states]
        for state, together in zip(alone.states, batch.states, strict=True):
            near(jax.tree.map(lambda x, k=member: x[k], together), state)
        for stage in ("step1", "step2"):
            (line,), (own,) = batch.of(seed, stage), alone.of(seed, stage)
            assert line["seed"] == seed and "seed" not in own
            numbers = {name: value for name, value in own.items() if isinstance(value, float) and name != "seconds"}
            near({name: line[name] for name in numbers}, numbers)
            near(line["edge_weights"], own["edge_weights"])
    first, second = (jax.tree.map(lambda x, k=k: x[k], batch.states[-1].variables) for k in (0, 1))
    for name in (ALPHA, PARAMS, SCORES):
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first[name], second[name])), strict=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {np.dtype("float64")}


def test_seeds_of_equal_genotype_are_trained_as_one_batch_and_are_each_run_alone(
    doubled: None, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {FIRST: SKIP, FIRST + 1: POOL, FIRST + 2: SKIP}
    monkeypatch.setattr(pipeline, "search", lambda r, method: [found[seed] for seed in r.setting.seeds])
    programs: dict[str, Any] = {}
    batch = begin(setting(FIRST, 3), programs)
    together = pipeline.run_method(batch.run, "dass")
    assert [line["seed"] for line in batch.lines if line["stage"] == "finetune"] == [FIRST, FIRST + 2, FIRST + 1]
    assert len(programs) == 6, "weights, scores and evaluation of each genotype"
    for part, seed in zip(together, found, strict=True):
        alone = begin(setting(seed, 1), programs)
        (own,) = pipeline.run_method(alone.run, "dass")
        assert timeless(part) == timeless(own) and part["seed"] == seed
        if found[seed] == SKIP:
            member = (FIRST, FIRST + 2).index(seed)
            group = batch.states[: len(alone.states)]
            for state, batched in zip(alone.states, group, strict=True):
                near(jax.tree.map(lambda x, k=member: x[k], batched), state)
    assert len(programs) == 9, "the group of one had the programs of a single run"
    # The two alike once more, each on a device of its own.
    s = setting(FIRST, 4, devices=2, axis="seeds").of((FIRST, FIRST + 2))
    spread = begin(s, {})
    assert s.spread and timeless(pipeline.run_method(spread.run, "dass")) == timeless([together[0], together[2]])
    for state, batched in zip(spread.states, batch.states, strict=False):
        near(state, batched)
    assert batch.run.keeper is not None
    assert genotype.load(str(batch.run.keeper.path / f"genotype_{FIRST + 1}.json")) == POOL


def test_devices_that_do_not_come_out_even_are_left_idle() -> None:
    s = setting(FIRST, 2, devices=2, axis="seeds")
    assert [len(s.of(own).devices) for own in ((3,), (3, 5), (3, 5, 7), (3, 5, 7, 9))] == [1, 2, 1, 2]
    assert [s.of(own).spread for own in ((3,), (3, 5))] == [False, True]
    assert [len(setting(FIRST, 2, devices=2).of(own).devices) for own in ((3,), (3, 5))] == [2, 2]


def test_streamed_batches_are_not_spread() -> None:
    config = {"parallel": {"axis": "seeds"}, "data": {"streaming": True}, "network": {"auxiliary": False}, "seeds": 2}
    with pytest.raises(UserError) as caught:
        compose.setting(config_io.from_dict(config))
    message = "parallel.axis = 'seeds' with data.streaming = true; allowed: 'batch', or data in memory"
    assert one_line(caught).startswith(message)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with workplace(tmp_path_factory.mktemp("runs"), 'seeds = 2\nseed = 1\ncontrols = ["random"]' + CONFIG) as folder:
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
        for section, name in (
            ("accuracy", "dense"),
            ("accuracy", "sparse"),
            ("parameters", "kept"),
            ("macs", "nonzero"),
        ):
            values = [run[section][name] for run in part["runs"]]
            assert part[section][name]["mean"] == pytest.approx(statistics.mean(values), abs=1e-3)
            assert part[section][name]["std"] == pytest.approx(statistics.stdev(values), abs=1e-3)
        for clock, seconds in part["seconds"].items():
            assert seconds == pytest.approx(sum(run["seconds"][clock] for run in part["runs"]), abs=0.02)
    names = {path.name for path in whole.folder.iterdir()}
    assert {"genotype_1.json", "genotype_2.json", "report.html"} <= names and "genotype.json" not in names
    for run in data["runs"]:
        assert genotype.to_json(genotype.load(str(whole.folder / f"genotype_{run['seed']}.json"))) == run["genotype"]
    rows = [line.split() for line in whole.out.splitlines() if line.startswith(("dass", "random"))]
    assert [row[:2] for row in rows] == [[m, s] for m in ("dass", "random") for s in ("1", "2", "mean")]


def test_every_epoch_of_every_seed_has_one_line(whole: Finished) -> None:
    found = [(x["method"], x["stage"], x["epoch"], x["seed"]) for x in metrics(whole.folder)]
    chains = {
        "dass": ("step1", "step2", "pretrain", "scores", "finetune"),
        "random": ("pretrain", "scores", "finetune"),
    }
    assert len(found) == len(set(found)) == 2 * 2 * 8
    assert set(found) == {(m, s, e, k) for m, stages in chains.items() for s in stages for e in (1, 2) for k in (1, 2)}


def test_a_batch_stopped_twice_ends_with_the_same_bits(whole: Finished) -> None:
    stopped = interrupted(whole.folder.parent / "stopped", 3)
    assert stopped.code == 130 and len(metrics(stopped.folder)) == 3, "in the middle of an epoch"
    # One line is done again; then the rest of the search and the first group's training, and half of the next one's.
    again = interrupted(stopped.folder, 6 + 6 + 3)
    assert again.code == 130 and "going on after dass · step1, epoch 1 of seeds 1, 2 (checkpoint 2)" in again.err
    assert not (again.folder / "results.json").exists()
    end = command(shutil.copytree(again.folder, again.folder.parent / "resumed"))
    assert end.code == 0 and "going on after dass · " in end.err and " of seed 2 (checkpoint " in end.err
    assert timeless(results(end.folder)) == timeless(results(whole.folder))
    assert timeless(metrics(end.folder)) == timeless(metrics(whole.folder))
    one, other = last(whole.folder), last(end.folder)
    assert (one.step, list(one.leaves)) == (other.step, list(other.leaves))
    assert all(leaf.tobytes() == other.leaves[path].tobytes() for path, leaf in one.leaves.items())


def test_a_loss_that_is_no_number_names_its_seed() -> None:
    infos = bilevel.Info(np.array([[[1.0], [np.nan]]]), {"accuracy": np.zeros((1, 2, 1))}, np.ones((1, 2, 1)))
    stage: Any = SimpleNamespace(name="pretrain", epochs=4)
    with pytest.raises(UserError) as caught:
        records.of_call("dass", stage, (7, 9), 2, 0.5, infos)
    assert one_line(caught).startswith("dass · pretrain, seed 9, epoch 3: loss = nan; allowed: a finite number")


def test_the_limit_is_drawn_with_the_first_seed() -> None:
    data = {"limit": 64}
    config = {"data": data, "network": {"auxiliary": False}, "search": {"batch_size": 16}, "train": {"batch_size": 32}}
    images = [
        compose.setting(config_io.from_dict({**config, **own})).dataset.train.images
        for own in ({"seed": 3}, {"seed": 3, "seeds": 2}, {"seed": 4})
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_one_seed_keeps_the_name_of_its_folder_and_several_are_named() -> None:
    one, two = (config_io.from_dict({"seed": 4, "seeds": count}) for count in (1, 2))
    file = pathlib.Path("configs/digits.toml")
    before = dataclasses.asdict(one)
    del before["seeds"], before["genotype"], before["parallel"], before["network"]["name"], before["network"]["width"]
    for later in ("call_seconds", "checkpoint_minutes", "nonfinite"):
        del before["runtime"][later]
    digest = hashlib.sha256(tomli_w.dumps(before).encode()).hexdigest()[:8]
    assert train.default_folder(file, one) == pathlib.Path(f"runs/digits-seed4-{digest}")
    assert str(train.default_folder(file, two)).startswith("runs/digits-seeds4-5-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 0", "seeds = 0; allowed: an integer in [1, 1000]"),
        ("seed = 2147483647\nseeds = 2", "seeds = 2 with seed = 2147483647; allowed: seeds up to 2147483647"),
    ],
)
def test_impossible_seeds_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config_io.load(written(tmp_path, text))
    assert message in one_line(caught)


def test_a_cpu_is_a_device_for_each_seed() -> None:
    """In a process of its own: here JAX has its devices."""
    seen = """
import jax
from dass_jax import config_io, train
runtime = {"compilation_cache": ""}
train.prepare_jax(config_io.from_dict({"seeds": 5, "parallel": {"axis": "seeds"}, "runtime": runtime}))
print(len(jax.devices()))
"""
    found = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert found.stdout == "5\n"


def test_seeds_that_share_the_devices_are_stopped_and_go_on_to_the_end(tmp_path: pathlib.Path) -> None:
    config = 'seeds = 2\nseed = 1\ncontrols = []\nparallel = { axis = "seeds" }'
    config += CONFIG.replace("devices = 1", "devices = 2")
    with workplace(tmp_path, config) as place:
        stopped = interrupted(place / "run", 3)
        assert stopped.code == 130 and len(metrics(stopped.folder)) == 3, "in the middle of an epoch"
        end = command(stopped.folder)
    assert end.code == 0 and "going on after dass · step1, epoch 1 of seeds 1, 2 (checkpoint 2)" in end.err
    assert [run["seed"] for run in results(end.folder)["runs"]] == [1, 2]
    lines = [(x["stage"], x["epoch"], x["seed"]) for x in metrics(end.folder)]
    assert len(set(lines)) == len(lines) == 5 * 2 * 2


def test_seeds_are_named_and_grouped_in_their_order() -> None:
    assert [seeds.named(s) for s in ((3,), (0, 1), (0, 2, 5), (4, 5, 6))] == [
        "seed 3",
        "seeds 0, 1",
        "seeds 0, 2, 5",
        "seeds 4 to 6",
    ]
    assert seeds.alike([(5, "b"), (6, "a"), (7, "b")]) == [("b", (5, 7)), ("a", (6,))]
