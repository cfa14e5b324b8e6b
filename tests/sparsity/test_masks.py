"""Exact counts, stable ties, and the straight-through gradient, worked out by hand and against the formula."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.sparsity import apply_masks, dense_masks, kept_in_layer, kept_total, sparsify, topk_masks
from dass_jax.sparsity.masks import largest

KEEPS = [1.0, 0.9, 0.5, 0.3, 0.1, 0.05, 0.01, 0.001]
SIZES = [1, 2, 9, 25, 100, 1000]

_largest = jax.jit(largest)


def oracle(scores: np.ndarray, kept: int) -> np.ndarray:
    """Boolean, true at the first `kept` of a stable sort of each row by falling |score|."""
    order = np.argsort(-np.abs(scores), axis=1, kind="stable")
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order[:, :kept], True, axis=1)
    return mask


@pytest.mark.parametrize(
    ("weights", "keep", "kept"),
    [
        *[(n, 1.0, n) for n in SIZES],
        *[(100, 0.9, 91), (1000, 0.9, 901), (100, 0.1, 10), (9, 0.5, 5), (25, 0.5, 13)],  # 1 − 0.9 is just below 0.1
        *[(1, 0.01, 1), (9, 0.01, 1), (27, 0.01, 1), (100, 0.01, 1), (101, 0.01, 2), (1296, 0.01, 13)],
        *[(1, 0.001, 1), (1000, 0.001, 1), (1001, 0.001, 2), (999, 0.5, 500)],
        *[(1, 1e-17, 1), (1000, 1e-17, 1), (2**40, 5e-324, 1)],
    ],
)
def test_kept_in_layer_is_n_minus_the_whole_part_of_the_pruned_share(weights: int, keep: float, kept: int) -> None:
    assert kept_in_layer(weights, keep) == kept


@given(weights=st.integers(1, 10**7), keep=st.one_of(st.floats(0.001, 1.0), st.floats(0, 1, exclude_min=True)))
@settings(deadline=None, derandomize=True)
def test_at_least_one_weight_and_the_kept_share_to_within_one(weights: int, keep: float) -> None:
    kept = kept_in_layer(weights, keep)
    assert kept == max(weights - math.floor((1 - keep) * weights), 1)
    assert 1 <= kept <= weights
    assert -1e-6 <= kept - keep * weights <= 1 + 1e-6


@pytest.mark.parametrize("n", SIZES)
def test_largest_marks_exactly_the_kept_for_every_pruning_ratio(n: int) -> None:
    rng = np.random.default_rng(n)
    scores = rng.normal(size=(3, n)).astype(np.float32)
    scores[1] = np.round(scores[1])  # many ties, many zeros
    for keep in KEEPS:
        kept = kept_in_layer(n, keep)
        found = _largest(np.abs(scores), kept)
        np.testing.assert_array_equal(found, oracle(scores, kept), err_msg=f"keep = {keep}")
        assert (np.sum(found, axis=1) == kept).all()


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1e-40, -1e-40, 0.5, -0.5, 1.0, 3e38]), min_size=12, max_size=12),
    kept=st.integers(0, 12),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_ties_of_any_kind_go_to_the_earlier_weights(values: list[float], kept: int) -> None:
    scores = np.array([values], np.float32)
    np.testing.assert_array_equal(_largest(np.abs(scores), kept), oracle(scores, kept))


@pytest.mark.usefixtures("x64")
def test_doubles_that_agree_in_single_precision_are_told_apart() -> None:
    scores = np.array([[1.0, 1.0 + 1e-12, 1.0 - 1e-12, -1.0 - 2e-12]])
    assert jnp.asarray(scores).dtype == jnp.float64
    for kept in range(5):
        np.testing.assert_array_equal(jax.jit(largest)(np.abs(scores), kept), oracle(scores, kept))


@pytest.mark.parametrize(("keep", "kept"), [(1.0, 20), (0.5, 10), (0.1, 2)])
def test_equal_scores_keep_the_first_weights(keep: float, kept: int) -> None:
    scores = {name: jnp.full((4, 5), float(name)) for name in ("0", "1", "-2.5")}
    masks = jax.jit(lambda scores: topk_masks(scores, dict.fromkeys(scores, 0), keep))(scores)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask.ravel(), np.arange(20) < kept, err_msg=f"all scores {name}")


def test_a_large_negative_score_is_kept() -> None:
    scores = {"weight": jnp.array([[0.1, -5.0], [0.2, 0.0]])}
    np.testing.assert_array_equal(topk_masks(scores, {"weight": 0}, 0.25)["weight"], [[0, 1], [0, 0]])


@pytest.mark.parametrize("x64_too", [False, True])
def test_stacked_layers_are_pruned_each_on_its_own(x64_too: bool) -> None:
    """Leaves of equal and different layer sizes and stacks; one layer's scores are a thousand times the others'."""
    with jax.enable_x64(x64_too):
        dtype = np.float64 if x64_too else np.float32
        shapes = {"a": (2, 3, 4, 5), "b": (20,), "c": {"d": (3, 4, 5), "e": (7, 3)}}
        stacks = {"a": 2, "b": 0, "c": {"d": 1, "e": 1}}
        rng = np.random.default_rng(0)
        scores = jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(dtype), shapes, is_leaf=lambda s: isinstance(s, tuple)
        )
        scores["a"][1, 2] *= 1000
        masks = jax.jit(lambda s: topk_masks(s, stacks, 0.1))(scores)
        chex.assert_trees_all_equal_shapes_and_dtypes(masks, jax.tree.map(jnp.asarray, scores))
        rows = jax.tree.map(lambda leaf, stack: leaf.reshape(math.prod(leaf.shape[:stack]), -1), scores, stacks)
        wanted = jax.tree.map(lambda row: oracle(row, 2 if row.shape[1] == 20 else 1), rows)
        wanted = jax.tree.map(lambda mask, leaf: mask.reshape(leaf.shape).astype(dtype), wanted, scores)
        chex.assert_trees_all_equal(jax.tree.map(np.asarray, masks), wanted)
        # Layers of 20 weights keep 20 − int(0.9 · 20) = 2, those of 3 keep 3 − int(2.7) = 1.
        assert jax.tree.map(lambda mask: int(mask.sum()), masks) == {"a": 12, "b": 2, "c": {"d": 6, "e": 7}}
        assert kept_total(scores, stacks, 0.1) == 12 + 2 + 6 + 7


def test_no_gradient_flows_through_the_choice_of_the_mask() -> None:
    gradient = jax.grad(lambda s: topk_masks({"w": s}, {"w": 0}, 0.5)["w"].sum())(jnp.arange(4.0))
    np.testing.assert_array_equal(gradient, np.zeros(4))


def test_straight_through_gradient_worked_out_by_hand() -> None:
    """A 2×2 layer at one half: |s| = 0.9, 0.2 / 0.1, 0.4, so the diagonal survives."""
    theta = {"w": jnp.array([[2.0, -3.0], [0.5, 1.0]])}
    scores = {"w": jnp.array([[-0.9, 0.2], [0.1, -0.4]])}
    upstream = {"w": jnp.array([[1.0, 10.0], [-2.0, 4.0]])}
    sparse, back = jax.vjp(lambda t, s: sparsify(t, s, {"w": 0}, 0.5), theta, scores)
    to_theta, to_scores = back(upstream)
    np.testing.assert_array_equal(sparse["w"], [[2.0, 0.0], [0.0, 1.0]])
    # m ⊙ g: a pruned weight gets nothing.
    np.testing.assert_array_equal(to_theta["w"], [[1.0, 0.0], [0.0, 4.0]])
    # sign(s) ⊙ θ ⊙ g: −1·2·1, +1·(−3)·10 / +1·0.5·(−2), −1·1·4; a pruned weight's score learns too.
    np.testing.assert_array_equal(to_scores["w"], [[-2.0, -30.0], [-1.0, -4.0]])


def test_a_step_along_the_score_gradient_brings_back_a_weight_that_helps() -> None:
    """Loss (1 − θ⊙m of the second weight)²: raising |s| of the pruned weight 1 lowers it, for either sign of s."""
    theta = {"w": jnp.array([1.0, 1.0])}
    for sign in (1.0, -1.0):
        scores = {"w": jnp.array([0.5, 0.1 * sign])}

        def loss(s: Any) -> jax.Array:
            return (1 - sparsify(theta, s, {"w": 0}, 0.5)["w"][1]) ** 2

        moved = jax.tree.map(lambda s, g: s - 0.5 * g, scores, jax.grad(loss)(scores))
        assert (loss(scores), loss(moved)) == (1, 0)


def test_a_score_of_zero_gets_no_gradient() -> None:
    gradient = jax.grad(lambda s: sparsify({"w": jnp.ones(3)}, s, {"w": 0}, 1.0)["w"].sum())({"w": jnp.zeros(3)})
    np.testing.assert_array_equal(gradient["w"], np.zeros(3))


@pytest.mark.usefixtures("x64")
def test_gradients_of_a_loss_through_sparsify_follow_the_formula_and_theta_numerical_differences() -> None:
    rng = np.random.default_rng(5)
    stacks = {"layer": {"weight": 1}, "last": {"weight": 0}}
    params = {
        "layer": {"weight": rng.normal(size=(2, 3, 4)), "bias": rng.normal(size=3)},
        "last": {"weight": rng.normal(size=(2, 3))},
    }
    scores = {"layer": {"weight": rng.normal(size=(2, 3, 4))}, "last": {"weight": rng.normal(size=(2, 3))}}
    x = rng.normal(size=4)

    def network(p: Any) -> jax.Array:
        hidden = jnp.tanh(p["layer"]["weight"] @ x + p["layer"]["bias"]).sum(0)
        return jnp.sin(p["last"]["weight"] @ hidden).sum()

    loss = jax.jit(lambda p, s: network(sparsify(p, s, stacks, 0.4)))
    to_params, to_scores = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, scores)

    # 12 − int(0.6 · 12) = 5 of each of the two layers, and 6 − int(0.6 · 6) = 3 of the last.
    masks = {
        "layer": oracle(_weight(scores, "layer").reshape(2, 12), 5),
        "last": oracle(_weight(scores, "last").reshape(1, 6), 3),
    }
    sparse = jax.tree.map(np.array, params)
    for name, mask in masks.items():
        sparse[name]["weight"] *= mask.reshape(sparse[name]["weight"].shape)
    upstream = jax.jit(jax.grad(network))(sparse)
    for name in masks:
        wanted = np.sign(_weight(scores, name)) * _weight(params, name) * _weight(upstream, name)
        np.testing.assert_allclose(_weight(to_scores, name), wanted, rtol=1e-12)

    step = 1e-6
    leaves, structure = jax.tree.flatten(params)
    for index, leaf in enumerate(leaves):
        numerical = np.zeros(leaf.shape)
        for place in np.ndindex(leaf.shape):
            shift = np.zeros(leaf.shape)
            shift[place] = step
            up, down = ([*leaves[:index], leaf + sign * shift, *leaves[index + 1 :]] for sign in (1, -1))
            numerical[place] = (
                loss(jax.tree.unflatten(structure, up), scores) - loss(jax.tree.unflatten(structure, down), scores)
            ) / (2 * step)
        np.testing.assert_allclose(jax.tree.leaves(to_params)[index], numerical, atol=1e-8)


def _weight(tree: Any, layer: str) -> Any:
    return tree[layer]["weight"]


def test_leaves_without_scores_pass_untouched_and_dense_masks_change_nothing() -> None:
    params = {"w": jnp.array([1.0, -2.0, 0.0]), "bias": jnp.array([3.0])}
    stacks = {"w": 0}
    assert sparsify(params, {"w": params["w"]}, stacks, 0.5)["bias"] is params["bias"]
    masks = dense_masks(params, stacks)
    chex.assert_trees_all_equal(masks, {"w": jnp.ones(3)})
    chex.assert_trees_all_equal(apply_masks(params, masks), params)
    pruned = apply_masks(params, {"w": jnp.array([0.0, 1.0, 1.0])})
    chex.assert_trees_all_equal(pruned, {"w": jnp.array([0.0, -2.0, 0.0]), "bias": jnp.array([3.0])})


def test_apply_masks_equals_sparsify_at_the_same_masks() -> None:
    params = {"w": jax.random.normal(jax.random.key(0), (5, 6)), "bias": jnp.ones(5)}
    scores = {"w": jax.random.normal(jax.random.key(1), (5, 6))}
    masks = topk_masks(scores, {"w": 0}, 0.2)
    chex.assert_trees_all_equal(apply_masks(params, masks), sparsify(params, scores, {"w": 0}, 0.2))
