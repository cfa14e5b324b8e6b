"""The penalty of ridge regression, learned on a validation set; its optimum is known.

    f(λ, w) = |Xw − y|²/2n + e^λ |w|²/2  on the training set      F(w) = |Xw − y|²/2n  on the validation set

F knows λ through w alone: only an estimator that sees how w answers can move it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from dass_jax import bilevel
from dass_jax.bilevel import Level

FEATURES, TURNS, LOWER_STEPS = 5, 150, 60
KEY = jax.random.key(0)


def data(orthogonal: bool) -> tuple[Any, Any]:
    """(training, validation) with noise that asks for a penalty; `orthogonal`: XᵀX/n = 1 in both."""
    rng = np.random.default_rng(7)
    truth = rng.normal(size=FEATURES)

    def part(rows: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(rows, FEATURES)) * ([1] * FEATURES if orthogonal else np.linspace(0.5, 1.5, FEATURES))
        if orthogonal:
            x = np.linalg.qr(x)[0] * np.sqrt(rows)
        return x, x @ truth + 2.5 * rng.normal(size=rows)

    return part(12), part(200)


def optimum(train: Any, valid: Any) -> float:
    """argmin F(w*(λ)) from ridge regression's closed form."""

    def loss(penalty: float) -> float:
        x, y = train
        w = np.linalg.solve(x.T @ x / len(y) + np.exp(penalty) * np.eye(FEATURES), x.T @ y / len(y))
        return float(((valid[0] @ w - valid[1]) ** 2).mean())

    found = scipy.optimize.minimize_scalar(loss, bounds=(-6, 4), method="bounded", options={"xatol": 1e-10})
    assert -5 < found.x < 3  # inside, not at an end
    return float(found.x)


def error(w: jax.Array, batch: Any) -> jax.Array:
    x, y = batch
    return 0.5 * ((x @ w - y) ** 2).mean()


def upper_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    return error(v["w"], batch), ({}, {})


def lower_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    return error(v["w"], batch) + 0.5 * jnp.exp(v["penalty"]) * (v["w"] ** 2).sum(), ({}, {})


def learned(hypergradient: bilevel.Hypergradient, orthogonal: bool, upper_lr: float = 5.0) -> tuple[float, float]:
    """(the learned log penalty, the optimum)."""
    train, valid = data(orthogonal)
    lower = Level("w", lower_loss, optax.sgd(0.25), steps=LOWER_STEPS)
    algorithm = bilevel.alternate(Level("penalty", upper_loss, optax.sgd(upper_lr)), lower, hypergradient)
    repeated = jax.tree.map(lambda x: np.stack([x] * LOWER_STEPS), train)

    def turn(state: Any, _: None) -> tuple[Any, None]:
        return algorithm.update(state, {"upper": valid, "lower": repeated}, KEY)[0], None

    state = algorithm.init({"penalty": jnp.zeros(()), "w": jnp.zeros(FEATURES)})
    state, _ = jax.jit(lambda s: jax.lax.scan(turn, s, None, length=TURNS))(state)
    return float(state.variables["penalty"]), optimum(train, valid)


EXACT = {
    "unrolled": bilevel.unrolled(60),
    "unrolled, rematerialised": bilevel.unrolled(60, remat=True),
    "neumann": bilevel.neumann(60, lr=0.25),
    "conjugate_gradient": bilevel.conjugate_gradient(FEATURES),
}
"""With enough terms."""

TRUNCATED = {
    "unrolled by one step": (bilevel.unrolled(1), 8.0),
    "finite_difference": (bilevel.finite_difference(), 8.0),
    "neumann of one term": (bilevel.neumann(1, lr=0.25), 8.0),
    "conjugate_gradient, one iteration": (bilevel.conjugate_gradient(1), 5.0),
    "amended": (bilevel.amended(0.2), 5.0),
}
"""Where H is a multiple of 1 their terms are multiples of the implicit one, so they vanish at the same place."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", EXACT)
def test_the_penalty_is_recovered(name: str) -> None:
    found, wanted = learned(EXACT[name], orthogonal=False)
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_estimators_recover_it_where_the_hessian_is_a_multiple_of_one(name: str) -> None:
    found, wanted = learned(TRUNCATED[name][0], orthogonal=True, upper_lr=TRUNCATED[name][1])
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.usefixtures("x64")
def test_a_truncated_estimator_is_biased_elsewhere_and_first_order_never_moves() -> None:
    found, wanted = learned(bilevel.unrolled(1), orthogonal=False, upper_lr=8.0)
    assert 0.01 < abs(found - wanted) < 2
    assert learned(bilevel.first_order(), orthogonal=False)[0] == 0.0
