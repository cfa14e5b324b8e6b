"""The recipe `gradual` on a network of one layer, and whole runs of SCAS on DARTS: counted and resumed."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.phases import WHOLE, Feed, Phase
from dass_jax.recipes import gradual, prune
from dass_jax.recipes.gradual import Fields
from dass_jax.runtime import networks
from dass_jax.schedules import by_epoch, constant, linear, restarted
from dass_jax.sparsity import ASIDE, PRUNING, kept_in_layer
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, RATES, flatten
from tests import runs
from tests.recipes.test_recipes import FIELDS as PRUNE
from tests.recipes.test_recipes import KEEP, KEY, PROBLEM, batch

C = Fields(batch_size=8, epochs=4, lr=0.5, final_lr=0.1, prune_every=2)
STEPS = 5


def phase_of(**changed: Any) -> Phase:
    return gradual.train(dataclasses.replace(C, **changed), PROBLEM).phases[0]


def trained(**changed: Any) -> list[tuple[Any, Any]]:
    """(variables, rates) after each step of a whole training on one batch."""
    phase = phase_of(**changed)
    update = jax.jit(phase.algorithm.update)
    state, found = phase.begin(KEY, None), []
    for epoch in range(phase.epochs):
        every = phase.rates((epoch + np.arange(STEPS) / STEPS) / phase.epochs)
        for step in range(STEPS):
            rates = jax.tree.map(lambda x, n=step: jnp.float32(x[n]), every)
            seeing = state._replace(variables={**state.variables, RATES: rates})
            state, _ = update(seeing, {PARAMS: batch()}, KEY, learning_rate=rates["learning_rate"])
            state.variables.pop(RATES)
            found.append((state.variables, rates))
    return found


def test_it_is_one_phase_of_all_images_that_begins_with_all_weights() -> None:
    training = gradual.train(C, PROBLEM)
    (phase,) = training.phases
    assert training.evaluations == {"gradual": "sparse"}
    assert phase.feeds == {PARAMS: Feed(WHOLE, 8, cutout=True, paths=(3,))} and phase.unread == ()
    assert phase.rates(np.arange(3) / 12).keys() == {"learning_rate", "drop_path", PRUNING}
    v = phase.begin(KEY, None).variables
    assert (v[MASKS]["linear"]["weight"] == 1).all() and ASIDE not in v
    assert phase.observe(jax.tree.map(np.asarray, v)).metrics == {"sparsity": 0.0}
    assert [curve.metric for curve in phase.curves][-1] == "sparsity"


def test_after_every_step_a_layer_has_its_count_and_at_the_end_that_of_the_recipe_prune() -> None:
    kept = 40
    for step, (v, rates) in enumerate(trained(), 1):
        if rates[PRUNING]["renew"]:
            kept = kept_in_layer(40, KEEP + (1 - KEEP) * max(0.0, 1 - step / 10) ** 3)
        weight, mask = np.asarray(v[PARAMS]["linear"]["weight"]), np.asarray(v[MASKS]["linear"]["weight"])
        assert mask.sum() == kept and (weight[mask == 0] == 0).all() and (weight[mask == 1] != 0).all()
        assert (v[PARAMS]["linear"]["bias"] != 1).all()
    learning = prune.train(PRUNE, PROBLEM).phases[1]
    scored = learning.network(learning.begin(KEY, prune.train(PRUNE, PROBLEM).phases[0].begin(KEY, None)).variables)
    assert kept == scored[MASKS]["linear"]["weight"].sum() == kept_in_layer(40, KEEP)
    network = phase_of().network(v)
    assert network.keys() == {PARAMS, BATCH_STATS, MASKS}


@pytest.mark.parametrize(
    "changed",
    [
        {"ramp": 1.0},
        {"prune_every": 1},
        {"regrow": True},
        {"nesterov": True},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"clip": 0.1},
        {"lr": 0.4},
        {"final_lr": 0.0},
        {"restart_epochs": 2},
        {"restart_epochs": 1, "restart_factor": 1},
    ],
    ids=str,
)
def test_every_option_changes_the_network(changed: dict[str, Any], usual: Any) -> None:
    found = trained(**changed)[-1][0][PARAMS]["linear"]["weight"]
    assert not np.array_equal(found, usual)


@pytest.fixture(scope="module")
def usual() -> Any:
    return trained()[-1][0][PARAMS]["linear"]["weight"]


def test_the_cosine_restarts_where_enas_does() -> None:
    """310 epochs from 0.05 to 0.0005, cycles of 10, 20, 40, … epochs."""
    c = Fields(epochs=310, lr=0.05, final_lr=0.0005, restart_epochs=10)
    wanted, epoch, length = [], 0, 10
    for _ in range(310):
        wanted.append(0.0005 + 0.0495 * 0.5 * (1 + np.cos(np.pi * epoch / length)))
        epoch += 1
        if epoch == length:
            epoch, length = 0, 2 * length
    (phase,) = gradual.train(c, PROBLEM).phases
    at = np.concatenate([phase.rates((n + np.arange(3) / 3) / 310)["learning_rate"][PARAMS] for n in range(310)])
    np.testing.assert_allclose(at, np.repeat(wanted, 3), rtol=1e-12)
    assert np.flatnonzero(np.diff(at) > 0).tolist() == [3 * n - 1 for n in (10, 30, 70, 150)]


@pytest.mark.parametrize(("epochs", "first", "factor"), [(7, 7, 2), (8, 3, 1), (13, 1, 3), (5, 9, 2)])
def test_cycles_of_any_length_begin_anew_and_the_last_may_be_cut_short(epochs: int, first: int, factor: int) -> None:
    place, length, wanted = 0, first, []
    for _ in range(epochs):
        wanted.append(place / length)
        place += 1
        if place == length:
            place, length = 0, length * factor
    schedule = by_epoch(restarted(linear(0.0, 1.0), epochs, first, factor), epochs)
    found = [schedule((n + np.arange(2) / 2) / epochs) for n in range(epochs)]
    np.testing.assert_allclose(found, np.repeat(wanted, 2).reshape(-1, 2), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(restarted(constant(0.3), epochs, first, factor)(np.zeros(2)), 0.3)


CONFIG = f"""{runs.LADDER}[method]
name = "scas_darts"
epochs = 3
batch_size = 8
alpha_lr = 1e-6
[train]
recipe = "gradual"
batch_size = 16
epochs = 3
prune_every = 2
restart_epochs = 1
nesterov = true
[runtime]
devices = 1
"""
"""A plugin's space, whose programs are compiled in a moment. α moves so little that an architecture is its seed's."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with runs.workplace(tmp_path_factory.mktemp("gradual"), CONFIG) as folder, runs.undrawn():
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> runs.Finished:
    return runs.command(place / "whole")


def test_a_run_says_how_much_is_pruned_and_counts_what_is_left(whole: runs.Finished) -> None:
    assert whole.code == 0, whole.err
    for phase in ("search", "gradual"):
        seen = [line["sparsity"] for line in runs.metrics(whole.folder) if line["phase"] == phase and line["seed"] == 0]
        assert seen == sorted(seen) and 0 < seen[0] < seen[-1]
    for one in runs.results(whole.folder)["runs"]:
        assert list(one["evaluations"]) == ["sparse"] and one["keep"] == 0.25
        layers, parameters = one["layers"], one["parameters"]
        assert seen[-1] == pytest.approx(100 * (1 - parameters["kept"] / parameters["prunable"]), abs=1e-5)
        assert sum(layer["kept"] for layer in layers) == parameters["kept"]
        file = networks.load(networks.path(whole.folder, "scas_darts", one["seed"]))
        for layer in layers:
            weight = flatten(file.variables[PARAMS])[layer["path"]]
            assert layer["kept"] == np.count_nonzero(weight) == kept_in_layer(weight.size, 0.25)


def test_an_interrupted_run_ends_with_the_same_bits(whole: runs.Finished, place: pathlib.Path) -> None:
    folder = place / "parts"
    for epochs in (1, 3):  # in the search, in the training
        assert runs.interrupted(folder, epochs).code != 0
    assert runs.command(folder).code == 0
    found, wanted = runs.last(folder), runs.last(whole.folder)
    assert found.leaves.keys() == wanted.leaves.keys()
    for name, leaf in wanted.leaves.items():
        assert leaf.tobytes() == found.leaves[name].tobytes(), name
    assert runs.timeless(runs.metrics(folder)) == runs.timeless(runs.metrics(whole.folder))
    assert runs.timeless(runs.results(folder)) == runs.timeless(runs.results(whole.folder))
