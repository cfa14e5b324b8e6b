"""Sums over pixels against NumPy, and their gradients of first and second order against JAX's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dass_jax.nn.kernels import sums

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
HEIGHTS = (1, 3, 8)
"""A height that no number of slabs divides, one that only three do, one that all do."""


BACKENDS = pytest.mark.parametrize("backend", ["cpu", "tpu"], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums are in the form for that backend."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


@BACKENDS
@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("number", [1, 2, 9, 25])
def test_sums_of_products_equal_numpy(height: int, number: int, backend: None) -> None:
    views, g = [normal(2, 3, height, 4, 5) for _ in range(number)], normal(2, 3, height, 4, 5)
    wanted = [(view * g).sum((-3, -2, -1)) for view in views]
    found = sums.sums_of_products(tuple(map(jnp.asarray, views)), g)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@BACKENDS
def test_sums_of_products_broadcast_both_ways(backend: None) -> None:
    view, g = normal(4, 1, 3, 2, 2, 5), normal(6, 3, 2, 2, 5)
    wanted = np.einsum("schwn,tchwn->stc", view[:, 0], g)
    np.testing.assert_allclose(sums.sums_of_products((view,), g)[0], wanted, rtol=1e-12, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("height", HEIGHTS)
def test_product_and_sum_equal_numpy(height: int, backend: None) -> None:
    x, g = normal(2, 3, height, 4, 5), normal(2, 3, height, 4, 5)
    wanted = [(x * g).sum((-3, -2, -1)), g.sum((-3, -2, -1))]
    np.testing.assert_allclose(sums.product_and_sum(x, g), wanted, rtol=1e-12, atol=1e-12)


def test_the_backend_chooses_the_form_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(2, 8, 2, 2)
    programs = []
    for name in ("cpu", "tpu", "cpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=name: name)
        programs.append(str(jax.make_jaxpr(lambda a, b: sums.product_and_sum(a, b))(x, x)))
    assert "reduce_sum" in programs[1] and "reduce[" not in programs[1]
    assert "reduce[" in programs[0] and programs[0] == programs[2]


@pytest.mark.parametrize("targets", [3, 1])
def test_a_weighted_sum_equals_einsum(targets: int) -> None:
    x, w = normal(2, 2, targets, 4, 3, 2, 5), normal(2, 2, 3, 4)
    wanted = np.einsum("sotchwn,sotc->tchwn", np.broadcast_to(x, (2, 2, 3, 4, 3, 2, 5)), w)
    np.testing.assert_allclose(sums.weighted_sum(x, w), wanted, rtol=1e-12, atol=1e-12)
    if targets > 1:  # side by side
        np.testing.assert_allclose(sums.weighted_sum(x.reshape(2, -1, 3, 2, 5), w), wanted, rtol=1e-12, atol=1e-12)


CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "sums_of_products": (
        lambda x, y, g: sums.sums_of_products((x, y), g),
        (normal(3, 4, 2, 2), normal(3, 4, 2, 2), normal(3, 4, 2, 2)),
    ),
    "weighted_sum": (sums.weighted_sum, (normal(2, 2, 3, 2, 4, 2, 2), normal(2, 2, 3, 2))),
    "multiples": (sums.multiples, (normal(3, 4, 2, 2), normal(2))),
    "combination": (lambda x, y, w: sums.combination((x, y), w), (*2 * (normal(3, 4, 2, 2),), normal(2))),
    "weighted_sum side by side": (sums.weighted_sum, (normal(2, 12, 4, 2, 2), normal(2, 2, 3, 2))),
    "weighted_sum of shared maps": (sums.weighted_sum, (normal(2, 2, 1, 2, 4, 2, 2), normal(2, 2, 3, 2))),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_first_and_second_order(case: str) -> None:
    function, arguments = CASES[case]
    check_grads(jax.jit(function), arguments, order=2, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", [name for name in CASES if name != "sums_of_products"])
def test_forward_over_reverse(case: str) -> None:
    function, arguments = CASES[case]

    def slope(*inputs: jax.Array) -> Any:
        return jax.grad(lambda *a: sum(jnp.sin(y).sum() for y in jax.tree.leaves(function(*a))), 0)(*inputs)

    check_grads(jax.jit(slope), arguments, order=1, modes=["fwd"], atol=1e-6, rtol=1e-6)


def test_multiples_and_their_gradients_are_those_of_their_definition() -> None:
    x, w, g = normal(3, 4, 2, 5), normal(2), [normal(3, 4, 2, 5) for _ in range(2)]
    found, back = jax.vjp(sums.multiples, jnp.asarray(x), jnp.asarray(w))
    np.testing.assert_allclose(found, [w[0] * x, w[1] * x], rtol=1e-12, atol=1e-12)
    to_x, to_w = back(tuple(map(jnp.asarray, g)))
    np.testing.assert_allclose(to_x, w[0] * g[0] + w[1] * g[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(to_w, [(x * g[0]).sum(), (x * g[1]).sum()], rtol=1e-12, atol=1e-12)
    half = sums.multiples(jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.float32))
    assert [each.dtype for each in half] == [jnp.float32] * 2


def test_a_combination_and_its_gradients_are_those_of_their_definition() -> None:
    maps, w, g = [normal(3, 4, 2, 5) for _ in range(3)], normal(3), normal(3, 4, 2, 5)
    found, back = jax.vjp(sums.combination, tuple(map(jnp.asarray, maps)), jnp.asarray(w))
    np.testing.assert_allclose(found, sum(a * x for a, x in zip(w, maps, strict=True)), rtol=1e-12, atol=1e-12)
    to_maps, to_w = back(jnp.asarray(g))
    np.testing.assert_allclose(to_maps, [a * g for a in w], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(to_w, [(x * g).sum() for x in maps], rtol=1e-12, atol=1e-12)
    half = sums.combination(tuple(jnp.asarray(x, jnp.bfloat16) for x in maps), jnp.asarray(w, jnp.float32))
    assert half.dtype == jnp.float32
