"""Pruning while θ is trained: the schedule in closed form, counts and masks by sorting, whole trainings in NumPy and
PyTorch."""

import itertools
from fractions import Fraction
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax import bilevel
from dass_jax.sparsity import (
    ASIDE,
    PRUNING,
    Gradual,
    Group,
    Share,
    dense_masks,
    keep_after,
    kept_in_layer,
    magnitude_masks,
    masked_weights,
    prunable_groups,
    pruned,
    pruner,
    pruning_rates,
    sparsity_of,
    unpruned,
)
from dass_jax.variables import MASKS, PARAMS, RATES

STACKS = {"edges": {"weight": 2}, "last": {"weight": 0}}
RULES = ((r"edges/weight", 2), (r".*/weight", 0), (r".*/bias", None))
LAYERS = {"edges": 6, "last": 1}
"""How many layers each leaf has."""
GROUPS = (Group((2, 3, 3), 6), Group((5, 4), 1))
NAMES = {18: "2x3x3", 20: "5x4"}
"""Of the groups, by the weights of a layer."""


def params(seed: int = 0) -> Any:
    """Six layers of 2×3×3 = 18 weights in a stack [2, 3], one of 5×4 = 20, and a bias, which is never pruned."""
    rng = np.random.default_rng(seed)
    last = {"weight": rng.normal(size=(5, 4)), "bias": rng.normal(size=5)}
    return {"edges": {"weight": rng.normal(size=(2, 3, 2, 3, 3))}, "last": last}


def rows(leaf: Any, name: str) -> np.ndarray:
    """[layers, weights]"""
    return np.asarray(leaf[name]["weight"]).reshape(LAYERS[name], -1)


def test_the_curve_is_zhu_and_guptas_to_half_of_the_steps_and_then_the_final_fraction() -> None:
    at = np.array([0, 10, 25, 50, 75, 100]) / 200
    np.testing.assert_allclose(1 - keep_after(at, 0.1, 0.5), [0, 0.2439, 0.520313, 0.7875, 0.885938, 0.9], atol=5e-7)
    np.testing.assert_array_equal(keep_after(np.array([0.5, 0.5 - 1e-12, 0.7, 1.0]), 0.1, 0.5), 0.1)
    np.testing.assert_allclose(1 - keep_after(np.array([0.5]), 0.1, 1.0), 0.7875)
    np.testing.assert_array_equal(keep_after(at, 1.0, 0.5), 1.0)


def test_masks_are_renewed_every_so_many_steps_and_after_the_last_of_an_epoch() -> None:
    def renewed(every: int, steps: int) -> list[int]:
        found = pruning_rates(Gradual(prune_every=every), 0.5, (Group((10,), 1),), 3)(np.arange(steps) / steps / 3)[
            PRUNING
        ]["renew"]
        return (np.flatnonzero(found) + 1).tolist()

    assert renewed(10, 25) == [10, 20, 25] and renewed(10, 20) == [10, 20] and renewed(10, 3) == [3]
    assert renewed(1, 4) == [1, 2, 3, 4]


@given(
    size=st.integers(1, 10**6),
    keep=st.floats(0.01, 1.0),
    ramp=st.floats(0.05, 1.0),
    steps=st.integers(1, 40),
    epochs=st.integers(1, 7),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_counts_of_every_step_are_those_of_the_exact_schedule(
    size: int, keep: float, ramp: float, steps: int, epochs: int
) -> None:
    at = pruning_rates(Gradual(ramp=ramp), keep, (Group((size,), 1),), epochs)
    counts = np.concatenate(
        [at((epoch + np.arange(steps) / steps) / epochs)[PRUNING]["kept"][str(size)].each for epoch in range(epochs)]
    )
    for step, count in enumerate(counts, 1):
        left = max(Fraction(0), 1 - Fraction(step, steps * epochs) / Fraction(ramp))
        exact = size * (Fraction(keep) + (1 - Fraction(keep)) * left**3)
        assert -1e-3 <= count - exact <= 1 + 1e-3
    assert (np.diff(counts) <= 0).all() and counts[-1] == kept_in_layer(size, keep)
    assert (counts == counts.astype(np.float32)).all()  # as which they travel


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1e-40, 0.5, -0.5, 1.0, -3e38]), min_size=12, max_size=12),
    before=st.lists(st.sampled_from([0.0, 1.0]), min_size=12, max_size=12),
    kept=st.integers(0, 6),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_of_what_is_kept_the_largest_stay_zeros_among_them_and_nothing_returns(
    values: list[float], before: list[float], kept: int
) -> None:
    """Two layers of six in a stack. Ties go to the earlier weights; where fewer are kept already, all of these stay."""
    weights, masks = np.array(values, np.float32).reshape(2, 2, 3), np.array(before, np.float32).reshape(2, 2, 3)
    found = MASKED(weights, masks, kept)
    for weight, mask, new in zip(weights.reshape(2, 6), masks.reshape(2, 6), found.reshape(2, 6), strict=True):
        order = [place for place in np.argsort(-np.abs(weight), kind="stable") if mask[place]]
        wanted = np.zeros(6)
        wanted[order[:kept]] = 1
        np.testing.assert_array_equal(new, wanted)


MASKED = jax.jit(lambda w, m, kept: magnitude_masks({"w": w}, {"w": m}, {"w": 1}, {"w": jnp.full(2, kept)})["w"])


def test_every_layer_of_a_stack_is_pruned_on_its_own_by_a_count_of_its_size() -> None:
    v = unpruned({PARAMS: jax.tree.map(jnp.asarray, params())}, RULES)
    assert prunable_groups(v[PARAMS], RULES) == GROUPS
    assert sparsity_of(v[MASKS]) == 0
    v[PARAMS]["edges"]["weight"] = v[PARAMS]["edges"]["weight"].at[1, 2].mul(1e3)
    found = pruned(v, STACKS, {"edges": {"weight": np.full(6, 5)}, "last": {"weight": np.full(1, 7)}})
    for name, kept in (("edges", 5), ("last", 7)):
        mask, before = rows(found[MASKS], name), rows(v[PARAMS], name)
        assert (mask.sum(1) == kept).all()
        np.testing.assert_array_equal(rows(found[PARAMS], name), mask * before)
        for row, own in zip(np.abs(before), mask, strict=True):
            assert row[own == 1].min() > row[own == 0].max()
    np.testing.assert_array_equal(found[PARAMS]["last"]["bias"], v[PARAMS]["last"]["bias"])
    assert sparsity_of(found[MASKS]) == pytest.approx(100 * (1 - 37 / 128))


class Kind(NamedTuple):
    """An optimizer and the pruning beside it."""

    nesterov: bool
    regrow: bool
    clip: float = 1.0


RATE, MOMENTUM, DECAY, KEEP = 0.05, 0.9, 0.01, 0.3
FIELDS, EPOCHS, STEPS = Gradual(ramp=0.6, prune_every=3), 2, 15


def targets(step: int) -> Any:
    """What θ is drawn to at a step: it changes, so that the order of the magnitudes does."""
    return jax.tree.map(lambda x: 1.5 * np.roll(x.ravel(), 7 * step).reshape(x.shape), params(1))


def schedule() -> list[tuple[bool, dict[int, int]]]:
    """Of each step whether the masks are renewed, and the counts."""
    at = pruning_rates(FIELDS, KEEP, GROUPS, EPOCHS)
    found: list[tuple[bool, dict[int, int]]] = []
    for epoch in range(EPOCHS):
        rates = at((epoch + np.arange(STEPS) / STEPS) / EPOCHS)[PRUNING]
        found += [
            (bool(rates["renew"][n]), {size: int(rates["kept"][name].each[n]) for size, name in NAMES.items()})
            for n in range(STEPS)
        ]
    return found


def trained(kind: Kind) -> list[bilevel.State]:
    """The states after each step, by one compiled program."""

    def loss(v: Any, batch: Any, key: Any) -> Any:
        distances = jax.tree.map(lambda x, y: ((x - y) ** 2).sum() / 2, masked_weights(v), batch)
        return sum(jax.tree.leaves(distances)), ({}, {})

    traces = []

    def update(state: bilevel.State, batch: Any, rates: Any) -> bilevel.State:
        traces.append(1)
        seeing = state._replace(variables={**state.variables, RATES: rates})
        after, _ = algorithm.update(seeing, batch, jax.random.key(0), learning_rate=jnp.asarray(RATE))
        return after._replace(variables={name: x for name, x in after.variables.items() if name != RATES})

    transform = bilevel.sgd(MOMENTUM, DECAY, kind.clip, kind.nesterov)
    algorithm = bilevel.descend(bilevel.Level(PARAMS, loss, transform, project=pruner(RULES, kind.regrow)))
    compiled = jax.jit(update)
    states = [algorithm.init(unpruned({PARAMS: jax.tree.map(jnp.asarray, params())}, RULES, kind.regrow))]
    for step, (renew, kept) in enumerate(schedule()):
        shared = {NAMES[size]: Share(count) for size, count in kept.items()}
        rates = {PRUNING: jax.tree.map(jnp.float32, {"renew": renew, "kept": shared})}
        states.append(compiled(states[-1], targets(step), rates))
    assert len(traces) == 1
    return states


def momentum_of(state: bilevel.State) -> Any:
    return optax.tree.get(state.optimizers[PARAMS], "trace")


def in_numpy(kind: Kind) -> list[tuple[Any, Any, Any]]:
    """(θ, masks, momenta) after each step, by flat arrays: [layers, weights] for those that are pruned."""
    theta = {"edges": rows(params(), "edges"), "last": rows(params(), "last"), "bias": params()["last"]["bias"]}
    raw, masks = {n: x.copy() for n, x in theta.items()}, {n: np.ones_like(x) for n, x in theta.items()}
    momenta, found = {n: np.zeros_like(x) for n, x in theta.items()}, []
    for step, (renew, kept) in enumerate(schedule()):
        drawn = targets(step)
        towards = {"edges": rows(drawn, "edges"), "last": rows(drawn, "last"), "bias": drawn["last"]["bias"]}
        gradient = {n: masks[n] * (theta[n] - towards[n]) for n in theta}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for n, g in gradient.items():
            slope = g * min(1, kind.clip / norm) + DECAY * masks[n] * theta[n]
            momenta[n] = masks[n] * (MOMENTUM * momenta[n] + slope)
            theta[n] = theta[n] - RATE * (slope + MOMENTUM * momenta[n] if kind.nesterov else momenta[n])
            raw[n] = np.where(masks[n] == 1, theta[n], raw[n])
            if renew and n != "bias":
                strength = np.abs(raw[n]) if kind.regrow else np.where(masks[n] == 1, np.abs(theta[n]), -1)
                order, chosen = np.argsort(-strength, axis=1), np.zeros_like(masks[n])
                np.put_along_axis(chosen, order[:, : kept[theta[n].shape[1]]], 1, axis=1)
                masks[n] = chosen
            theta[n], momenta[n] = masks[n] * raw[n], masks[n] * momenta[n]
        found.append(tuple({n: x.copy() for n, x in each.items()} for each in (theta, masks, momenta)))
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [Kind(False, False), Kind(True, False), Kind(True, True)])
def test_a_whole_training_is_that_of_numpy_with_exact_counts_after_every_step(kind: Kind) -> None:
    states, wanted, returned, kept = trained(kind), in_numpy(kind), 0, {18: 18, 20: 20}
    for before, state, (theta, masks, momenta), (renew, counts) in zip(
        states, states[1:], wanted, schedule(), strict=False
    ):
        v, momentum = state.variables, momentum_of(state)
        kept = counts if renew else kept
        for name in LAYERS:
            mask = rows(v[MASKS], name)
            assert (mask.sum(1) == kept[mask.shape[1]]).all()
            np.testing.assert_array_equal(mask, masks[name])
            np.testing.assert_allclose(rows(v[PARAMS], name), theta[name], rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(rows(momentum, name), momenta[name], rtol=1e-11, atol=1e-13)
            assert (rows(v[PARAMS], name)[mask == 0] == 0).all() and (rows(momentum, name)[mask == 0] == 0).all()
            returned += int((mask > rows(before.variables[MASKS], name)).sum())
        np.testing.assert_allclose(v[PARAMS]["last"]["bias"], theta["bias"], rtol=1e-11)
    assert (returned > 0) == kind.regrow
    assert kept == {18: kept_in_layer(18, KEEP), 20: kept_in_layer(20, KEEP)}


@pytest.mark.usefixtures("x64")
def test_with_regrowth_a_pruned_weight_keeps_its_value_aside_and_returns_with_it() -> None:
    states = trained(Kind(True, True))
    for before, after in itertools.pairwise(states):
        for name in LAYERS:
            then, now = ({k: rows(s.variables[k], name) for k in (PARAMS, MASKS, ASIDE)} for s in (before, after))
            assert (now[ASIDE][now[MASKS] == 1] == 0).all()
            stays = (then[MASKS] == 0) & (now[MASKS] == 0)
            np.testing.assert_array_equal(now[ASIDE][stays], then[ASIDE][stays])
            back = (then[MASKS] == 0) & (now[MASKS] == 1)
            np.testing.assert_array_equal(now[PARAMS][back], then[ASIDE][back])
    assert ASIDE not in trained(Kind(True, False))[0].variables


@pytest.mark.usefixtures("x64")
def test_a_training_with_nesterov_momentum_is_pytorchs_with_its_pruned_entries_cleared() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    first = params()
    leaves = [torch.tensor(x, requires_grad=True) for x in (first["edges"]["weight"], first["last"]["weight"])]
    optimizer = torch.optim.SGD(leaves, lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    masks = [torch.ones_like(leaf) for leaf in leaves]
    for step, (renew, kept) in enumerate(schedule()):
        drawn = targets(step)
        goals = [torch.tensor(x) for x in (drawn["edges"]["weight"], drawn["last"]["weight"])]
        optimizer.zero_grad()
        sum(((leaf * m - goal) ** 2).sum() / 2 for leaf, m, goal in zip(leaves, masks, goals, strict=True)).backward()
        optimizer.step()
        with torch.no_grad():
            for n, (leaf, layers) in enumerate(zip(leaves, LAYERS.values(), strict=True)):
                if renew:
                    flat = leaf.abs().reshape(layers, -1)
                    best = flat.topk(kept[flat.shape[1]], dim=1).indices
                    masks[n] = torch.zeros_like(flat).scatter(1, best, 1.0).reshape(leaf.shape)
                leaf.mul_(masks[n])
                optimizer.state[leaf]["momentum_buffer"].mul_(masks[n])
    state = trained(Kind(True, False, clip=1e9))[-1]
    for leaf, name in zip(leaves, LAYERS, strict=True):
        found = state.variables[PARAMS][name]["weight"]
        np.testing.assert_allclose(found, leaf.detach().numpy(), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(
            momentum_of(state)[name]["weight"],
            optimizer.state[leaf]["momentum_buffer"].numpy(),
            rtol=1e-11,
            atol=1e-13,
        )


def test_what_any_optimizer_remembers_of_a_pruned_weight_is_cleared_and_the_rest_is_not() -> None:
    """Adam: two moments in the structure of θ, and a count."""
    v = unpruned({PARAMS: jax.tree.map(jnp.asarray, params())}, RULES)
    adam = optax.adam(0.1)
    memory = jax.tree.map(lambda x: x + 1, adam.init(v[PARAMS]))
    rates = {PRUNING: jax.tree.map(jnp.float32, {"renew": 1, "kept": {"2x3x3": Share(5), "5x4": Share(7)}})}
    state = pruner(RULES)(bilevel.State({**v, RATES: rates}, {PARAMS: memory, "other": memory}))
    masks = {"edges": state.variables[MASKS]["edges"], "last": {**state.variables[MASKS]["last"], "bias": jnp.ones(5)}}
    found = state.optimizers[PARAMS]
    chex.assert_trees_all_equal(optax.tree.get(found, "mu"), masks)
    chex.assert_trees_all_equal(optax.tree.get(found, "nu"), masks)
    assert int(optax.tree.get(found, "count")) == 1
    chex.assert_trees_all_equal(state.optimizers["other"], memory)
    assert state.variables[RATES] is rates
    assert dense_masks(v[PARAMS], STACKS).keys() == {"edges", "last"}
