"""ENAS' controllers against closed forms and figures of the published code, run in float64 with set weights."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures import enas_macro as macro_arcs
from dass_jax.architectures import enas_micro as micro_arcs
from dass_jax.policies import Policy, enas_macro, enas_micro
from dass_jax.spaces import enas_macro as macro_space
from dass_jax.spaces import enas_micro as micro_space

MACRO, MICRO = enas_macro.policy(12, 6), enas_micro.policy(5, 5)
TWELVE = macro_space.encode(macro_arcs.first_layers(macro_arcs.PUBLISHED["enas_macro"], 12))
CELLS = micro_space.encode(micro_arcs.PUBLISHED["enas_micro"])
ORDER = ("lstm", "first", "embedding", "operation", "attend_before", "attend_now", "attend")
CLOSE = {"rtol": 0, "atol": 1e-8}

pytestmark = pytest.mark.usefixtures("x64")


def zeros(policy: Policy) -> dict[str, np.ndarray]:
    shapes = jax.eval_shape(lambda: policy.init(jax.random.key(0)))
    return {name: np.zeros(leaf.shape) for name, leaf in shapes.items()}


def waves(policy: Policy) -> dict[str, np.ndarray]:
    """Tensor k, row by row, is 0.5·sin(0.7 n + k)."""
    empty = zeros(policy)
    return {
        **empty,
        **{name: (0.5 * np.sin(0.7 * np.arange(empty[name].size) + k)).reshape(empty[name].shape)
           for k, name in enumerate(ORDER)},
    }  # fmt: skip


def biased() -> dict[str, np.ndarray]:
    return {**zeros(MICRO), "bias": np.array([10.0, 10, 0, 0, 0])}


def test_they_have_the_published_weights() -> None:
    assert sum(leaf.size for leaf in zeros(MACRO).values()) == 41_856
    assert sum(leaf.size for leaf in zeros(MICRO).values()) == 41_733
    drawn = MICRO.init(jax.random.key(1))
    np.testing.assert_array_equal(drawn.pop("bias"), [10, 10, 0, 0, 0])
    flat = np.concatenate([np.ravel(leaf) for leaf in drawn.values()])
    assert 0.0999 < np.abs(flat).max() <= 0.1 and abs(flat.std() - 0.1 / math.sqrt(3)) < 1e-3


def test_macro_of_zeros_is_the_closed_form_for_any_arc() -> None:
    score = jax.jit(MACRO.score)
    uniform = jax.jit(MACRO.sample)
    for choice in (TWELVE, uniform(zeros(MACRO), jax.random.key(3))):
        nll, entropy, penalty = score(zeros(MACRO), choice)
        np.testing.assert_allclose(nll, 12 * math.log(6) + 66 * math.log(2), **CLOSE)
        np.testing.assert_allclose(entropy, 2 * math.log(6) + 33 * math.log(2), **CLOSE)
        np.testing.assert_allclose(penalty, 0.1224659836, **CLOSE)
        np.testing.assert_allclose(penalty, 6 * 0.5 * math.log(0.25 / (0.4 * 0.6)), **CLOSE)


def test_macro_of_waves_is_the_published_code() -> None:
    found = jax.jit(MACRO.score)(waves(MACRO), TWELVE)
    np.testing.assert_allclose(found, (101.3193368355, 13.2662853768, 0.7998662386), **CLOSE)


def test_micro_of_zeros_with_its_biases_is_the_closed_form() -> None:
    index = 2 * math.log(720)

    def cell(name: str, favoured: float, other: float) -> float:
        operations = CELLS[enas_micro.OPERATIONS.format(name)]
        return index - sum(math.log(favoured if operation < 2 else other) for operation in operations)

    score = jax.jit(MICRO.score)
    nll, entropy, penalty = score(biased(), CELLS)
    np.testing.assert_allclose((nll, entropy, penalty), (57.0720205, 57.1869582, 0), rtol=0, atol=5e-8)
    wanted = cell("normal", 0.3152701, 0.1231533) + cell("reduce", 0.2543164, 0.1637890)
    np.testing.assert_allclose(nll, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(wanted, 28.4617582 + 28.6102623, rtol=0, atol=1e-5)


def test_micro_bias_of_operations_is_exact() -> None:
    """exp(±0.25 + 0.44·tanh(b)), normalised."""

    def log_p(fixed: float) -> tuple[float, float]:
        logits = np.array([0.44 * math.tanh(10) + fixed] * 2 + [-fixed] * 3)
        logits -= math.log(np.exp(logits).sum())
        return float(logits[0]), float(logits[-1])

    wanted = 4 * math.log(720)
    for name, fixed in (("normal", 0.25), ("reduce", 0.0)):
        favoured, other = log_p(fixed)
        wanted -= sum(favoured if operation < 2 else other for operation in CELLS[f"{name}_operations"])
    np.testing.assert_allclose(jax.jit(MICRO.score)(biased(), CELLS).nll, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("policy", "choice"), [(MACRO, TWELVE), (MICRO, CELLS)])
def test_no_probability_leaves_its_bounds_and_no_weight_is_without_effect(policy: Policy, choice: Any) -> None:
    params = {name: 50 * leaf for name, leaf in waves(policy).items()}
    nll, entropy, _ = jax.jit(policy.score)(params, choice)
    # The least probable of each: an operation, a bit, an index of 2 to 6 nodes.
    if policy is MACRO:
        most = 12 * math.log(1 + 5 * math.exp(3)) - 66 * math.log(0.0474)
    else:
        most = 20 * math.log(2 * math.exp(1.38) + 3) + 4 * sum(math.log(1 + n * math.exp(2.2)) for n in range(1, 6))
    assert 0 < nll < most and entropy > 0
    gradient = jax.jit(jax.grad(lambda p: policy.score(p, choice).nll))(waves(policy))
    assert all(np.any(leaf) for leaf in gradient.values())


def tiny() -> tuple[Policy, list[dict[str, np.ndarray]]]:
    """Two layers of two operations and one bit: eight choices."""
    choices = [
        {"operations": np.array([a, b], np.int32), "skips": np.array([bit], np.int32)}
        for a, b, bit in itertools.product(range(2), range(2), range(2))
    ]
    return enas_macro.policy(2, 2), choices


def test_probabilities_of_all_choices_sum_to_one_and_samples_have_them() -> None:
    policy, choices = tiny()
    params = {name: 3 * leaf for name, leaf in waves(policy).items()}
    stacked = jax.tree.map(lambda *x: np.stack(x), *choices)
    probabilities = np.exp(-jax.jit(jax.vmap(policy.score, (None, 0)))(params, stacked).nll)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
    assert probabilities.max() > 1.5 * probabilities.min()
    drawn = jax.jit(jax.vmap(policy.sample, (None, 0)))(params, jax.random.split(jax.random.key(0), 20_000))
    place = np.asarray(4 * drawn["operations"][:, 0] + 2 * drawn["operations"][:, 1] + drawn["skips"][:, 0])
    shares = np.bincount(place, minlength=8) / 20_000
    assert np.all(np.abs(shares - probabilities) < 5 * np.sqrt(probabilities / 20_000))


def test_bits_are_drawn_with_the_doubled_logit() -> None:
    """The optimum of the penalty, σ(z) = 0.4, draws bits in 4 of 13 cases."""
    z = math.log(0.4 / 0.6)
    np.testing.assert_allclose(jax.nn.softmax(jnp.array([-z, z]))[1], 4 / 13, rtol=1e-12)
    assert 0.0474 < jax.nn.sigmoid(-3.0) < 0.0475
