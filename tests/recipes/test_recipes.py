"""Recipes on a network of one layer: their phases as declared, from what each of them starts, and what they minimise.

What a phase's steps may change is asked in tests/test_contracts.py and, of whole runs, in tests/test_stages.py.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, compose, config, recipes, sparsity
from dass_jax.errors import UserError
from dass_jax.networks.model import Model
from dass_jax.phases import WHOLE, Feed
from dass_jax.recipes import dense, gradual, prune, recipe
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification, cross_entropy
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, SCORES

KEY, KEEP = jax.random.key(0), 0.3


def init(key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
    weight = jax.random.normal(key, (4, image_shape[2] * image_shape[0]))
    return {PARAMS: {"linear": {"weight": weight, "bias": jnp.ones(4)}}, BATCH_STATS: {"seen": jnp.zeros(())}}


def apply(params: Any, stats: Any, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
    outputs = (params["linear"]["weight"] @ images.reshape(-1, images.shape[-1])).T + params["linear"]["bias"]
    return outputs, 2 * outputs, {"seen": stats["seen"] + 1}


NET = Model(init, apply, (3,), ((r".*/weight", 0), (r".*/bias", None)))
PROBLEM = recipes.Problem(
    net=NET,
    task=classification(4),
    image_shape=(5, 1, 2),
    keep=KEEP,
    average=bilevel.levels.same,
    auxiliary_weight=0.25,
    drop_path=0.2,
    name="one layer",
)
FIELDS = prune.Fields(batch_size=8, pretrain_epochs=4, score_epochs=2, finetune_epochs=3)


def batch() -> Batch:
    return Batch(jax.random.normal(KEY, (2, 5, 1, 8)), jnp.arange(8) % 4)


def test_the_three_phases_share_what_they_can_and_say_what_they_leave_unread() -> None:
    training = prune.train(FIELDS, PROBLEM)
    pretrain, scores, finetune = training.phases
    assert [(phase.name, phase.epochs) for phase in training.phases] == [
        ("pretrain", 4),
        ("scores", 2),
        ("finetune", 3),
    ]
    assert pretrain.program == finetune.program != scores.program
    assert pretrain.algorithm is finetune.algorithm
    assert training.evaluations == {"pretrain": "dense", "finetune": "sparse"}
    assert pretrain.unread and not scores.unread and not finetune.unread
    for phase, collection in zip(training.phases, (PARAMS, SCORES, PARAMS), strict=True):
        assert phase.feeds == {collection: Feed(WHOLE, 8, cutout=True, paths=(3,))}


def test_rates_fall_by_epochs_and_paths_are_dropped_more_and_more() -> None:
    pretrain, scores, finetune = prune.train(FIELDS, PROBLEM).phases
    for phase, collection, first in (
        (pretrain, PARAMS, FIELDS.pretrain_lr),
        (scores, SCORES, FIELDS.scores_lr),
        (finetune, PARAMS, FIELDS.finetune_lr),
    ):
        for epoch in range(phase.epochs):
            at = phase.rates((epoch + np.arange(3) / 3) / phase.epochs)
            falling = 0.5 * first * (1 + np.cos(np.pi * epoch / phase.epochs))
            np.testing.assert_allclose(at["learning_rate"][collection], falling, rtol=1e-12)
            np.testing.assert_allclose(at["drop_path"], 0.2 * epoch / phase.epochs, rtol=1e-12)


@pytest.mark.parametrize("train", [dense.train, gradual.train, prune.train])
def test_fresh_weights_can_warm_up_step_by_step_and_then_learn_along_a_line(train: Any) -> None:
    """As DSO-NAS' published code for ImageNet, which adds to its rate and takes from it after each of its steps."""
    steps, epochs, rising, first, top = 7, 12, 5, 0.1, 0.5
    fields = {"decay": "linear", "warmup_epochs": rising, "warmup_lr": first}
    if train is prune.train:
        own: recipe.Fields = prune.Fields(pretrain_lr=top, pretrain_epochs=epochs, **fields)
    else:
        own = {dense.train: dense.Fields, gradual.train: gradual.Fields}[train](lr=top, epochs=epochs, **fields)
    published, rate = [], first
    for step in range(steps * epochs):
        published.append(rate)
        warm = step < steps * rising
        rate += (top - first) / (steps * rising) if warm else -top / (steps * (epochs - rising))
    fresh, *later = train(own, PROBLEM).phases
    found = [fresh.rates((epoch + np.arange(steps) / steps) / epochs) for epoch in range(epochs)]
    rates = np.concatenate([each["learning_rate"][PARAMS] for each in found])
    np.testing.assert_allclose(rates[: steps * rising], published[: steps * rising], rtol=1e-12)
    by_epochs = np.repeat(published[steps * rising :: steps], steps)
    np.testing.assert_allclose(rates[steps * rising :], by_epochs, rtol=1e-12)
    for phase, usual in zip(later, prune.train(prune.Fields(), PROBLEM).phases[1:], strict=bool(later)):
        at = np.linspace(0, 1, 9)
        chex.assert_trees_all_equal(phase.rates(at), usual.rates(at))


def test_a_warm_up_leaves_an_epoch_to_what_follows_it_and_cycles_come_after_it() -> None:
    c = dense.Fields(epochs=3, lr=0.5, warmup_epochs=5, warmup_lr=0.2)
    (phase,) = dense.train(c, PROBLEM).phases
    rates = phase.rates(np.arange(6) / 6)["learning_rate"][PARAMS]
    np.testing.assert_allclose(rates, [0.2, 0.275, 0.35, 0.425, 0.5, 0.5], rtol=1e-12)
    cycles = gradual.Fields(epochs=5, lr=0.4, warmup_epochs=1, warmup_lr=0.2, restart_epochs=2, restart_factor=1)
    (phase,) = gradual.train(cycles, PROBLEM).phases
    np.testing.assert_allclose(
        phase.rates(np.arange(5) / 5)["learning_rate"][PARAMS], [0.2, 0.4, 0.2, 0.4, 0.2], rtol=1e-12
    )


def test_nesterovs_momentum_looks_ahead() -> None:
    def moved(nesterov: bool) -> Any:
        (phase,) = dense.train(dense.Fields(batch_size=8, nesterov=nesterov, clip=1e6), PROBLEM).phases
        state = phase.begin(KEY, None)
        rate = {"learning_rate": {PARAMS: jnp.float32(0.1)}}
        after = phase.algorithm.update(state, {PARAMS: batch()}, KEY, **rate)[0]
        return after.variables[PARAMS]["linear"]["bias"] - 1

    # The first step is g, and g + 0.9 g.
    np.testing.assert_allclose(moved(True), 1.9 * moved(False), rtol=1e-5, atol=1e-6)


def test_without_paths_to_drop_nothing_is_drawn_for_them() -> None:
    for phase in prune.train(FIELDS, PROBLEM._replace(drop_path=0.0)).phases:
        assert list(phase.rates(np.zeros(1))) == ["learning_rate"]
        assert all(feed.paths is None for feed in phase.feeds.values())


def trained() -> bilevel.State:
    """A state at the end of pre-training: no momentum is zero."""
    phase = prune.train(FIELDS, PROBLEM).phases[0]
    state = phase.begin(KEY, None)
    rate = {"learning_rate": {PARAMS: jnp.float32(0.1)}}
    return jax.jit(phase.algorithm.update)(state, {PARAMS: batch()}, KEY, **rate)[0]


def test_pretraining_begins_with_all_weights_kept() -> None:
    v = prune.train(FIELDS, PROBLEM).phases[0].begin(KEY, None).variables
    chex.assert_trees_all_equal(v[PARAMS], init(KEY, (5, 1, 2))[PARAMS])
    assert v[MASKS].keys() == {"linear"} and list(v[MASKS]["linear"]) == ["weight"]
    assert (v[MASKS]["linear"]["weight"] == 1).all()


def test_score_learning_begins_with_the_scores_of_the_weights_and_leaves_these_alone() -> None:
    end, phase = trained(), prune.train(FIELDS, PROBLEM).phases[1]
    state = phase.begin(KEY, end)
    weight = end.variables[PARAMS]["linear"]["weight"]
    scores = sparsity.init_scores({"linear": {"weight": weight}}, PROBLEM.stacks(end.variables[PARAMS]))
    chex.assert_trees_all_equal(state.variables[SCORES], scores)
    for name in end.variables:
        assert state.variables[name] is end.variables[name]
    assert list(state.optimizers) == [SCORES]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizers))
    # What is evaluated meanwhile is the network under the masks of the scores.
    seen = phase.network(state.variables)
    assert seen.keys() == {PARAMS, BATCH_STATS, MASKS} and seen[PARAMS] is end.variables[PARAMS]
    chex.assert_trees_all_equal(seen[MASKS], sparsity.topk_masks(scores, PROBLEM.stacks(end.variables[PARAMS]), KEEP))


def test_fine_tuning_begins_under_the_masks_of_the_scores_with_an_optimizer_at_rest() -> None:
    _, learning, finetune = prune.train(FIELDS, PROBLEM).phases
    state = learning.begin(KEY, trained())
    moved = jax.tree.map(lambda s: jnp.sin(7 * s), state.variables[SCORES])
    end = state._replace(variables={**state.variables, SCORES: moved})
    begun = finetune.begin(KEY, end)
    assert SCORES not in begun.variables and SCORES in end.variables
    mask = np.asarray(begun.variables[MASKS]["linear"]["weight"])
    strength = np.abs(moved["linear"]["weight"])
    assert mask.sum() == sparsity.kept_in_layer(mask.size, KEEP) == (strength >= strength[mask == 1].min()).sum()
    assert (mask != learning.network(state.variables)[MASKS]["linear"]["weight"]).any()
    assert begun.variables[PARAMS] is end.variables[PARAMS]
    assert list(begun.optimizers) == [PARAMS]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(begun.optimizers))


def test_the_dense_recipe_is_one_phase_from_fresh_weights() -> None:
    training = dense.train(dense.Fields(batch_size=8, epochs=5, lr=0.5, final_lr=0.1), PROBLEM)
    (phase,) = training.phases
    assert (phase.name, phase.epochs, training.evaluations) == ("train", 5, {"train": "dense"})
    assert (phase.begin(KEY, None).variables[MASKS]["linear"]["weight"] == 1).all()
    np.testing.assert_allclose(phase.rates(np.array([0.0, 0.5]))["learning_rate"][PARAMS][0], 0.5)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_the_loss_is_that_of_the_outputs_and_a_share_of_the_auxiliary_heads(auxiliary: bool) -> None:
    def without(*arguments: Any) -> Any:
        outputs, _, stats = apply(*arguments)
        return outputs, None, stats

    problem = PROBLEM if auxiliary else PROBLEM._replace(net=NET._replace(apply=without))
    v = recipe.fresh(problem, KEY)
    value, (measured, updates) = recipe.network_loss(problem, lambda v: v[PARAMS])(v, batch(), KEY)
    outputs, head, _ = apply(v[PARAMS], v[BATCH_STATS], batch().images, True)
    wanted = cross_entropy(outputs, batch().targets)
    if auxiliary:
        wanted += 0.25 * cross_entropy(head, batch().targets)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    assert updates == {BATCH_STATS: {"seen": 1}} and list(measured) == ["accuracy"]


def test_outputs_are_those_of_the_kept_weights_in_evaluation() -> None:
    v = recipe.fresh(PROBLEM, KEY)
    mask = (jax.random.uniform(KEY, v[MASKS]["linear"]["weight"].shape) < 0.5).astype(jnp.float32)
    v = {**v, MASKS: {"linear": {"weight": mask}}}
    found = prune.train(FIELDS, PROBLEM).outputs(v, batch().images)
    kept = {"linear": {**v[PARAMS]["linear"], "weight": v[PARAMS]["linear"]["weight"] * mask}}
    np.testing.assert_array_equal(found, apply(kept, v[BATCH_STATS], batch().images, False)[0])


SMOOTHED = {
    "controls": [],
    "data": {"source": "digits", "crop_padding": 1},
    "space": {"name": "dso", "levels": 1, "operations": ["sep3"], "stages": [1], "channels": 2},
    "method": {"name": "whole"},
    "network": {"stages": [1], "channels": 2},
    "train": {"recipe": "dense", "batch_size": 8, "label_smoothing": 0.3},
}


def test_a_run_smooths_its_labels_where_it_trains_and_not_where_it_searches_or_evaluates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setitem(
        recipes.RECIPES, "dense", recipes.RECIPES["dense"]._replace(train=lambda c, problem: seen.append(problem))
    )
    s = compose.setting(config.from_dict(SMOOTHED))
    plain = config.from_dict({**SMOOTHED, "train": {"recipe": "dense"}})
    for one in (s, s._replace(config=plain)):
        compose.training(one, compose.search(s, "whole").found(None, 0))
    smoothed, usual = (problem.task for problem in seen)
    logits, labels = jnp.arange(6.0).reshape(2, 3), jnp.array([0, 2])
    assert float(smoothed.loss(logits, labels)) == pytest.approx(float(cross_entropy(logits, labels, 0.3)))
    assert usual.loss is s.task.loss is cross_entropy and smoothed.sums is s.task.sums
    monkeypatch.setattr(compose.Setting, "task", classification(10)._replace(smoothed_loss=None))
    with pytest.raises(UserError, match=r"train\.label_smoothing = 0\.3 with .*; allowed: 0"):
        compose.setting(config.from_dict(SMOOTHED))
