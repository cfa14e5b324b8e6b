"""α-entmax against 50 digits, its limits, its properties, and its derivatives of first and second order."""

import functools
from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.errors import UserError
from dass_jax.relaxation import entmax, support

DY = np.array([1, -0.5, 0.25, 2, -1, 0.5, -0.25, 0.75])
A, B = [0.3, 0.1, -0.2, 0.05, 0], [1, 0.8, -0.5, 0.2]
PUBLISHED = [
    (A, 1.5, [0.31909659, 0.21611932, 0.09915341, 0.1935, 0.17213068]),
    (A, 2, [0.4375, 0.2375, 0, 0.1875, 0.1375]),
    (A, 3, [0.7, 0.3, 0, 0, 0]),
    (B, 1.5, [0.51614384, 0.38245753, 0, 0.10139863]),
    (B, 2, [0.6, 0.4, 0, 0]),
    (B, 3, [0.7, 0.3, 0, 0]),
    ([0] * 7 + [-0.0102], 3, [0.14282871] * 7 + [0.00019904911]),
    ([0] * 7 + [-0.010205], 3, [1 / 7] * 7 + [0]),
]
"""Logits, α and weights: PyPI's entmax 1.3 in float64."""

PRODUCTS = {
    (0, 1.5): [0.33988764, -0.41761109, -0.04670014, 0.70456248, -0.58013887],
    (0, 2): [0.625, -0.875, 0, 1.625, -1.375],
    (0, 3): [1.5, -1.5, 0, 0, 0],
    (1, 1.5): [0.26441203, -0.70003930, 0, 0.43562727],
    (1, 2): [0.75, -0.75, 0, 0],
    (1, 3): [1.5, -1.5, 0, 0],
}
"""The gradients of ⟨p, DY⟩ for A (0) and B (1), by the same."""

ALPHAS = [1.25, 1.5, 2.0, 3.0]


def traced(z: Any, alpha: Any, alive: Any = None, floor: float = 1e-3) -> jax.Array:
    """`entmax` that learns α only when it runs."""
    return _traced(z, jnp.asarray(alpha, jnp.result_type(float)), alive, floor)


static = jax.jit(entmax, static_argnames=("alpha", "floor"))
_traced = jax.jit(entmax, static_argnames="floor")
_support = jax.jit(support, static_argnames="alpha")
_traced_support = jax.jit(support)
FORMS = pytest.mark.parametrize("form", [static, traced], ids=["static", "traced"])


@functools.partial(jax.jit, static_argnames=("alpha", "floor"))
def product(z: jax.Array, dy: jax.Array, alpha: float, floor: float = 1e-3) -> jax.Array:
    """The vector-Jacobian product with α known."""
    return jax.vjp(lambda z: entmax(z, alpha, None, floor), z)[1](dy)[0]


def exact(logits: Any, alpha: float, dy: Any = DY) -> tuple[np.ndarray, np.ndarray]:
    """Weights and vector-Jacobian product of one row by the textbook, to 50 digits: bisection for τ, ⟨g, dy⟩/Σg."""
    with localcontext(prec=50):
        a = Decimal(alpha) - 1
        y = [a * (Decimal(float(value)) - Decimal(float(max(logits)))) for value in logits]

        def weights(tau: Decimal) -> list[Decimal]:
            return [(value - tau) ** (1 / a) if value > tau else Decimal(0) for value in y]

        low, high = Decimal(-1), Decimal(0)
        for _ in range(160):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(weights(middle)) >= 1 else (low, middle)
        p = weights(low)
        g = [value ** (1 - a) if value > Decimal("1e-20") else Decimal(0) for value in p]
        d = [Decimal(float(value)) for value in dy[: len(p)]]
        mean = sum(gi * di for gi, di in zip(g, d, strict=True)) / sum(g)
        dz = [gi * (di - mean) for gi, di in zip(g, d, strict=True)]
        return np.array([float(value) for value in p]), np.array([float(value) for value in dz])


def rows(count: int, seed: int = 0, width: float = 0.6) -> np.ndarray:
    """Normal logits [count, 8] that float32 holds exactly."""
    return np.random.default_rng(seed).normal(scale=width, size=(count, 8)).astype(np.float32).astype(np.float64)


def far_from_edges(alpha: float, count: int = 6) -> np.ndarray:
    """Rows [count, 8] whose support does not change, and whose weights do not reach the floor, in a neighbourhood."""
    z = rows(400, seed=3, width=0.3)
    p, near = np.asarray(static(z, alpha)), [np.asarray(_support(z + h * DY, alpha)) for h in (-1e-3, 1e-3)]
    chosen = (near[0] == near[1]).all(1) & (np.where(p > 0, p, 1).min(1) > 0.01) & ((p > 0).sum(1) > 1)
    assert chosen.sum() >= count
    return z[chosen][:count]


@FORMS
@pytest.mark.usefixtures("x64")
def test_published_weights(form: Any) -> None:
    for logits, alpha, wanted in PUBLISHED:
        found = form(np.array(logits, float), alpha)
        np.testing.assert_allclose(found, wanted, atol=5.1e-9, err_msg=f"{logits} at {alpha}")
        np.testing.assert_array_equal(np.array(found) == 0, np.array(wanted) == 0)


@pytest.mark.usefixtures("x64")
def test_published_gradients() -> None:
    for (row, alpha), wanted in PRODUCTS.items():
        z = np.array((A, B)[row], float)
        found = product(z, DY[: len(z)], alpha)
        np.testing.assert_allclose(found, wanted, atol=5.1e-9 if alpha == 1.5 else 1e-12, err_msg=f"{z} at {alpha}")


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.usefixtures("x64")
def test_weights_and_gradients_to_ten_digits(alpha: float) -> None:
    z = np.concatenate([rows(5), rows(2, width=0.02), [[0] * 7 + [-0.0102]]])
    p, dz = static(z, alpha, floor=0), product(z, np.tile(DY, (len(z), 1)), alpha, floor=0)
    for row, found, gradient in zip(z, p, dz, strict=True):
        wanted, slope = exact(row, alpha)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        np.testing.assert_allclose(gradient, slope, atol=1e-10)
    np.testing.assert_allclose(traced(z, alpha), p, atol=1e-12)  # closed form = bisection; known α = given α
    np.testing.assert_array_equal(traced(z, alpha) == 0, p == 0)
    np.testing.assert_array_equal(support(z, jnp.asarray(alpha)), p > 0)


def test_weak_weights_keep_their_digits_in_float32() -> None:
    z = np.array([0] * 7 + [-0.0102], np.float32)
    wanted, slope = exact(z, 3.0)
    np.testing.assert_allclose(static(z, 3.0), wanted, atol=6e-8)  # (z − τ) in float32 errs by 5e-6
    found = np.asarray(product(z, DY.astype(np.float32), 3.0, floor=0))
    np.testing.assert_allclose(found, slope, rtol=5e-4)
    assert abs(found.astype(np.float64).sum()) < 1e-5


@pytest.mark.usefixtures("x64")
def test_towards_one_it_is_softmax() -> None:
    z = rows(4, width=3)
    wanted, slope = jax.vjp(lambda z: jax.nn.softmax(z, -1), jnp.asarray(z))
    dy = np.tile(DY, (4, 1))
    np.testing.assert_allclose(static(z, 1.0), wanted, atol=1e-15)
    np.testing.assert_allclose(product(z, dy, 1.0), slope(dy)[0], atol=1e-15)
    np.testing.assert_allclose(traced(z, 1.0), wanted, atol=1e-12)
    np.testing.assert_allclose(traced(z, 0.3), wanted, atol=1e-12)  # an array cannot be refused: it counts as 1
    np.testing.assert_allclose(static(z, 1 + 1e-6), wanted, atol=1e-4)
    np.testing.assert_allclose(product(z, dy, 1 + 1e-6), slope(dy)[0], atol=1e-4)


def test_towards_one_in_float32() -> None:
    z = np.concatenate([rows(4, width=3), rows(4, width=60)]).astype(np.float32)
    np.testing.assert_allclose(traced(z, 1.0), jax.nn.softmax(z, -1), atol=5e-6)
    assert (static(z, 1.0) > 0).all() and (traced(z, 1.0) > 0).all()  # softmax itself is 0 in some


def test_towards_infinity_it_is_argmax() -> None:
    z = rows(4).astype(np.float32)
    np.testing.assert_array_equal(static(z, 1e5), np.eye(8)[z.argmax(-1)])
    np.testing.assert_allclose(static(np.float32([2, 1, 2, 2]), 1e5), [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)
    assert np.isfinite(product(np.ones(8, np.float32), DY.astype(np.float32), 1e5)).all()


@pytest.mark.usefixtures("x64")
def test_two_survivors_are_linear_at_three() -> None:
    gap = np.linspace(-0.6, 0.6, 25)
    z = np.stack([gap, np.zeros(25), np.full(25, -2.0)], 1)
    first = np.clip(0.5 + gap, 0, 1)
    np.testing.assert_allclose(static(z, 3.0), np.stack([first, 1 - first, 0 * gap], 1), atol=1e-14)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_an_operation_leaves_at_the_gap_of_the_formula(alpha: float) -> None:
    for n in range(2, 9):
        gap = (n - 1) ** (1 - alpha) / (alpha - 1)
        z, there = np.zeros((2, 8), np.float32), np.tile(np.arange(8) < n, (2, 1))
        z[:, 0] = -gap * np.array([1 - 1e-5, 1 + 1e-5])
        found = _support(z, alpha, there)
        np.testing.assert_array_equal(found[:, 0], [True, False], err_msg=f"{n} operations")
        np.testing.assert_array_equal(found[:, 1:], there[:, 1:])


@given(
    logits=st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6),
    alive=st.sampled_from([1, 2, 4]).flatmap(lambda n: st.permutations([True] * n + [False] * (6 - n))),
    alpha=st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0]),
    order=st.permutations(range(6)),
    form=st.sampled_from([static, traced]),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_properties(logits: list[float], alive: list[bool], alpha: float, order: list[int], form: Any) -> None:
    z, a, order = np.float32(logits), np.array(alive), np.array(order)
    p = np.asarray(form(z, alpha, a))
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-6)
    inside = np.asarray((_support if form is static else _traced_support)(z, alpha, a))
    np.testing.assert_array_equal(p > 0, inside)
    assert p[np.where(a, z, -4).argmax()] == p.max()
    np.testing.assert_allclose(form(z[order], alpha, a[order]), p[order], atol=1e-6)
    np.testing.assert_allclose(form(z[a], alpha), p[a], atol=1e-6)  # the smaller problem
    np.testing.assert_array_equal(form(z, alpha, inside), p)  # what is at 0 can be removed, and nothing changes


@FORMS
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 3.0])
def test_a_shift_of_all_logits_changes_no_bit(alpha: float, form: Any) -> None:
    z = np.round(rows(16, width=0.2) * 1024).astype(np.float32) / 1024  # at 10⁴ float32 holds all multiples of 2⁻¹⁰
    np.testing.assert_array_equal(form(z + np.float32(1e4), alpha), form(z, alpha))
    whole = jnp.round(rows(16, width=3)).astype(jnp.bfloat16)  # at 128 bfloat16 holds all integers, at 9984 each 64th
    np.testing.assert_array_equal(form(whole + 128, alpha), form(whole, alpha))
    np.testing.assert_array_equal(form(64 * whole + 9984, alpha), form(64 * whole, alpha))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_float32_rounded(dtype: Any) -> None:
    z = jnp.asarray(rows(16, width=0.3), dtype)
    for form, alpha in ((static, 1.5), (traced, 3.0)):
        found = form(z, alpha)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, form(z.astype(jnp.float32), alpha).astype(dtype))
        slope = jax.grad(lambda z, form=form, alpha=alpha: (form(z, alpha).astype(jnp.float32) ** 2).sum())(z)
        assert slope.dtype == dtype and np.isfinite(slope.astype(np.float32)).all()


def derivatives(z: jax.Array, u: jax.Array, v: jax.Array, alpha: Any) -> dict[str, jax.Array]:
    """Weights, their change along v, the gradient of ⟨u, p⟩, and its change along v in two ways."""

    def slope(z: jax.Array) -> jax.Array:
        return jax.grad(lambda z: (u * entmax(z, alpha)).sum())(z)

    p, pushed = jax.jvp(lambda z: entmax(z, alpha), (z,), (v,))
    gradient, forward = jax.jvp(slope, (z,), (v,))
    backward = jax.grad(lambda z: (v * slope(z)).sum())(z)
    return {"p": p, "pushed": pushed, "gradient": gradient, "forward": forward, "backward": backward}


known_alpha, any_alpha = jax.jit(derivatives, static_argnames="alpha"), jax.jit(derivatives)


@pytest.mark.parametrize("alpha", [1.0, *ALPHAS])
@pytest.mark.usefixtures("x64")
def test_first_and_second_derivatives_are_the_differences(alpha: float) -> None:
    z, h = far_from_edges(alpha), 1e-5
    u, v = np.random.default_rng(1).normal(size=(2, *z.shape))
    found, above, below = (known_alpha(z + step * v, u, v, alpha) for step in (0, h, -h))
    change = {name: (above[name] - below[name]) / (2 * h) for name in ("p", "gradient")}
    size = max(1, np.abs(change["gradient"]).max())
    np.testing.assert_allclose(found["pushed"], change["p"], atol=1e-6)
    np.testing.assert_allclose((u * found["pushed"]).sum(-1), (v * found["gradient"]).sum(-1), atol=1e-12)
    np.testing.assert_allclose(found["forward"], change["gradient"], atol=1e-6 * size)
    np.testing.assert_allclose(found["backward"], found["forward"], atol=1e-12 * size)
    assert alpha == 2 or np.abs(found["forward"]).max() > 0.01
    for name, value in any_alpha(z, u, v, alpha).items():
        np.testing.assert_allclose(value, found[name], atol=1e-9 * size, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_rows_of_the_jacobian_sum_to_zero() -> None:
    z = rows(1)[0]
    for alpha in (1.5, 3.0):
        jacobian = np.asarray(jax.jacobian(lambda z, alpha=alpha: static(z, alpha))(z))
        np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-14)
        np.testing.assert_allclose(jacobian.sum(1), 0, atol=1e-14)


def test_the_spike_of_a_tie_at_the_edge_is_capped() -> None:
    # Two operations tied at q, far below the floor, beside a strong one: √(2 · gap + q²) = 1 − 2q.
    q = 1e-5
    z = np.float32([((1 - 2 * q) ** 2 - q**2) / 2, 0, 0])
    np.testing.assert_allclose(static(z, 3.0), [1 - 2 * q, q, q], rtol=0.02)
    dy = np.float32([0, 1, -1])
    np.testing.assert_allclose(product(z, dy, 3.0), [0, 1e3, -1e3], rtol=1e-3, atol=1e-3)  # g = 1 / floor
    np.testing.assert_allclose(product(z, dy, 3.0, floor=0), [0, 1e5, -1e5], rtol=0.02, atol=1)
    np.testing.assert_allclose(product(z, dy, 3.0, floor=0.1), [0, 10, -10], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(static(z, 3.0, floor=0.1), static(z, 3.0))
    # Up to α = 2 there is no pole, and small weights have their true slopes: softmax's p_i (dy_i − ⟨p, dy⟩).
    weak = product(np.float32([10, 0, 0]), dy, 1.0)
    np.testing.assert_allclose(weak[1:], [np.exp(-10), -np.exp(-10)], rtol=1e-3)


@FORMS
@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_the_dead_have_no_weight_no_gradient_and_no_influence(form: Any, alpha: float) -> None:
    z, alive = rows(4).astype(np.float32), np.random.default_rng(5).random((4, 8)) < 0.6
    alive[0] = False
    weights, slope = jax.vjp(lambda z: form(z, alpha, alive), z)
    gradient = np.asarray(slope(np.float32(np.tile(DY, (4, 1))))[0])
    assert not np.asarray(weights)[~alive].any() and not gradient[~alive].any()
    np.testing.assert_allclose(weights.sum(-1), alive.any(-1), atol=1e-6)  # nobody alive: zeros
    assert np.abs(gradient).max() > 0.01 and np.isfinite(gradient).all()
    second = jax.grad(lambda z: (jax.grad(lambda z: (form(z, alpha, alive) ** 3).sum())(z) ** 2).sum())(z)
    assert not np.asarray(second)[~alive].any() and np.isfinite(second).all()
    for other in (np.nan, np.inf, -np.inf, 1e38):
        found, slope = jax.vjp(lambda z: form(z, alpha, alive), np.where(alive, z, np.float32(other)))
        np.testing.assert_array_equal(found, weights)
        np.testing.assert_array_equal(slope(np.float32(np.tile(DY, (4, 1))))[0], gradient)
    np.testing.assert_array_equal(form(np.where(alive, z, -np.float32(np.inf)), alpha), weights)


@FORMS
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_what_is_not_a_number_is_seen(form: Any, alpha: float) -> None:
    z = rows(3).astype(np.float32)
    z[1, 2] = np.nan
    weights, slope = jax.vjp(lambda z: form(z, alpha), z)
    np.testing.assert_array_equal(np.isnan(weights).all(1), [False, True, False])
    gradient = slope(np.float32(np.tile(DY, (3, 1))))[0]
    np.testing.assert_array_equal(np.isnan(gradient).all(1), [False, True, False])
    assert np.isfinite(np.stack([weights, gradient])[:, [0, 2]]).all()


def test_eager_is_jit_is_vmap() -> None:
    z, alive = rows(6).astype(np.float32).reshape(2, 3, 8), np.random.default_rng(2).random((2, 3, 8)) < 0.8
    for alpha in (1.5, 3.0):
        eager = entmax(z, alpha, alive)
        np.testing.assert_allclose(static(z, alpha, alive), eager, atol=2e-7)
        mapped = jax.vmap(jax.vmap(lambda z, alive, alpha=alpha: entmax(z, alpha, alive)))(z, alive)
        np.testing.assert_allclose(mapped, eager, atol=2e-7)
        np.testing.assert_array_equal(jax.vmap(lambda z, a, alpha=alpha: support(z, alpha, a))(z, alive), eager > 0)
    assert entmax(z.astype(np.float64).tolist(), 1.5).dtype == jnp.float32
    many = jax.vmap(lambda alpha: entmax(z, alpha))(jnp.float32([1.5, 3]))
    np.testing.assert_allclose(many, jnp.stack([entmax(z, 1.5), entmax(z, 3.0)]), atol=1e-6)


def test_one_trace_for_all_alphas_and_masks() -> None:
    traces = []

    @jax.jit
    def step(z: jax.Array, alpha: jax.Array, alive: jax.Array) -> Any:
        traces.append(alpha)
        return jax.grad(lambda z: (entmax(z, alpha, alive) ** 2).sum())(z), support(z, alpha, alive)

    z, alive = rows(2).astype(np.float32), np.ones((2, 8), bool)
    counts = []
    for alpha in np.linspace(1.5, 3, 4, dtype=np.float32):
        _, inside = step(z, alpha, alive)
        counts.append(int(inside.sum()))
        alive = alive & np.asarray(inside)
    assert len(traces) == 1
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]


def test_alpha_has_no_gradient() -> None:
    z = rows(1)[0].astype(np.float32)

    def loss(z: jax.Array, alpha: jax.Array) -> jax.Array:
        return (entmax(z, alpha) * DY.astype(np.float32)).sum()

    def both(alpha: jax.Array) -> jax.Array:
        return loss(z, alpha) + (jax.grad(loss)(z, alpha) ** 2).sum()

    assert jax.jit(jax.grad(both))(2.5) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros(3, int), 1.5), "z = int"),
        ((np.float32(1), 1.5), r"z = float32\[\]; allowed: floats \[..., d\]"),
        ((np.zeros(3, np.float32), 0.5), "alpha = 0.5; allowed: a finite number of at least 1"),
        ((np.zeros(3, np.float32), np.inf), "alpha = inf; allowed"),
        ((np.zeros(3, np.float32), np.nan), "alpha = nan; allowed"),
        ((np.zeros(3, np.float32), np.ones(3)), r"alpha = \[3\]; allowed: one number"),
        ((np.zeros(3, np.float32), 1.5, np.ones(3)), r"alive = float\d+\[3\]; allowed: bool\[3\], as z"),
        ((np.zeros((2, 3), np.float32), 1.5, np.ones(3, bool)), r"alive = bool\[3\]; allowed: bool\[2, 3\], as z"),
    ],
)
def test_wrong_arguments(arguments: tuple, said: str) -> None:
    for function in (entmax, support):
        with pytest.raises(UserError, match=said):
            function(*arguments)


@pytest.mark.parametrize("floor", [-1e-3, 1.5, np.nan])
def test_wrong_floors(floor: float) -> None:
    with pytest.raises(UserError, match=r"floor = .*; allowed: 0 to 1"):
        entmax(np.zeros(3, np.float32), 3.0, floor=floor)
