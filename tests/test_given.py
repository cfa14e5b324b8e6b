"""Runs without a search: a cell from a file, stopped and gone on with without that file; and a published network."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from dass_jax import architectures, compose, config, runner
from dass_jax.architectures.darts import Genotype
from dass_jax.errors import UserError
from dass_jax.networks.baselines import PLANS
from dass_jax.variables import PARAMS
from tests.config_files import one_line
from tests.runs import GIVEN as CONFIG
from tests.runs import Finished, command, interrupted, metrics, results, timeless, workplace

CELL = ((("skip_connect", 0), ("avg_pool_3x3", 1)),)
GIVEN = Genotype(CELL, CELL)
TRAINING = ["pretrain", "scores", "finetune"]
SHORT = CONFIG.replace("_epochs = 2", "_epochs = 1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    file = tmp_path_factory.mktemp("elsewhere") / "mine.json"
    file.write_text(json.dumps(architectures.to_json(GIVEN)), encoding="utf-8")
    with workplace(tmp_path_factory.mktemp("given"), f"architecture = {str(file)!r}\n{SHORT}") as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    return command(place / "whole")


def test_a_given_cell_is_trained_without_a_search(whole: Finished) -> None:
    assert whole.code == 0, whole.err
    assert [line["phase"] for line in metrics(whole.folder)] == TRAINING
    found = results(whole.folder)
    assert (found["method"], found["controls"], set(found["seconds"])) == ("architecture", {}, {"compile", *TRAINING})
    there = architectures.load(str(whole.folder / "architecture.json"))
    assert architectures.from_json(found["architecture"]) == GIVEN == there
    assert any(line.startswith("architecture ") for line in whole.out.splitlines())


def test_the_run_goes_on_from_its_folder_alone(whole: Finished, place: pathlib.Path) -> None:
    stopped = interrupted(place / "stopped", 1)
    assert stopped.code == 130
    before = config.load(place / "run.toml")
    (place / "run.toml").write_text((stopped.folder / "config.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert str(place.parent) not in before.architecture and config.load(place / "run.toml") == before
    resumed = command(stopped.folder)
    assert resumed.code == 0, resumed.err
    assert "resuming after architecture · pretrain, epoch 1" in resumed.err
    assert timeless(results(resumed.folder)) == timeless(results(whole.folder))


def test_a_published_network_is_trained_pruned_and_reported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PLANS["resnet18"]
    # Compiling is the cost: one block is enough here, all of them are compared with PyTorch's elsewhere.
    monkeypatch.setitem(PLANS, "resnet18", plan._replace(stages=(plan.stages[1]._replace(repeats=1),)))
    text = SHORT.replace("network = { cells = 1, channels = 2, auxiliary = false, drop_path = 0.0 }\n", "")
    text = text.replace("[train]", '[network]\nname = "resnet18"\nwidth = 0.1\n[train]')
    with workplace(tmp_path, text) as folder:
        done = command(folder / "run")
    assert done.code == 0, done.err
    assert [line["phase"] for line in metrics(done.folder)] == TRAINING
    found = results(done.folder)
    assert (found["method"], found["architecture"], found["controls"]) == ("resnet18", None, {})
    assert sum(layer["kept"] for layer in found["layers"]) == found["parameters"]["kept"] < found["parameters"]["total"]
    assert not (done.folder / "architecture.json").exists()
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "resnet18" in page and "Architecture" not in page


def test_a_given_cell_takes_the_imagenet_stem(tmp_path: pathlib.Path) -> None:
    images, labels = np.zeros((8, 40, 40, 3), np.uint8), np.arange(8) % 2
    arrays = {f"{part}_{name}": x for part in ("train", "test") for name, x in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "some.npz", **arrays)
    s = compose.setting(
        config.from_dict(
            {
                "architecture": "dass_99",
                "data": {"source": str(tmp_path / "some.npz")},
                "network": {"stem": "imagenet", "cells": 3, "channels": 4, "auxiliary": False},
                "train": {"batch_size": 4},
            }
        )
    )
    phases = compose.training(s, architectures.load(s.config.architecture)).phases
    params = runner.template(s, phases[:1]).variables[PARAMS]
    assert params["stem"]["conv_1"]["conv"]["weight"].shape == (1, 2, 3, 3, 3)
    assert params["head"]["classifier"]["linear"]["weight"].shape == (1, 2, 4 * 4 * 4)


def test_a_cell_of_more_nodes_than_the_space_has_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        compose.setting(config.from_dict({"architecture": "dass_99", "space": {"nodes": 2}}))
    assert one_line(caught).startswith("architecture: nodes = 4; allowed: at most 2, which is space.nodes")
