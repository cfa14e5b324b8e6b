"""Initial scores: the values of Eq. 3, layer by layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.sparsity import init_scores, topk_masks


@pytest.mark.parametrize(
    ("shape", "stack", "inputs"),
    [
        ((6, 3, 3), 0, 9),  # depthwise 3×3: each channel sees one
        ((6, 5, 5), 0, 25),
        ((8, 6), 0, 6),  # pointwise, linear
        ((4, 3, 3, 3), 0, 27),  # dense convolution
        ((2, 3, 6, 5, 5), 2, 25),  # depthwise, for 2·3 edges
        ((2, 8, 6), 1, 6),  # the halves of a factorized reduce
    ],
)
def test_scores_are_the_weights_over_their_largest_times_root_six_over_fan_in(
    shape: tuple[int, ...], stack: int, inputs: int
) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = init_scores({"w": jnp.asarray(weight)}, {"w": stack})["w"]
    assert found.dtype == jnp.float32
    for layer in np.ndindex(shape[:stack]):
        wanted = np.sqrt(6 / inputs) * weight[layer] / np.abs(weight[layer]).max()
        np.testing.assert_allclose(found[layer], wanted, rtol=1e-6)
        assert np.abs(found[layer]).max() == pytest.approx(np.sqrt(6 / inputs), rel=1e-6)


def test_a_layer_of_zeros_has_scores_of_zero_and_leaves_its_neighbours_alone() -> None:
    weight = jnp.stack([jnp.zeros((2, 3)), jnp.array([[1.0, -2.0, 0.5], [0.0, 0.25, 1.0]])])
    found = init_scores({"w": weight}, {"w": 1})["w"]
    np.testing.assert_array_equal(found[0], np.zeros((2, 3)))
    np.testing.assert_allclose(found[1], np.sqrt(6 / 3) * weight[1] / 2, rtol=1e-6)


def test_scores_order_the_weights_as_their_magnitudes_do() -> None:
    weight = np.random.default_rng(1).normal(size=(10, 20)).astype(np.float32)
    found = np.asarray(init_scores({"w": jnp.asarray(weight)}, {"w": 0})["w"])
    ranked = np.abs(weight).ravel().argsort()
    assert (np.diff(np.abs(found).ravel()[ranked]) >= 0).all()
    np.testing.assert_array_equal(np.sign(found), np.sign(weight))
    by_score, by_weight = (topk_masks({"w": jnp.asarray(array)}, {"w": 0}, 0.1)["w"] for array in (found, weight))
    np.testing.assert_array_equal(by_score, by_weight)


@pytest.mark.usefixtures("x64")
def test_scores_keep_structure_and_double_precision() -> None:
    weights = {"a": {"weight": jnp.arange(6.0).reshape(2, 3)}, "b": {"weight": jnp.ones((1, 4, 1))}}
    found = init_scores(weights, {"a": {"weight": 0}, "b": {"weight": 1}})
    assert found["a"]["weight"].dtype == jnp.float64
    np.testing.assert_allclose(found["a"]["weight"], np.sqrt(2) * np.arange(6.0).reshape(2, 3) / 5, rtol=1e-15)
    np.testing.assert_allclose(found["b"]["weight"], np.full((1, 4, 1), np.sqrt(6)), rtol=1e-15)
