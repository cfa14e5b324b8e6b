"""What each phase of a run may change and what it must leave alone, bit for bit; and that every option counts."""

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from dass_jax import architectures, bilevel, compose, config, feed, runner, variables
from dass_jax.architectures.darts import Genotype
from dass_jax.bilevel.hypergradients import fields
from dass_jax.phases import Phase
from dass_jax.runner import Chain, Runner
from dass_jax.runtime import keeping, seeds
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from dass_jax.spaces.darts import RULES
from dass_jax.variables import ALPHA, BATCH_STATS, MASKS, PARAMS, SCORES
from tests import supernets
from tests.runs import SYSTEM, own_tables

KEEP = 0.3
EPOCHS = 2
GENOTYPE = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),),
    reduce=((("avg_pool_3x3", 0), ("skip_connect", 1)),),
)
"""The network has one cell, which reduces: its skip connection has weights and can be dropped."""


def setting(method: str = "dass", **changes: Any) -> compose.Setting:
    """One cell of two channels on 64 digits; `changes` by dotted name with "__" for the dot."""
    searched = {"prune_epochs": EPOCHS, "epochs": EPOCHS} if method == "dass" else {"epochs": 2 * EPOCHS}
    data: dict[str, Any] = {
        "controls": [],
        "data": {"limit": 64, "crop_padding": 1},
        "space": {"cells": 1, "channels": 2, "nodes": 1},
        "method": {"name": method, "batch_size": 16, **searched},
        "sparsity": {"keep": KEEP},
        "network": {"cells": 1, "channels": 2, "auxiliary": False, "drop_path": 0.0},
        "train": {"batch_size": 32, "pretrain_epochs": EPOCHS, "score_epochs": EPOCHS, "finetune_epochs": EPOCHS},
        "runtime": {"devices": 1, "compilation_cache": ""},
    }
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (data.setdefault(section, {}) if section else data)[field] = value
    return compose.setting(config.from_dict(data))


LIGHT: dict[str, Any] = {"plugins": [str(SYSTEM)], "space": {"name": "ladder", "height": 6}, "network": {}}
"""A plugin's space, whose programs are compiled in a moment, for what has nothing to do with a space."""


class Trail(NamedTuple):
    """A chain of phases as it ran, of its one seed."""

    states: dict[str, list[bilevel.State]]
    """By phase: the state at its start and after each epoch."""
    records: dict[str, list[dict[str, Any]]]
    """By phase: each epoch's line of metrics."""
    programs: list[str]
    """Names of the programs that were compiled."""
    traces: list[str]
    """The phases whose algorithm JAX walked through, once for each walk."""


def phases_of(s: compose.Setting, chain: str) -> tuple[Phase, ...]:
    if chain == runner.SEARCH:
        return compose.search(s, s.config.method.name).phases
    ladder = {"space": "ladder", "rungs": ["wave", "fold", "wave"]}
    found = GENOTYPE if s.config.space.name == "darts" else architectures.from_json(ladder)
    return compose.training(s, found).phases


def follow(s: compose.Setting, chain: str, first_only: bool = False) -> Trail:
    """Runs a chain as the pipeline does, without writing anything."""
    facts = {**keeping.NOTHING, "epochs": {}, "current": {}, "declared": {}}
    r = Runner(Progress(io.StringIO()), Signals(), None, feed.of(s), None, facts)
    trail = Trail({}, {}, [], [])

    def watched(phase: Phase) -> Phase:
        def update(*arguments: Any, **extra: Any) -> Any:
            trail.traces.append(phase.name)
            return phase.algorithm.update(*arguments, **extra)

        return phase._replace(algorithm=bilevel.Algorithm(phase.algorithm.init, update))

    def keep_state(state: Any, phase: str) -> None:
        (own,) = seeds.members(jax.tree.map(np.array, state), 1)
        trail.states.setdefault(phase, []).append(own)

    begun = runner.begun

    def beginning(s: Any, phase: Phase, *given: Any) -> Any:
        state = begun(s, phase, *given)
        keep_state(state, phase.name)
        return state

    class Watching(Runner):
        def record(self, s: Any, chain: Chain, line: dict[str, Any]) -> None:
            trail.records.setdefault(line["phase"], []).append(line)

        def checkpoint(self, s: Any, chain: Chain, phase: Phase, standing: Any, stopped: bool) -> None:
            keep_state(standing.state, phase.name)

    r = Watching(**{field.name: getattr(r, field.name) for field in dataclasses.fields(r)})
    chosen = tuple(watched(phase) for phase in phases_of(s, chain))[: 1 if first_only else None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.run, "begun", beginning)
        runner.run_chain(r, s, Chain("dass", chain, chosen, lambda phase, epoch, v: [{}]))
    trail.programs.extend(r.programs)
    return trail


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    with own_tables():
        yield


@pytest.fixture(scope="module")
def search() -> Trail:
    return follow(setting(), "search")


@pytest.fixture(scope="module")
def training() -> Trail:
    return follow(setting(), "training")


@pytest.fixture(scope="module")
def light_search() -> Trail:
    return follow(setting(**LIGHT), "search", first_only=True)


@pytest.fixture(scope="module")
def light_training() -> Trail:
    return follow(setting(**LIGHT), "training", first_only=True)


def differing(one: Any, other: Any) -> set[str]:
    """The paths of the leaves whose bits differ."""
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)
    left, right = (variables.flatten(tree) for tree in (one, other))
    return {path for path in left if left[path].tobytes() != right[path].tobytes()}


def changed(trail: Trail, phase: str) -> set[str]:
    """The collections that a phase changes."""
    first, *_, last = (state.variables for state in trail.states[phase])
    assert set(first) == set(last)
    return {name for name in first if differing(first[name], last[name])}


def test_step_1_trains_weights_and_architecture(search: Trail) -> None:
    assert set(search.states["step1"][0].variables) == {ALPHA, PARAMS, BATCH_STATS}
    assert changed(search, "step1") == {ALPHA, PARAMS, BATCH_STATS}
    first, last = search.states["step1"][0].variables, search.states["step1"][-1].variables
    assert differing(first[PARAMS], last[PARAMS]) == set(variables.flatten(first[PARAMS]))


def test_step_2_trains_scores_and_architecture_and_no_weight(search: Trail) -> None:
    assert set(search.states["step2"][0].variables) == {ALPHA, PARAMS, BATCH_STATS, SCORES}
    assert changed(search, "step2") == {ALPHA, SCORES, BATCH_STATS}
    assert not differing(search.states["step1"][-1].variables[PARAMS], search.states["step2"][-1].variables[PARAMS])


def test_dass_op_trains_kept_weights_under_the_masks_of_the_initial_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    supernets.few_operations(monkeypatch)
    trail = follow(setting("dass_op"), "search")
    first, last = trail.states["search"][0].variables, trail.states["search"][-1].variables
    assert set(first) == {ALPHA, PARAMS, BATCH_STATS, MASKS}
    assert changed(trail, "search") == {ALPHA, PARAMS, BATCH_STATS}
    masks, stacks = variables.flatten(first[MASKS]), variables.flatten(variables.prunable(first[PARAMS], RULES))
    assert set(masks) == set(stacks)
    for path, mask in masks.items():
        before, after = (variables.flatten(v[PARAMS])[path] for v in (first, last))
        assert before[mask == 0].tobytes() == after[mask == 0].tobytes(), path
        # Eq. 3 orders a layer's weights as their magnitudes do.
        count = math.prod(mask.shape[: stacks[path]])
        for kept, weights in zip(mask.reshape(count, -1), np.abs(before).reshape(count, -1), strict=True):
            assert kept.sum() == kept.size - int((1 - KEEP) * kept.size)
            assert weights[kept == 0].max(initial=0) <= weights[kept == 1].min(), path
    moved = [variables.flatten(first[PARAMS])[path] != variables.flatten(last[PARAMS])[path] for path in masks]
    assert any(leaf.any() for leaf in moved)


def test_dass_joint_trains_everything_with_a_rate_for_each_level(monkeypatch: pytest.MonkeyPatch) -> None:
    supernets.few_operations(monkeypatch)
    s = setting("dass_joint")
    c = s.config.method.fields
    rates = phases_of(s, "search")[0].rates(np.zeros(1))["learning_rate"]
    wanted = {"upper": c.alpha_lr, "lower": c.theta_lr, "scores": c.scores_lr}
    assert {name: float(rate[0]) for name, rate in rates.items()} == wanted
    trail = follow(s, "search")
    assert changed(trail, "search") == {ALPHA, PARAMS, SCORES, BATCH_STATS}
    first = trail.states["search"][0].variables
    weights = variables.select(first[PARAMS], first[SCORES])
    signs = jax.tree.map(lambda w, s: bool((np.sign(w) == np.sign(s)).all()), weights, first[SCORES])
    assert all(jax.tree.leaves(signs)), "scores start from the weights"
    assert {"upper_loss", "lower_loss", "scores_loss"} <= set(trail.records["search"][0])


def test_step_2_trains_the_weights_too_where_that_is_asked_for() -> None:
    s = setting(**LIGHT, method__step2="both")
    c = s.config.method.fields
    rates = phases_of(s, "search")[1].rates(np.zeros(1))["learning_rate"]
    wanted = {"upper": c.alpha_lr, "lower": c.theta_lr, "scores": c.scores_lr}
    assert {name: float(rate[0]) for name, rate in rates.items()} == wanted
    trail = follow(s, "search")
    assert changed(trail, "step2") == {ALPHA, PARAMS, SCORES}
    before, after = trail.states["step1"][-1].variables, trail.states["step2"][0].variables
    assert not differing(before[PARAMS], after[PARAMS])


def test_step_2_carries_the_architecture_on_and_starts_the_scores_optimizer_anew(search: Trail) -> None:
    before, after = search.states["step1"][-1], search.states["step2"][0]
    for name in (ALPHA, PARAMS, BATCH_STATS):
        assert not differing(before.variables[name], after.variables[name]), name
    chex.assert_trees_all_equal(after.optimizers[ALPHA], before.optimizers[ALPHA])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(after.optimizers[ALPHA]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(before.optimizers[PARAMS]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.optimizers[SCORES]))


def test_adams_count_of_the_architecture_runs_through_both_steps(search: Trail) -> None:
    steps = 32 // 16  # a half of the 64 images, in batches of 16
    for number, phase in enumerate(("step1", "step2")):
        for epoch, state in enumerate(search.states[phase]):
            counts = [int(x) for x in jax.tree.leaves(state.optimizers[ALPHA]) if x.dtype == np.int32]
            assert counts == [steps * (number * EPOCHS + epoch)]


def test_pretraining_has_dense_masks(training: Trail) -> None:
    assert changed(training, "pretrain") == {PARAMS, BATCH_STATS}
    masks = training.states["pretrain"][-1].variables[MASKS]
    assert all((mask == 1).all() for mask in jax.tree.leaves(masks))


def test_score_learning_changes_no_weight_and_no_mask(training: Trail) -> None:
    assert set(training.states["scores"][0].variables) == {PARAMS, BATCH_STATS, MASKS, SCORES}
    assert changed(training, "scores") == {SCORES, BATCH_STATS}
    before = training.states["pretrain"][-1].variables
    assert not differing(before[PARAMS], training.states["scores"][-1].variables[PARAMS])


def test_fine_tuning_moves_kept_weights_only(training: Trail) -> None:
    assert set(training.states["finetune"][0].variables) == {PARAMS, BATCH_STATS, MASKS}
    assert changed(training, "finetune") == {PARAMS, BATCH_STATS}
    first, last = (variables.flatten(training.states["finetune"][i].variables[PARAMS]) for i in (0, -1))
    masks = variables.flatten(training.states["finetune"][0].variables[MASKS])
    for path, mask in masks.items():
        pruned = mask == 0
        assert first[path][pruned].tobytes() == last[path][pruned].tobytes(), path
        assert (first[path] != last[path])[~pruned].all(), path
    assert set(first) - set(masks) and all((first[path] != last[path]).any() for path in set(first) - set(masks))


def test_the_final_masks_keep_the_largest_scores_of_each_layer_exactly(training: Trail) -> None:
    scores = variables.flatten(training.states["scores"][-1].variables[SCORES])
    masks = variables.flatten(training.states["finetune"][-1].variables[MASKS])
    assert set(masks) == set(scores) and any("factorized" in path for path in masks)
    for path, mask in masks.items():
        layers = len(mask) if "factorized" in path else 1  # two layers side by side
        for score, kept in zip(scores[path].reshape(layers, -1), mask.reshape(layers, -1), strict=True):
            assert kept.sum() == score.size - int((1 - KEEP) * score.size), path
            assert np.abs(score)[kept == 1].min() >= np.abs(score)[kept == 0].max(), path


def test_each_program_is_traced_once_and_pretraining_and_fine_tuning_share_one(search: Trail, training: Trail) -> None:
    assert sorted(search.traces) == ["step1", "step2"]
    assert sorted(training.traces) == ["pretrain", "scores"]
    assert (len(search.programs), len(training.programs)) == (2, 2)
    assert {len(records) for trail in (search, training) for records in trail.records.values()} == {EPOCHS}


GOLDEN = {"lower_loss": 2.288675, "upper_loss": 2.295355, "normal": 0.007505174, "reduce": 0.012651424}


def test_one_epoch_of_step_1_gives_the_recorded_numbers(search: Trail) -> None:
    alpha = search.states["step1"][1].variables[ALPHA]
    found = {name: search.records["step1"][0][name] for name in ("lower_loss", "upper_loss")}
    found |= {name: float(np.abs(weights).sum()) for name, weights in alpha.items()}
    assert found == pytest.approx(GOLDEN, rel=1e-4), (
        f"one epoch of Step 1 gives {found}. Renew GOLDEN with these numbers only if the mathematics, the initial "
        "values or the random draws are meant to change, and say so in the changelog; otherwise it is a fault."
    )


def outcome(**changes: Any) -> list[Any]:
    """The variables after each epoch of pre-training."""
    trail = follow(setting(**changes), "training", first_only=True)
    return [variables.flatten(state.variables[PARAMS]) for state in trail.states["pretrain"]]


OPTIONS = {
    "data__crop_padding": 0,
    "data__cutout": 2,
    "train__clip": 0.01,
    "train__momentum": 0.0,
    "train__weight_decay": 0.1,
    "train__pretrain_lr": 0.1,
}
OF_IMAGES = {
    "data__flip": False,
    "network__drop_path": 0.5,
    "train__accumulate": 2,
    "runtime__precision": "bfloat16",
}
"""These count in a network that knows left from right, with paths, batch normalisation and feature maps."""


@pytest.mark.parametrize("name", [*OPTIONS, *OF_IMAGES])
def test_every_option_of_training_changes_the_weights(name: str, training: Trail, light_training: Trail) -> None:
    trail, given = (training, {}) if name in OF_IMAGES else (light_training, LIGHT)
    base = [variables.flatten(state.variables[PARAMS]) for state in trail.states["pretrain"]]
    found = outcome(**given, **{name: {**OPTIONS, **OF_IMAGES}[name]})
    assert not differing(found[0], base[0]), "the start is the same"
    # Drop-path starts at 0, so it counts from the second epoch on; the rest counts at once.
    epoch = 2 if name == "network__drop_path" else 1
    apart = max(float(np.abs(found[epoch][path] - base[epoch][path]).max()) for path in base[epoch])
    assert math.isfinite(apart) and apart > 1e-4
    if epoch == 2:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[1], base[1])


def test_the_order_of_the_levels_changes_the_search(light_search: Trail) -> None:
    other = follow(setting(**LIGHT, method__order="lower_first"), "search", first_only=True)
    first, found = other.states["step1"][0].variables, other.states["step1"][-1].variables
    base = light_search.states["step1"][-1].variables
    assert not differing(first[ALPHA], light_search.states["step1"][0].variables[ALPHA])
    assert differing(found[ALPHA], base[ALPHA]) and differing(found[PARAMS], base[PARAMS])


def test_accumulation_reaches_the_search(search: Trail) -> None:
    other = follow(setting(method__accumulate=4), "search", first_only=True).states["step1"]
    assert not differing(other[0].variables[ALPHA], search.states["step1"][0].variables[ALPHA])
    for name in (ALPHA, PARAMS, BATCH_STATS):
        assert differing(other[-1].variables[name], search.states["step1"][-1].variables[name]), name


def test_a_search_in_bfloat16_learns_as_one_in_float32_does() -> None:
    sizes = {"data__limit": 512, "space__channels": 4, "method__epochs": 8, "method__theta_lr": 0.1}
    trails = [
        follow(setting(runtime__precision=name, **sizes), "search", first_only=True) for name in ("float32", "bfloat16")
    ]
    wide, narrow = ([record["lower_loss"] for record in trail.records["step1"]] for trail in trails)
    assert narrow[-1] < 1.9 < 2.2 < narrow[0]
    assert narrow != wide and narrow == pytest.approx(wide, rel=0.05)
    assert differing(*(trail.states["step1"][-1].variables for trail in trails))  # and all of equal dtypes


def test_the_hypergradient_and_its_arguments_reach_the_search(light_search: Trail) -> None:
    search = light_search
    other = follow(
        setting(**LIGHT, hypergradient__name="amended", hypergradient__eta=5.0, method__cosine=True),
        "search",
        first_only=True,
    )
    first, base = other.states["step1"][0].variables[ALPHA], search.states["step1"][0].variables[ALPHA]
    assert not differing(first, base)
    assert differing(other.states["step1"][-1].variables[ALPHA], search.states["step1"][-1].variables[ALPHA])
    assert all(0 < record["upper_cosine"] < 0.999 for record in other.records["step1"])
    assert not any("upper_cosine" in record for record in search.records["step1"])


@pytest.mark.parametrize("name", bilevel.ESTIMATORS)
def test_every_estimator_is_built_with_the_arguments_of_the_configuration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, seen = fields.FIELDS[name](), []
    others = {True: False, False: True}
    changed = {
        field.name: others[value] if isinstance(value := getattr(default, field.name), bool) else value + 1
        for field in dataclasses.fields(default)
    }
    monkeypatch.setitem(bilevel.ESTIMATORS, name, lambda **arguments: seen.append(arguments))
    compose.hypergradient_of(config.from_dict({"hypergradient": {"name": name, **changed}}))
    assert seen == [changed]


def test_without_none_an_edge_has_one_operation_less() -> None:
    for none, operations in ((True, 8), (False, 7)):
        shapes = shapes_of(setting(space__none=none))[ALPHA]
        wanted = {"normal": (1, 2, operations), "reduce": (1, 2, operations)}
        assert {name: leaf.shape for name, leaf in shapes.items()} == wanted


def shapes_of(s: compose.Setting) -> Mapping[str, Any]:
    """The variables at the start of a search."""
    return runner.template(s, phases_of(s, "search")[:1]).variables


def test_the_fraction_kept_changes_the_masks(training: Trail) -> None:
    counts = []
    for keep in (0.1, 0.5, 1.0):
        finetune = phases_of(setting(sparsity__keep=keep), "training")[2]
        masks = finetune.begin(jax.random.key(0), training.states["scores"][-1]).variables[MASKS]
        counts.append(int(sum(np.count_nonzero(mask) for mask in jax.tree.leaves(masks))))
    assert counts[0] < counts[1] < counts[2] == sum(mask.size for mask in jax.tree.leaves(masks))


def test_the_seed_changes_images_order_noise_and_initial_values(search: Trail) -> None:
    one, other = setting(), setting(seed=1)
    assert (one.dataset.train.images != other.dataset.train.images).any()
    given = [feed.inputs(s, phases_of(s, "search")[0], 0) for s in (one, other)]
    assert (given[0].indices["upper"] != given[1].indices["upper"]).any()
    assert (jax.random.key_data(given[0].keys) != jax.random.key_data(given[1].keys)).any()
    phase = phases_of(other, "search")[0]
    begun = runner.begun(other, phase, compose.key(other, runner.SEARCH), None)
    (own,) = seeds.members(jax.tree.map(np.asarray, begun.variables), 1)
    base = search.states["step1"][0].variables
    assert differing(own[ALPHA], base[ALPHA]) and differing(own[PARAMS], base[PARAMS])


def test_epochs_phases_and_levels_have_draws_of_their_own() -> None:
    s = setting()
    step1, step2 = phases_of(s, "search")
    first = feed.inputs(s, step1, 0)
    for other in (feed.inputs(s, step1, 1), feed.inputs(s, step2, 0)):
        assert (first.indices["upper"] != other.indices["upper"]).any()
        assert (jax.random.key_data(first.keys) != jax.random.key_data(other.keys)).any()
    upper, lower = first.indices["upper"], first.indices["lower"]
    assert not set(upper.ravel()) & set(lower.ravel()), "the two levels never see the same image"


def test_on_one_level_both_see_all_images_each_in_an_order_of_its_own() -> None:
    s = setting(method__one_level=True)
    for phase in phases_of(s, "search"):
        upper, lower = (feed.inputs(s, phase, 0).indices[level] for level in ("upper", "lower"))
        assert set(upper.ravel()) == set(lower.ravel()) == set(range(64)) and (upper != lower).any()
