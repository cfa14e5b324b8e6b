"""The recipe `none`: what is pruned of fresh weights, that they stay as they are, and whole runs."""

import pathlib
from collections.abc import Iterator

import chex
import jax
import numpy as np
import pytest

from dass_jax.recipes import none
from dass_jax.sparsity import kept_in_layer
from dass_jax.variables import MASKS, PARAMS
from tests import runs
from tests.recipes.test_recipes import KEEP, KEY, PROBLEM

CONFIG = f"""{runs.LADDER}method = {{ name = "random" }}
train = {{ recipe = "none", batch_size = 16 }}
[runtime]
devices = 1
"""


def test_the_largest_fresh_weights_are_kept_and_no_step_changes_anything() -> None:
    training = none.train(none.Fields(), PROBLEM)
    (phase,) = training.phases
    state = phase.begin(KEY, None)
    magnitude, mask = (np.abs(state.variables[name]["linear"]["weight"]) for name in (PARAMS, MASKS))
    assert mask.sum() == kept_in_layer(mask.size, KEEP) and set(np.unique(mask)) == {0, 1}
    assert magnitude[mask == 1].min() > magnitude[mask == 0].max()
    after, infos = jax.jit(phase.algorithm.update)(state, {}, KEY)
    chex.assert_trees_all_equal(after, state)
    assert float(infos[PARAMS].gradient_norm) == 0
    assert dict(phase.feeds) == {} and training.evaluations == {"none": "untrained"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with runs.workplace(tmp_path_factory.mktemp("none"), CONFIG) as folder, runs.undrawn():
        yield folder


def test_a_run_says_what_it_found_and_how_many_weights_that_keeps(place: pathlib.Path) -> None:
    whole = runs.command(place / "whole")
    assert whole.code == 0, whole.err
    assert {line["phase"] for line in runs.metrics(whole.folder)} == {"none"}
    for one in runs.results(whole.folder)["runs"]:
        assert list(one["evaluations"]) == ["untrained"] and one["keep"] == 0.25
        assert one["parameters"]["kept"] == sum(kept_in_layer(layer["weights"], 0.25) for layer in one["layers"])


def test_it_has_no_fields_of_a_training(place: pathlib.Path) -> None:
    refused = runs.command(place / "refused", [*runs.arguments(place / "refused"), "--train.weight_decay", "0.1"])
    assert refused.code != 0 and "--train.weight-decay" in refused.err
