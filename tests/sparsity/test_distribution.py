"""How kept weights are shared out: closed forms, a search by halves, and sorting, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.bilevel import State
from dass_jax.sparsity import (
    PRUNING,
    Gradual,
    Pooled,
    init_scores,
    kept_counts,
    kept_in_layer,
    kept_total,
    largest_of_layers,
    prunable_groups,
    pruner,
    pruning_rates,
    topk_masks,
    unpruned,
)
from dass_jax.variables import MASKS, PARAMS, RATES, flatten

Leaf = tuple[tuple[int, ...], int]
"""(shape of a layer, how many of them are stacked)"""


def shapes(leaves: list[Leaf]) -> tuple[Any, Any]:
    """Arrays' shapes and stacks of a network of these leaves."""
    params = {f"w{n}": jax.ShapeDtypeStruct((layers, *shape), np.float32) for n, (shape, layers) in enumerate(leaves)}
    return params, dict.fromkeys(params, 1)


def by_halves(leaves: list[Leaf], total: int) -> list[float]:
    """What each leaf's layer would keep in fractions of weights: the factor is looked for by halving."""
    parts = []
    for shape, layers in leaves:
        inputs, outputs = (shape[1] if len(shape) != 3 else 1), shape[0]
        size = int(np.prod(shape))
        parts.append(((inputs + outputs) / (inputs * outputs) * size, size, layers))

    def kept(factor: float) -> list[float]:
        return [min(max(factor * wanted, 1), size) for wanted, size, _ in parts]

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        reached = sum(own * layers for own, (_, _, layers) in zip(kept(middle), parts, strict=True)) >= total
        low, high = (low, middle) if reached else (middle, high)
    return kept(high)


CHANNELS = st.integers(1, 24)
SHAPE = st.one_of(
    st.tuples(CHANNELS, CHANNELS),
    st.tuples(CHANNELS, st.just(3), st.just(3)),
    st.tuples(CHANNELS, CHANNELS, st.just(3), st.just(3)),
)


@given(leaves=st.lists(st.tuples(SHAPE, st.integers(1, 4)), min_size=1, max_size=8), keep=st.floats(1e-3, 1))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_erk_has_one_factor_for_all_layers_and_exactly_as_many_weights_as_per_layer(
    leaves: list[Leaf], keep: float
) -> None:
    params, stacks = shapes(leaves)
    counts = kept_counts(params, stacks, keep, "erk")
    total = sum(layers * kept_in_layer(int(np.prod(shape)), keep) for shape, layers in leaves)
    assert sum(int(own.sum()) for own in counts.values()) == total == kept_total(params, stacks, keep)
    for own, wanted, (shape, layers) in zip(counts.values(), by_halves(leaves, total), leaves, strict=True):
        assert own.shape == (layers,)
        assert (own >= 1).all() and (own <= np.prod(shape)).all()
        assert (np.abs(own - wanted) < 1 + 1e-6).all()  # rounded up or down, and no further


@given(shape=SHAPE, layers=st.lists(st.integers(1, 4), min_size=1, max_size=4), keep=st.floats(1e-3, 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_layers_of_one_shape_keep_under_erk_what_they_keep_each_for_itself(
    shape: tuple[int, ...], layers: list[int], keep: float
) -> None:
    params, stacks = shapes([(shape, number) for number in layers])
    for own, each in zip(*(kept_counts(params, stacks, keep, name).values() for name in ("erk", "layer")), strict=True):
        np.testing.assert_array_equal(own, each)


def test_erk_in_closed_form() -> None:
    """Factors times weights: pointwise (16 + 16)/256 · 256 = 32; depthwise (1 + 16)/16 · 144 = 153; dense 32 · 9 = 288.
    10 % of each is 26 + 15 + 231 = 272 weights; one factor is 272 / 473."""
    leaves: list[Leaf] = [((16, 16), 1), ((16, 3, 3), 1), ((16, 16, 3, 3), 1)]
    params, stacks = shapes(leaves)
    assert [int(own[0]) for own in kept_counts(params, stacks, 0.1, "layer").values()] == [26, 15, 231]
    exact = np.array([32, 153, 288]) * 272 / 473  # 18.4, 87.98, 165.6
    assert [int(own[0]) for own in kept_counts(params, stacks, 0.1, "erk").values()] == [18, 88, 166]
    np.testing.assert_allclose(exact, [18, 88, 166], atol=0.5)
    # At one half the depthwise layer is dense: its 144 weights are not shared out any more.
    total = kept_total(params, stacks, 0.5)
    counts = [int(own[0]) for own in kept_counts(params, stacks, 0.5, "erk").values()]
    assert counts[1] == 144 and counts[0] == round((total - 144) * 32 / 320) and sum(counts) == total


def test_what_is_left_over_goes_to_the_first_layers_of_a_stack() -> None:
    """Three pointwise layers and a depthwise one, 3 · 2 + 1 = 7 weights: the factors give 4/3 each, and 3."""
    params, stacks = shapes([((4, 4), 3), ((1, 3, 3), 1)])
    counts = kept_counts(params, stacks, 0.1, "erk")
    assert counts["w0"].tolist() == [2, 1, 1] and counts["w1"].tolist() == [3]


SIZES = {"a": 20, "b": 36, "c": 9}


@pytest.mark.parametrize("keep", [0.5, 0.1, 0.02])
def test_globally_the_largest_of_all_are_kept_and_one_of_each_layer(keep: float) -> None:
    rng = np.random.default_rng(0)
    scores = {"a": rng.normal(size=(3, 4, 5)), "b": rng.normal(size=(6, 6)) ** 3, "c": rng.uniform(size=(2, 2, 9))}
    stacks = {"a": 1, "b": 0, "c": 2}
    scores["c"][1] = scores["c"][0]  # ties, of which the earlier are kept
    found = jax.jit(lambda s: topk_masks(s, stacks, keep, "global"))(scores)
    magnitudes = {name: np.abs(np.float32(own)).reshape(-1, SIZES[name]) for name, own in scores.items()}
    magnitudes = {name: own / np.sqrt((own**2).mean(1, keepdims=True)) for name, own in magnitudes.items()}
    rows = [row for own in magnitudes.values() for row in own]
    total, chosen = sum(kept_in_layer(len(row), keep) for row in rows), []
    for number, row in enumerate(rows):
        first = int(row.argmax())
        chosen += [(-np.inf if place == first else -value, number, place) for place, value in enumerate(row)]
    wanted = [np.zeros(len(row)) for row in rows]
    for _, number, place in sorted(chosen)[:total]:
        wanted[number][place] = 1
    got = [row for name, own in found.items() for row in np.asarray(own).reshape(-1, SIZES[name])]
    for row, own in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(row, own)
    assert sum(own.sum() for own in found.values()) == total


def test_what_is_not_deployed_shares_out_its_own_weights() -> None:
    network = {"a": {"weight": jnp.ones((8, 8))}, "b": {"weight": jnp.ones((8, 3, 3))}}
    whole = {**network, "auxiliary": {"weight": 9 * jnp.ones((30, 40))}}
    stacks = jax.tree.map(lambda _: 0, whole)
    for name in ("layer", "erk"):
        alone, beside = (kept_counts(each, {k: stacks[k] for k in each}, 0.1, name) for each in (network, whole))
        assert all(flatten(beside)[path] == count for path, count in flatten(alone).items())
        assert flatten(beside)["auxiliary/weight"] == 120
    masks = jax.jit(lambda s: topk_masks(s, stacks, 0.1, "global"))(whole)
    assert masks["auxiliary"]["weight"].sum() == 120 and masks["a"]["weight"].sum() + masks["b"]["weight"].sum() == 15


@pytest.mark.parametrize("name", ["erk", "global"])
def test_gradual_pruning_keeps_its_total_after_every_step_by_one_program(name: Any) -> None:
    rules = ((r".*/weight", 1),)
    rng = np.random.default_rng(0)
    params = {"a": {"weight": rng.normal(size=(2, 8, 8))}, "b": {"weight": rng.normal(size=(3, 8, 3, 3))}}
    v = unpruned({PARAMS: jax.tree.map(jnp.float32, params)}, rules)
    at = pruning_rates(Gradual(prune_every=1), 0.05, prunable_groups(params, rules), 1, name)(np.arange(12) / 12)
    traces = []

    @jax.jit
    def step(v: Any, rates: Any) -> Any:
        traces.append(1)
        state = State({**v, RATES: rates}, {PARAMS: ()})
        return {k: x for k, x in pruner(rules)(state).variables.items() if k != RATES}

    found = prunable_groups(params, rules)
    each = pruning_rates(Gradual(prune_every=1), 0.05, found, 1)(np.arange(12) / 12)[PRUNING]["kept"]
    for n in range(12):
        v = step(v, jax.tree.map(lambda x, n=n: jnp.float32(x[n]), at))
        masks = [np.asarray(mask).reshape(len(mask), -1) for mask in jax.tree.leaves(v[MASKS])]
        assert all((mask.sum(1) >= 1).all() for mask in masks)
        assert sum(mask.sum() for mask in masks) == sum(group.layers * each[group.name].each[n] for group in found)
    assert len(traces) == 1
    if name == "erk":
        counts = kept_counts(params, {"a": {"weight": 1}, "b": {"weight": 1}}, 0.05, "erk")
        for path, mask in flatten(v[MASKS]).items():
            np.testing.assert_array_equal(np.asarray(mask).reshape(len(mask), -1).sum(1), flatten(counts)[path])


def test_counts_and_totals_may_be_data() -> None:
    """So that one program serves all of them; layers that keep nothing are there too."""
    scores = {"w": jnp.arange(1.0, 13).reshape(3, 4)}
    ranked = jax.jit(lambda kept: largest_of_layers(scores, {"w": 1}, {"w": kept})["w"].sum(1))
    assert ranked(jnp.array([0, 1, 4])).tolist() == [0, 1, 4] and ranked(jnp.array([2, 2, 0])).tolist() == [2, 2, 0]
    pooled = jax.jit(lambda total: largest_of_layers(scores, {"w": 1}, Pooled({True: total}))["w"].sum(1))
    assert pooled(jnp.array(5)).tolist() == [1, 1, 3] and pooled(jnp.array(3)).tolist() == [1, 1, 1]
    assert ranked._cache_size() == pooled._cache_size() == 1


def test_globally_the_scale_of_a_layer_does_not_decide_but_how_its_scores_are_spread() -> None:
    """Initial scores have the scale 1/√inputs."""
    rng = np.random.default_rng(0)
    weights = {"wide": rng.normal(size=(32, 128)), "narrow": rng.normal(size=(32, 8))}
    stacks = dict.fromkeys(weights, 0)
    kept = jax.jit(lambda w: topk_masks(init_scores(w, stacks), stacks, 0.1, "global"))
    masks = kept(weights)
    np.testing.assert_allclose([mask.mean() for mask in masks.values()], 0.1, atol=0.02)
    few = kept({**weights, "wide": weights["wide"] ** 9})  # but for a few its scores are small
    assert few["wide"].mean() < 0.1 < few["narrow"].mean()
