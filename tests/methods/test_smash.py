"""SMASH and SCAS on it, on a toy space: a step by hand, what is scored and kept, and the walk, which can be resumed."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import config, sparsity
from dass_jax.bilevel import State
from dass_jax.errors import UserError
from dass_jax.methods import scas_smash, smash
from dass_jax.methods.sampled import CANDIDATES, SAMPLED
from dass_jax.methods.smash import BEST, GROWTH, LIST, SHARE
from dass_jax.phases import Phase
from dass_jax.spaces.space import Written
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, PARAMS, RATES
from tests import supernets

CODES = 50


def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
    """In evaluation class 0 for so many images as the code says; in training linear in what is written and free."""
    if not train:
        right = jnp.arange(images.shape[-1]) < choice["code"]
        return jnp.stack([right, ~right], 1).astype(images.dtype), stats
    written = params["hyper"]["w"] * (choice["code"] + choice["noise"]) * choice.get("kept", 1.0)
    x = images.mean((0, 1, 2))
    return x[:, None] * written + params["free"]["w"], {"seen": stats["seen"] + 1}


def draw(key: jax.Array, of_noise: jax.Array, progress: Any) -> Any:
    code = jax.random.randint(key, (), 0, CODES) * (progress > 0.5)
    return {"code": code.astype(jnp.int32), "noise": 0.01 * jax.random.normal(of_noise)}


def perturb(choice: Any, key: jax.Array) -> Any:
    code = jnp.clip(choice["code"] + jax.random.randint(key, (), -4, 5), 0, CODES - 1)
    return {**choice, "code": code.astype(jnp.int32)}


START = {PARAMS: {"hyper": {"w": jnp.array([0.3, 0.2])}, "free": {"w": jnp.array([0.1, -0.2])}}}
SPACE = SimpleNamespace(
    apply=apply,
    init=lambda key, shape: {**START, BATCH_STATS: {"seen": jnp.zeros(())}},
    decode=lambda choice: int(choice["code"]),
    written=Written(
        draw,
        perturb,
        lambda params: {"hyper": {"w": False}, "free": {"w": True}},
        lambda choice, share: {**choice, "kept": jnp.asarray(share)},
        ("noise", "kept"),
        (("free/w", 0), (".*", None)),
    ),
)
PROBLEM = supernets.problem(SPACE, 2, (2, 2, 1), keep=0.25)
C = smash.Fields(epochs=4, random=6, perturbed=5, walk=8)
VALIDATION = Batch(jnp.zeros((1, 2, 2, CODES)), jnp.zeros(CODES, jnp.int32), None, jnp.ones(CODES))


def whole(state: State) -> State:
    """As it is between epochs, on the host."""
    return jax.tree.map(np.asarray, state)


def scored(phase: Phase, state: State, key: int = 0) -> State:
    """An epoch of a phase that scores: the validation split in two equal batches."""
    for _ in range(2):
        state, infos = jax.jit(phase.algorithm.update)(state, {CANDIDATES: VALIDATION}, jax.random.key(key))
        assert infos[CANDIDATES].metrics["images"] == CODES
    assert phase.after_epoch is not None
    return phase.after_epoch(whole(state))


def test_a_step_is_adam_on_all_and_decay_on_what_is_not_the_hyper_networks() -> None:
    phase = smash.search(C, PROBLEM).phases[0]
    state = phase.begin(jax.random.key(0), None)
    batch = Batch(jnp.linspace(-1, 1, 32).reshape(1, 2, 2, 8), jnp.array([0, 1] * 4))
    rates, key = {GROWTH: jnp.ones(())}, jax.random.key(3)
    given = state._replace(variables={**state.variables, RATES: rates})
    rate = {PARAMS: jnp.asarray(0.01)}
    after, infos = jax.jit(phase.algorithm.update)(given, {PARAMS: batch}, key, learning_rate=rate)
    choice = draw(*jax.random.split(key), 1.0)

    def loss(params: Any) -> Any:
        outputs, _ = apply(params, {"seen": 0.0}, choice, batch.images, True)
        return PROBLEM.task.loss(outputs, batch.targets)

    value, gradient = jax.value_and_grad(loss)(START[PARAMS])
    np.testing.assert_allclose(infos[PARAMS].loss, value, rtol=1e-6)
    for part, decay in (("hyper", 0.0), ("free", 1e-4)):
        w = START[PARAMS][part]["w"]
        g = gradient[part]["w"] + decay * w
        # The first step of Adam: both means are corrected to g and g².
        wanted = w - 0.01 * g / (jnp.abs(g) + 1e-4)
        np.testing.assert_allclose(after.variables[PARAMS][part]["w"], wanted, rtol=1e-5)
    assert after.variables[BATCH_STATS]["seen"] == 1


def test_the_rates_of_a_training() -> None:
    phase = smash.search(C, PROBLEM).phases[0]
    progress = np.arange(8) / 8
    found = phase.rates(progress)
    np.testing.assert_allclose(found[GROWTH], [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    np.testing.assert_allclose(found["learning_rate"][PARAMS], 5e-4 * (1 + np.cos(np.pi * progress)))
    assert SHARE not in found


def test_the_best_of_all_scores_is_found_and_the_walk_goes_on_from_it() -> None:
    search = smash.search(C, PROBLEM)
    training, random, perturbed, walk = search.phases
    state = whole(training.begin(jax.random.key(7), None))
    noise = state.variables[BEST]["choice"]["noise"]
    state = scored(random, random.begin(jax.random.key(1), state))
    v = state.variables
    codes = np.asarray(v[SAMPLED]["choices"]["code"])
    assert len(set(codes)) > 3 and search.found(v, 0) == codes.max()
    np.testing.assert_allclose(v[LIST]["random"], codes / CODES, rtol=1e-6)
    np.testing.assert_array_equal(v[SAMPLED]["choices"]["noise"], np.full(6, noise), "one draw for all scores")
    seen = random.observe(v) if random.observe else None
    assert seen is not None and seen.metrics["best"] == pytest.approx(codes.max() / CODES)
    np.testing.assert_allclose(seen.matrices["list_random"][0], codes / CODES, rtol=1e-6)

    state = scored(perturbed, perturbed.begin(jax.random.key(2), state))
    near = np.asarray(state.variables[SAMPLED]["choices"]["code"])
    assert np.abs(near - codes.max()).max() <= 4
    assert search.found(state.variables, 0) == max(codes.max(), near.max())

    state = walk.begin(jax.random.key(3), state)
    best, proposals = [search.found(state.variables, 0)], []
    for _ in range(C.walk):
        proposals.append(int(state.variables[SAMPLED]["choices"]["code"][0]))
        state = scored(walk, state)
        best.append(search.found(state.variables, 0))
    assert all(abs(new - old) <= 4 for new, old in zip(proposals, best, strict=False)), "each from the best so far"
    assert best[1:] == [max(old, new) for new, old in zip(proposals, best, strict=False)]
    assert best[-1] > best[0] and len(set(proposals)) > 2
    np.testing.assert_allclose(state.variables[LIST]["walk"], np.array(proposals) / CODES, rtol=1e-6)


def test_some_random_ones_are_checked_evenly_by_their_scores() -> None:
    search = smash.search(dataclasses.replace(C, checked=3), PROBLEM)
    training, random, perturbed, walk = search.phases
    state = scored(random, random.begin(jax.random.key(1), whole(training.begin(jax.random.key(7), None))))
    codes = sorted(np.asarray(state.variables[SAMPLED]["choices"]["code"]).tolist(), reverse=True)
    for phase in (perturbed, walk):  # they leave them alone
        state = scored(phase, phase.begin(jax.random.key(2), state))
    wanted = [(codes[n], codes[n] / CODES) for n in (0, 2, 5)]
    assert search.checked(state.variables, 0) == [(code, pytest.approx(score)) for code, score in wanted]
    assert smash.search(C, PROBLEM).checked(state.variables, 0) == []
    for wrong in (1, 7):
        with pytest.raises(UserError, match=f"method.checked = {wrong}; allowed: 0, or 2 to method.random = 6"):
            smash.search(dataclasses.replace(C, checked=wrong), PROBLEM)


def test_a_walk_that_is_resumed_goes_on_with_the_same_bits() -> None:
    def walked(stop: int | None) -> State:
        search = smash.search(C, PROBLEM)
        training, random, _, walk = search.phases
        state = scored(random, random.begin(jax.random.key(1), training.begin(jax.random.key(7), None)))
        state = walk.begin(jax.random.key(3), state)
        for step in range(4):
            if step == stop:  # nothing but the state's arrays is left, and all programs are new
                walk = smash.search(C, PROBLEM).phases[3]
                state = jax.tree.map(lambda leaf: np.array(leaf), state)
            state = scored(walk, state)
        return state

    chex.assert_trees_all_equal(walked(None), walked(2))


def test_scas_prunes_what_is_written_by_schedule_and_scores_at_the_end_of_it() -> None:
    c = scas_smash.Fields(epochs=4, random=3, perturbed=2, walk=2, ramp=0.5)
    training, random, perturbed, walk = scas_smash.search(c, PROBLEM).phases
    progress = np.arange(4) / 16
    np.testing.assert_allclose(training.rates(progress)[SHARE], sparsity.keep_after((np.arange(4) + 1) / 16, 0.25, 0.5))
    np.testing.assert_allclose(training.rates(progress + 0.75)[SHARE], 0.25)
    state, update = training.begin(jax.random.key(0), None), jax.jit(training.algorithm.update)
    batch = Batch(jnp.ones((1, 2, 2, 4)), jnp.array([0, 1] * 2))

    def loss(share: float) -> float:
        rates = {GROWTH: jnp.ones(()), SHARE: jnp.asarray(share)}
        given = state._replace(variables={**state.variables, RATES: rates})
        arguments = {PARAMS: batch}, jax.random.key(3)
        return float(update(given, *arguments, learning_rate={PARAMS: jnp.zeros(())})[1][PARAMS].loss)

    assert loss(0.0) == pytest.approx(
        float(PROBLEM.task.loss(jnp.tile(START[PARAMS]["free"]["w"], (4, 1)), batch.targets))
    )
    assert loss(1.0) != loss(0.5)
    for phase in (random, perturbed, walk):
        state = phase.begin(jax.random.key(1), state)
        assert (np.asarray(state.variables[SAMPLED]["choices"]["kept"]) == 0.25).all()
        state = scored(phase, state)


def test_shared_weights_are_pruned_for_good_where_they_are_to_be() -> None:
    c = scas_smash.Fields(epochs=4, random=3, perturbed=0, walk=0, ramp=0.5, prune_shared=True)
    training, random = scas_smash.search(c, PROBLEM).phases
    state, step = training.begin(jax.random.key(0), None), jax.jit(training.algorithm.update)
    batch = Batch(jnp.linspace(-1, 1, 16).reshape(1, 2, 2, 4), jnp.array([0, 1] * 2))
    zeros = []
    for epoch in range(c.epochs):
        rates = training.rates(epoch / 4 + np.arange(3) / 12)
        for number in range(3):
            own = jax.tree.map(lambda x, n=number: jnp.asarray(x[n], jnp.float32), rates)
            rate = own.pop("learning_rate")
            given = state._replace(variables={**state.variables, RATES: own})
            state, _ = step(given, {PARAMS: batch}, jax.random.key(number), learning_rate=rate)
            zeros.append(np.asarray(state.variables[PARAMS]["free"]["w"]) == 0)
    counts = [int(pruned.sum()) for pruned in zeros]
    assert counts[0] == 0 and counts[-1] == 1 and counts == sorted(counts)
    assert (zeros[-1] == zeros[counts.index(1)]).all(), "the same weight"
    assert (np.asarray(state.variables[PARAMS]["hyper"]["w"]) != 0).all()
    assert random.begin(jax.random.key(1), whole(state)).variables[PARAMS]["free"]["w"][zeros[-1]] == 0


@pytest.mark.parametrize(
    ("space", "method", "allowed"),
    [("smash", "enas", "smash, scas_smash, random, given"), ("darts", "smash", "dass, dass_op")],
)
def test_a_method_of_another_kind_of_space_is_one_line(space: str, method: str, allowed: str) -> None:

    with pytest.raises(UserError, match=f"method.name = '{method}' in '{space}', a .* space; allowed: {allowed}"):
        config.from_dict({"controls": [], "space": {"name": space}, "method": {"name": method}})
