"""Accelerated proximal gradient against tables worked out by hand, ISTA, FISTA, and the solution of a lasso."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel
from dass_jax.bilevel import proximal

pytestmark = pytest.mark.usefixtures("x64")


def run(
    gradient: Callable[[Any], Any], first: Any, steps: int, eta: float, gamma: Any, transform: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(λ, v) after each step, [steps, …]."""
    x, state, seen = jnp.asarray(first), transform.init(jnp.asarray(first)), []
    update = jax.jit(transform.update)
    for _ in range(steps):
        step, state = update(gradient(x), state, x, learning_rate=jnp.float64(eta), gamma=gamma)
        x = optax.apply_updates(x, step)
        [found] = [s for s in jax.tree.leaves(state, is_leaf=is_state) if is_state(s)]
        seen.append((x, found.velocity))
    return tuple(map(np.asarray, zip(*seen, strict=True)))


def is_state(x: Any) -> bool:
    return isinstance(x, proximal.ProximalState)


def parabola(a: float) -> Callable[[Any], Any]:
    return lambda x: x - a


def test_a_step_is_that_of_the_table() -> None:
    """G = ½(λ − 0.2)², η = 0.1, γ = 0.5, μ = 0.9, from λ = 1."""
    x, v = run(parabola(0.2), 1.0, 4, 0.1, 0.5, bilevel.apg_nag())
    np.testing.assert_allclose(x, [0.753, 0.44763, 0.12551730, 0], atol=5e-9)
    np.testing.assert_allclose(v, [-0.13, -0.2223, -0.274833, -0.28990143], atol=5e-9)
    assert x[-1] == 0


def test_without_momentum_it_is_ista() -> None:
    x, _ = run(parabola(0.2), 1.0, 3, 0.1, 0.5, bilevel.apg_nag(0.0))
    np.testing.assert_allclose(x, [0.87, 0.753, 0.6477], rtol=1e-12)
    lasso, _ = run(slope, np.ones(4), 50, 0.1, 1.0, bilevel.apg_nag(0.0, "signed"))
    y = np.ones(4)
    for found in lasso:
        step = y - 0.1 * (Q @ y - C)
        y = np.sign(step) * np.maximum(np.abs(step) - 0.1, 0)
        np.testing.assert_allclose(found, y, rtol=1e-12, atol=1e-14)


def test_a_changing_momentum_is_the_last_one_in_v_and_the_present_one_in_the_factor() -> None:
    x, v = run(parabola(0.2), 1.0, 4, 0.1, 0.5, bilevel.apg_nag(proximal.fista))
    np.testing.assert_allclose(x, [0.87, 0.72375, 0.568725, 0.41209125], atol=5e-9)
    mu = np.array([0, 1 / 4, 2 / 5, 3 / 6])
    np.testing.assert_allclose(x - mu * v, [0.87, 0.753, 0.621375, 0.4818525], atol=5e-9)


@pytest.mark.parametrize(("form", "velocity"), [("coded", [-1, -1.35, -1.665]), ("prox", [-1, -0.9, -0.81])])
def test_only_the_coded_form_winds_up_while_a_factor_is_held_at_zero(form: str, velocity: list[float]) -> None:
    """G = ½(λ + 1)², η = 0.5, γ = 0.1, μ = 0.9."""
    x, v = run(parabola(-1.0), 1.0, 3, 0.5, 0.1, bilevel.apg_nag(form=form))
    np.testing.assert_array_equal(x, 0)
    np.testing.assert_allclose(v, velocity, rtol=1e-12)


def test_clipping_comes_before_the_threshold() -> None:
    """G = ½(λ + 4)², η = 0.1, γ = 0.5, μ = 0.9, gradients within ±2."""
    x, v = run(parabola(-4.0), 1.0, 3, 0.1, 0.5, optax.chain(optax.clip(2.0), bilevel.apg_nag()))
    np.testing.assert_allclose(x, [0.525, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(v, [-0.25, -0.475, -0.5775], rtol=1e-12)


@pytest.mark.parametrize(("gamma", "steps"), [(1e-3, 1009), (1e-2, 109)])
def test_without_a_gradient_a_factor_of_one_reaches_zero_in_the_papers_number_of_steps(
    gamma: float, steps: int
) -> None:
    x, _ = run(jnp.zeros_like, 1.0, steps, 0.1, gamma, bilevel.apg_nag())
    assert (x[:-1] > 0).all() and x[-1] == 0


Q = np.array([[6.0, 1, 2, 1], [1, 7, -1, -2], [2, -1, 6, -1], [1, -2, -1, 7]])
C = np.array([6, 5.5, 4, -8])
"""The lasso ½xᵀQx − cᵀx + |x|₁; the largest eigenvalue is 9."""


def slope(x: Any) -> Any:
    return Q @ x - C


def fista(steps: int, prox: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Beck and Teboulle's sequence for momenta (t − 1)/(t + 2), with a step of 0.1 from ones."""
    y, before, seen = np.ones(4), np.ones(4), []
    for t in range(1, steps + 1):
        z = prox(y - 0.1 * (Q @ y - C))
        seen.append(z)
        y, before = z + (t - 1) / (t + 2) * (z - before), z
    return seen


def test_with_the_momenta_of_fista_and_no_projection_it_is_fista() -> None:
    x, v = run(slope, np.ones(4), 60, 0.1, 1.0, bilevel.apg_nag(proximal.fista, "signed"))
    mu = np.array([(t - 1) / (t + 2) for t in range(1, 61)])[:, None]
    wanted = fista(60, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.1, 0))
    np.testing.assert_allclose(x - mu * v, wanted, rtol=0, atol=1e-12)
    assert (np.array(wanted)[-1] < 0).any()


def last(form: str, momentum: Any = 0.9, steps: int = 400) -> tuple[np.ndarray, np.ndarray]:
    x, v = run(slope, np.ones(4), steps, 0.1, 1.0, bilevel.apg_nag(momentum, form))
    return x, v


@pytest.mark.parametrize(("momentum", "steps"), [(0.0, 31), (0.5, 22), (0.9, 48)])
@pytest.mark.parametrize("form", ["coded", "prox"])
def test_both_forms_reach_the_solution_of_the_lasso_in_as_many_steps(form: str, momentum: float, steps: int) -> None:
    solution = [31 / 52, 8 / 13, 21 / 52, 0]
    x, v = last(form, momentum)
    far = np.abs(x - solution).max(1) > 1e-6
    assert np.flatnonzero(far)[-1] + 2 == steps  # the first step from which on it stays near
    assert x[-1, 3] == 0
    if (form, momentum) == ("coded", 0.9):
        np.testing.assert_allclose(v[-1, 3], -5.9615385, atol=5e-8)
    assert (x >= 0).all()


def test_factors_of_either_sign_reach_the_solution_of_the_unconstrained_lasso() -> None:
    x, _ = last("signed")
    np.testing.assert_allclose(x[-1], [0.96875, 0.20138889, 0.03125, -1.07638889], atol=1e-8)


def test_every_entry_has_its_own_gamma() -> None:
    """As data: scalars and arrays; each entry moves as it would alone."""
    params = {"a": jnp.array([1.0, 0.8]), "b": jnp.array(0.5)}
    gamma = {"a": jnp.array([0.1, 0.7]), "b": jnp.float64(0.3)}
    transform = bilevel.apg_nag()
    update = jax.jit(transform.update)
    state = transform.init(params)
    for _ in range(3):
        gradient = jax.tree.map(lambda x: x - 0.2, params)
        step, state = update(gradient, state, params, learning_rate=0.1, gamma=gamma)
        params = optax.apply_updates(params, step)
    for found, first, weight in [(params["a"][0], 1, 0.1), (params["a"][1], 0.8, 0.7), (params["b"], 0.5, 0.3)]:
        alone, _ = run(parabola(0.2), float(first), 3, 0.1, weight, transform)
        np.testing.assert_allclose(found, alone[-1], rtol=1e-12)


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="form = 'hard'; allowed: coded, prox, signed"):
        bilevel.apg_nag(form="hard")


def test_nesterov_sgd_is_its_equations() -> None:
    rng, rates = np.random.default_rng(0), (0.1, 0.1, 0.05)
    w, bias, m = rng.normal(size=(3, 2)), rng.normal(size=3), 0.0
    gradients = [(3 * rng.normal(size=w.shape), rng.normal(size=3)) for _ in rates]
    transform = bilevel.nesterov_sgd(0.9, 0.01, 2.0, lambda params: {"weight": True, "bias": False})
    params = {"weight": jnp.asarray(w), "bias": jnp.asarray(bias)}
    state, of_bias = transform.init(params), 0.0
    for (g, b), eta in zip(gradients, rates, strict=True):
        given = {"weight": jnp.asarray(g), "bias": jnp.asarray(b)}
        step, state = transform.update(given, state, params, learning_rate=jnp.float64(eta))
        params = optax.apply_updates(params, step)
        g, b = np.clip(g, -2, 2) + 0.01 * w, np.clip(b, -2, 2)
        m, of_bias = 0.9 * m + g, 0.9 * of_bias + b
        w, bias = w - eta * (g + 0.9 * m), bias - eta * (b + 0.9 * of_bias)
    np.testing.assert_allclose(params["weight"], w, rtol=1e-12)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-12)
    assert (np.abs(np.stack([g for g, _ in gradients])) > 2).any()
