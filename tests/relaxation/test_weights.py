"""Architecture parameters and the weights they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import relaxation

SHAPES = {"normal": (14, 8), "reduce": (5, 7)}


def test_alpha_is_small_normal_noise_of_the_shapes_asked_for() -> None:
    alpha = relaxation.init(jax.random.key(0), {"normal": (1000, 8), "reduce": (500, 7)})
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in alpha.items()} == {
        "normal": ((1000, 8), jnp.float32),
        "reduce": ((500, 7), jnp.float32),
    }
    for leaf in alpha.values():
        assert float(leaf.std()) == pytest.approx(1e-3, rel=0.05)
        assert abs(float(leaf.mean())) < 1e-4


def test_alpha_follows_the_key_and_the_scale_and_differs_between_cell_types() -> None:
    same = {"normal": (5, 8), "reduce": (5, 8)}
    alpha = relaxation.init(jax.random.key(0), same)
    assert not np.allclose(alpha["normal"], alpha["reduce"])
    np.testing.assert_array_equal(alpha["normal"], relaxation.init(jax.random.key(0), same)["normal"])
    assert not np.allclose(alpha["normal"], relaxation.init(jax.random.key(1), same)["normal"])
    wider = relaxation.init(jax.random.key(0), same, scale=2.0)
    np.testing.assert_allclose(wider["normal"], 2000 * alpha["normal"], rtol=1e-5)


def test_softmax_is_over_the_operations_of_each_edge() -> None:
    alpha = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    found = relaxation.softmax(alpha)
    for name, leaf in alpha.items():
        exponentials = np.exp(leaf.astype(np.float64))
        np.testing.assert_allclose(found[name], exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5)


def test_softmax_survives_large_values() -> None:
    found = relaxation.softmax({"normal": jnp.array([[1000.0, 0.0], [-1000.0, -1000.0]])})["normal"]
    np.testing.assert_allclose(found, [[1, 0], [0.5, 0.5]])


def test_sigmoid_weighs_each_operation_by_itself() -> None:
    found = relaxation.sigmoid({"normal": jnp.array([[0.0, 2.0], [-1000.0, 1000.0]])})["normal"]
    np.testing.assert_allclose(found, [[0.5, 1 / (1 + np.exp(-2))], [0, 1]], rtol=1e-6)


def test_entmax_weights_are_those_of_every_leaf_and_its_mask() -> None:
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    alive = {name: rng.random(shape) < 0.7 for name, shape in SHAPES.items()}
    masked, whole = relaxation.entmax_weights(logits, 3.0, alive), relaxation.entmax_weights(logits, 3.0)
    for name, z in logits.items():
        np.testing.assert_array_equal(masked[name], relaxation.entmax(z, 3.0, alive[name]))
        np.testing.assert_array_equal(whole[name], relaxation.entmax(z, 3.0))
    assert not np.allclose(relaxation.entmax_weights(logits)["normal"], whole["normal"])
    assert 0 < float(relaxation.entropy(masked)) < float(relaxation.entropy(relaxation.softmax(logits)))


def test_entropy_is_the_mean_over_all_edges_of_all_cells_in_nats() -> None:
    uniform = {name: jnp.full(shape, 1 / shape[1]) for name, shape in SHAPES.items()}
    wanted = (14 * np.log(8) + 5 * np.log(7)) / 19
    assert float(relaxation.entropy(uniform)) == pytest.approx(wanted, rel=1e-6)
    assert float(relaxation.entropy({"normal": jnp.eye(8)})) == 0
    halves = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert float(relaxation.entropy({"normal": halves})) == pytest.approx(np.log(2) / 2)
