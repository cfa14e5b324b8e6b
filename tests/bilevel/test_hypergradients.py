"""Every estimator against closed forms in NumPy, in float64, on quadratic problems.

f(u, v) = ½ vᵀHv − vᵀ(Bu + c)                    so v*(u) = H⁻¹(Bu + c)
F(u, v) = ½ (v − d)ᵀQ(v − d) + uᵀPv + ½|u|²      so dF/du = Pv* + u + BᵀH⁻¹(Q(v* − d) + Pᵀu)
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, sparsity
from dass_jax.bilevel import Level, Point, Sample

KEY = jax.random.key(0)
SIZES = [(2, 3), (5, 8), (9, 40)]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def in_float64(x64: None) -> Iterator[None]:
    yield


def split(flat: Any, first: str, second: str) -> dict[str, Any]:
    """A vector as two leaves, the second a matrix of one row: estimators must take any tree."""
    return {first: flat[:1], second: flat[1:][None]}


def join(tree: dict[str, Any]) -> Any:
    return jnp.concatenate([leaf.ravel() for _, leaf in sorted(tree.items())])


class Quadratic(NamedTuple):
    """The matrices, and the point (u, v) at which hypergradients are taken."""

    H: np.ndarray
    B: np.ndarray
    c: np.ndarray
    Q: np.ndarray
    d: np.ndarray
    P: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def upper_slope(self, v: np.ndarray) -> np.ndarray:
        """∂F/∂v at (u, v)."""
        return self.Q @ (v - self.d) + self.P.T @ self.u

    def direct(self, v: np.ndarray) -> np.ndarray:
        """∂F/∂u at (u, v)."""
        return self.P @ v + self.u

    def implicit(self, v: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        return self.direct(v) + self.B.T @ inverse @ self.upper_slope(v)


def quadratic(size: tuple[int, int], seed: int = 0) -> Quadratic:
    """Eigenvalues of H from 0.2 to 3."""
    rng, (p, n) = np.random.default_rng(seed), size
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    hessian = basis @ np.diag(np.linspace(0.2, 3, n)) @ basis.T
    normal = rng.normal
    return Quadratic(
        hessian,
        normal(size=(n, p)),
        normal(size=n),
        np.diag(normal(size=n) ** 2),
        normal(size=n),
        normal(size=(p, n)),
        normal(size=p),
        normal(size=n),
    )


def losses(q: Quadratic, curve: float = 0.0) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(F, f) as level losses; `curve` adds (Σu)·Σ sin(v) to f, a term with derivatives of every order."""

    def upper(x: Any, batch: Any, key: jax.Array) -> Any:
        u, v = join(x["u"]), join(x["v"])
        return 0.5 * (v - q.d) @ q.Q @ (v - q.d) + u @ q.P @ v + 0.5 * u @ u, ({}, {})

    def lower(x: Any, batch: Any, key: jax.Array) -> Any:
        u, v = join(x["u"]), join(x["v"])
        return 0.5 * v @ q.H @ v - v @ (q.B @ u + q.c) + curve * u.sum() * jnp.sin(v).sum(), ({}, {})

    return upper, lower


def estimates(
    q: Quadratic,
    hypergradients: Sequence[bilevel.Hypergradient],
    transform: optax.GradientTransformation | None = None,
    curve: float = 0.0,
    v: np.ndarray | None = None,
    optimizer: Any = None,
) -> list[np.ndarray]:
    """Those of several estimators at (u, v), flat, by one program."""
    upper, lower = losses(q, curve)
    at = q.v if v is None else v
    variables = {"u": split(jnp.asarray(q.u), "a", "b"), "v": split(jnp.asarray(at), "c", "d")}
    levels = Level("u", upper, optax.sgd(1.0)), Level("v", lower, transform or optax.sgd(0.1))
    state = levels[1].transform.init(variables["v"]) if optimizer is None else optimizer
    point = Point(variables, state, Sample(None, KEY), Sample(None, KEY), {})
    found = jax.jit(lambda p: [estimator(*levels, p, lambda tree: tree) for estimator in hypergradients])(point)
    assert all(np.isfinite(loss) for _, (loss, _) in found)
    return [np.concatenate([np.ravel(leaf) for _, leaf in sorted(tree.items())]) for tree, _ in found]


def estimate(q: Quadratic, hypergradient: bilevel.Hypergradient, *arguments: Any, **options: Any) -> np.ndarray:
    """That of one."""
    return estimates(q, [hypergradient], *arguments, **options)[0]


@pytest.mark.parametrize("size", SIZES)
def test_first_order_is_the_direct_term(size: tuple[int, int]) -> None:
    q = quadratic(size)
    np.testing.assert_allclose(estimate(q, bilevel.first_order()), q.direct(q.v), **TIGHT)


@pytest.mark.parametrize("size", SIZES)
def test_unrolled_is_the_closed_form_of_gradient_steps(size: tuple[int, int]) -> None:
    q, lr, cases = quadratic(size), 0.3, list(itertools.product((1, 2, 7, 30), (False, True)))
    contraction, answer = np.eye(size[1]) - lr * q.H, lr * (q.B @ q.u + q.c)
    powers = [np.linalg.matrix_power(contraction, j) for j in range(31)]
    every = estimates(q, [bilevel.unrolled(steps, remat) for steps, remat in cases], optax.sgd(lr))
    for found, (steps, remat) in zip(every, cases, strict=True):
        v = powers[steps] @ q.v + sum(powers[j] @ answer for j in range(steps))
        jacobian = sum(powers[j] @ (lr * q.B) for j in range(steps))
        wanted = q.direct(v) + jacobian.T @ q.upper_slope(v)
        np.testing.assert_allclose(found, wanted, **TIGHT, err_msg=f"{steps} steps, remat = {remat}")


@pytest.mark.parametrize("size", SIZES)
def test_unrolled_differentiates_momentum_and_weight_decay(size: tuple[int, int]) -> None:
    q, lr, decay, momentum = quadratic(size), 0.2, 0.05, 0.9
    trace = np.random.default_rng(1).normal(size=size[1])  # the momentum that earlier steps have left
    transform = optax.chain(optax.add_decayed_weights(decay), optax.trace(momentum), optax.scale(-lr))
    optimizer = (optax.EmptyState(), optax.TraceState(split(jnp.asarray(trace), "c", "d")), optax.ScaleState())
    found = estimates(q, [bilevel.unrolled(1), bilevel.unrolled(5)], transform, optimizer=optimizer)
    v, m, dv, dm, wanted = q.v, trace, np.zeros_like(q.B), np.zeros_like(q.B), []
    for _ in range(5):
        m, dm = momentum * m + q.H @ v - q.B @ q.u - q.c + decay * v, momentum * dm + (q.H @ dv - q.B + decay * dv)
        v, dv = v - lr * m, dv - lr * dm
        wanted.append(q.direct(v) + dv.T @ q.upper_slope(v))
    np.testing.assert_allclose(found, [wanted[0], wanted[4]], **TIGHT)


@pytest.mark.parametrize(
    "transform",
    [optax.adam(0.05), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)), optax.rmsprop(0.02)],
    ids=["adam", "clipped", "rmsprop"],
)
def test_unrolled_through_any_transform_is_what_numerical_differences_see(transform: Any) -> None:
    q = quadratic((3, 6))
    upper, lower = losses(q, curve=0.5)
    level = Level("v", lower, transform)
    v = split(jnp.asarray(q.v), "c", "d")

    @jax.jit
    def ahead(u: Any) -> Any:
        x = {"u": split(u, "a", "b"), "v": v}
        optimizer = transform.init(v)
        for _ in range(3):
            step, optimizer = transform.update(
                jax.grad(lambda w, x=x: lower({**x, "v": w}, None, KEY)[0])(x["v"]), optimizer, x["v"]
            )
            x["v"] = optax.apply_updates(x["v"], step)
        return upper(x, None, KEY)[0]

    h = 1e-6
    numerical = [(ahead(q.u + h * e) - ahead(q.u - h * e)) / (2 * h) for e in np.eye(3)]
    found = estimate(q, bilevel.unrolled(3), level.transform, curve=0.5)
    np.testing.assert_allclose(found, numerical, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_implicit_gradient_at_the_solution_is_the_total_derivative(size: tuple[int, int]) -> None:
    """dF/du (u, v*(u)) = Pv* + u + J ᵀ∂F/∂v with J = H⁻¹B, found here through v*(u) itself."""
    q = quadratic(size)

    def total(u: Any) -> Any:
        v = jnp.linalg.solve(q.H, q.B @ u + q.c)
        return losses(q)[0]({"u": {"a": u}, "v": {"c": v}}, None, KEY)[0]

    solution = np.linalg.solve(q.H, q.B @ q.u + q.c)
    found = estimate(q, bilevel.conjugate_gradient(2 * size[1]), v=solution)
    np.testing.assert_allclose(found, jax.jit(jax.grad(total))(q.u), rtol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_neumann_errs_by_exactly_the_rest_of_the_series(size: tuple[int, int]) -> None:
    """H⁻¹ − lr Σ_{k<K} (1 − lr·H)^k = (1 − lr·H)^K H⁻¹: the rate max|1 − lr·λ| of theory, and the direction too."""
    q, lr, cases = quadratic(size), 0.3, list(itertools.product((1, 2, 10, 200), (0.0, 0.3)))
    every = estimates(q, [bilevel.neumann(terms, lr, damping) for terms, damping in cases])
    for found, (terms, damping) in zip(every, cases, strict=True):
        hessian = q.H + damping * np.eye(size[1])
        inverse = np.linalg.inv(hessian)
        rest = np.linalg.matrix_power(np.eye(size[1]) - lr * hessian, terms) @ inverse
        case = f"{terms} terms, damping {damping}"
        np.testing.assert_allclose(found, q.implicit(q.v, inverse - rest), rtol=1e-9, err_msg=case)
        # The rate is seen, not only implied: the error never exceeds what the largest |1 − lr·λ| allows.
        rate = np.abs(1 - lr * np.linalg.eigvalsh(hessian)).max()
        bound = rate**terms * np.linalg.norm(q.B, 2) * np.linalg.norm(inverse, 2) * np.linalg.norm(q.upper_slope(q.v))
        assert np.linalg.norm(found - q.implicit(q.v, inverse)) <= bound * (1 + 1e-9) + 1e-11, case


def test_neumann_at_the_solution_is_unrolling_as_many_steps() -> None:
    q = quadratic((5, 8))
    solution = np.linalg.solve(q.H, q.B @ q.u + q.c)
    pairs = [(bilevel.unrolled(terms), bilevel.neumann(terms, lr=0.3)) for terms in (1, 4)]
    found = estimates(q, list(itertools.chain(*pairs)), optax.sgd(0.3), v=solution)
    np.testing.assert_allclose(found[::2], found[1::2], rtol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_conjugate_gradient_converges_at_the_rate_of_the_condition_number(size: tuple[int, int]) -> None:
    q = quadratic(size)
    values, vectors = np.linalg.eigh(q.H)
    inverse, inverse_root = np.linalg.inv(q.H), vectors @ np.diag(values**-0.5) @ vectors.T
    slope, root = q.upper_slope(q.v), np.sqrt(values[-1] / values[0])
    exact, numbers = q.implicit(q.v, inverse), [i for i in (1, 2, 3, 8, 20) if i <= size[1]]
    found = estimates(q, [bilevel.conjugate_gradient(iterations) for iterations in numbers])
    errors = [np.linalg.norm(one - exact) for one in found]
    for iterations, error in zip(numbers, errors, strict=True):
        energy = np.sqrt(slope @ inverse @ slope)  # of the whole error, in the norm in which theory bounds it
        bound = 2 * ((root - 1) / (root + 1)) ** iterations * energy * np.linalg.norm(q.B.T @ inverse_root, 2)
        assert error <= bound + 1e-10, iterations
    assert errors[0] > 1e-2 and errors[-1] < 1e-2 * errors[0]


@pytest.mark.parametrize("size", SIZES)
def test_conjugate_gradient_solves_the_damped_system_and_stays_finite_beyond(size: tuple[int, int]) -> None:
    q, dampings = quadratic(size), (0.0, 0.7)
    every = estimates(q, [bilevel.conjugate_gradient(1000, damping) for damping in dampings])
    for found, damping in zip(every, dampings, strict=True):
        inverse = np.linalg.inv(q.H + damping * np.eye(size[1]))
        np.testing.assert_allclose(found, q.implicit(q.v, inverse), rtol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_amended_puts_the_hessian_for_its_inverse(size: tuple[int, int]) -> None:
    q = quadratic(size)
    found, damped = estimates(q, [bilevel.amended(0.2), bilevel.amended(0.2, 0.5)])
    np.testing.assert_allclose(found, q.implicit(q.v, 0.2 * q.H), **TIGHT)
    np.testing.assert_allclose(damped, q.implicit(q.v, 0.2 * (q.H + 0.5 * np.eye(size[1]))), **TIGHT)


@pytest.mark.parametrize(
    "transform",
    # Adam's first step hardly depends on the gradient's size; with a large eps it does.
    [optax.sgd(0.1), optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.2, 0.9)), optax.adam(0.05, eps=1.0)],
    ids=["sgd", "momentum and decay", "adam"],
)
def test_finite_difference_errs_with_the_square_of_its_radius_until_rounding(transform: Any) -> None:
    q, radii = quadratic((3, 6)), (1e-1, 1e-2, 1e-3, 1e-5, 1e-12)
    exact, *found = estimates(q, [bilevel.unrolled(1), *map(bilevel.finite_difference, radii)], transform, curve=1.0)
    errors = {radius: float(np.linalg.norm(one - exact)) for radius, one in zip(radii, found, strict=True)}
    for radius in (1e-1, 1e-2):
        assert errors[radius] / errors[radius / 10] == pytest.approx(100, rel=0.05)
    assert errors[1e-12] > 100 * errors[1e-5]  # rounding has taken over


def test_finite_difference_of_a_quadratic_is_exact_and_is_darts_equation_8() -> None:
    """With SGD: w± = w ± (0.01/|∇F|)·∇F at the look-ahead, ξ = lr."""
    q, lr = quadratic((5, 8)), 0.15
    ahead = q.v - lr * (q.H @ q.v - q.B @ q.u - q.c)
    slope = q.upper_slope(ahead)
    epsilon = 0.01 / np.linalg.norm(slope)
    plus, minus = (-q.B.T @ (q.v + sign * epsilon * slope) for sign in (1, -1))  # ∇_u f
    darts = q.direct(ahead) - lr * (plus - minus) / (2 * epsilon)
    found, unrolled = estimates(q, [bilevel.finite_difference(), bilevel.unrolled(1)], optax.sgd(lr))
    np.testing.assert_allclose(found, darts, rtol=1e-8)
    np.testing.assert_allclose(found, unrolled, rtol=1e-8)


def test_finite_difference_without_a_slope_is_the_direct_term() -> None:
    q = quadratic((2, 3))
    q = q._replace(Q=np.zeros((3, 3)), P=np.zeros((2, 3)))
    np.testing.assert_array_equal(estimate(q, bilevel.finite_difference()), q.u)


class Masked(NamedTuple):
    """The quadratic in w = θ⊙m(s), with s as the lower variable."""

    q: Quadratic
    theta: np.ndarray
    scores: np.ndarray
    keep: float = 0.5

    def mask(self, s: np.ndarray) -> np.ndarray:
        kept = sparsity.kept_in_layer(s.size, self.keep)
        return (np.argsort(np.argsort(-np.abs(s))) < kept).astype(float)

    def weights(self, x: Any) -> Any:
        return sparsity.sparsify(x["params"], x["scores"], {"w": 0}, self.keep)["w"]


def masked(n: int = 8) -> Masked:
    rng = np.random.default_rng(3)
    return Masked(quadratic((4, n)), rng.normal(size=n), rng.normal(size=n))


def estimate_masked(m: Masked, hypergradient: bilevel.Hypergradient, lr: float) -> np.ndarray:
    upper, lower = losses(m.q)

    def seen(loss: Any) -> Any:
        return lambda x, batch, key: loss({"u": x["u"], "v": {"w": m.weights(x)}}, batch, key)

    variables = {"u": {"a": jnp.asarray(m.q.u)}, "params": {"w": jnp.asarray(m.theta)}}
    variables["scores"] = {"w": jnp.asarray(m.scores)}
    levels = Level("u", seen(upper), optax.sgd(1.0)), Level("scores", seen(lower), optax.sgd(lr))
    point = Point(variables, levels[1].transform.init(variables["scores"]), Sample(None, KEY), Sample(None, KEY), {})
    return np.asarray(jax.jit(lambda p: hypergradient(*levels, p, lambda tree: tree)[0]["a"])(point))


@pytest.mark.parametrize("steps", [1, 6])
def test_unrolled_scores_follow_the_straight_through_rule_while_masks_jump(steps: int) -> None:
    m, q, lr = masked(), masked().q, 0.4
    s, ds, flips = m.scores, np.zeros_like(q.B), 0
    for _ in range(steps):
        rule = np.diag(np.sign(s) * m.theta)  # dw/ds
        slope, change = q.H @ (m.theta * m.mask(s)) - q.B @ q.u - q.c, q.H @ rule @ ds - q.B
        before, s, ds = m.mask(s), s - lr * rule @ slope, ds - lr * rule @ change
        flips += int((m.mask(s) != before).sum())
    assert flips or steps == 1
    w = m.theta * m.mask(s)
    wanted = q.direct(w) + (np.diag(np.sign(s) * m.theta) @ ds).T @ q.upper_slope(w)
    np.testing.assert_allclose(estimate_masked(m, bilevel.unrolled(steps), lr), wanted, **TIGHT)


def test_implicit_estimators_of_scores_use_the_straight_through_hessian() -> None:
    m, q = masked(), masked().q
    w, rule = m.theta * m.mask(m.scores), np.diag(np.sign(m.scores) * m.theta)
    hessian = rule @ q.H @ rule + 0.1 * np.eye(len(w))

    def wanted(inverse: np.ndarray) -> np.ndarray:
        return q.direct(w) + (rule @ q.B).T @ inverse @ rule @ q.upper_slope(w)

    series = 0.05 * (np.eye(len(w)) + (np.eye(len(w)) - 0.05 * hessian))
    for found, inverse in (
        (bilevel.conjugate_gradient(50, 0.1), np.linalg.inv(hessian)),
        (bilevel.neumann(2, 0.05, 0.1), series),
        (bilevel.amended(0.3, 0.1), 0.3 * hessian),
    ):
        np.testing.assert_allclose(estimate_masked(m, found, 0.1), wanted(inverse), rtol=1e-8)


def test_finite_difference_of_scores_sees_no_change_while_no_mask_flips() -> None:
    m, q, lr = masked(), masked().q, 0.4
    slope = q.H @ (m.theta * m.mask(m.scores)) - q.B @ q.u - q.c
    ahead = m.scores - lr * np.sign(m.scores) * m.theta * slope
    wanted = q.direct(m.theta * m.mask(ahead))  # the direct term at the look-ahead, and nothing else
    np.testing.assert_allclose(estimate_masked(m, bilevel.finite_difference(1e-6), lr), wanted, **TIGHT)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bilevel.unrolled(0), "steps = 0; allowed: at least 1"),
        (lambda: bilevel.finite_difference(0.0), "radius = 0.0; allowed: greater than 0"),
        (lambda: bilevel.finite_difference(float("nan")), "radius = nan; allowed: greater than 0"),
        (lambda: bilevel.neumann(0, 0.1), "terms = 0; allowed: at least 1"),
        (lambda: bilevel.neumann(1, -0.1), "lr = -0.1; allowed: greater than 0"),
        (lambda: bilevel.conjugate_gradient(0), "iterations = 0; allowed: at least 1"),
        (lambda: bilevel.conjugate_gradient(1, -1.0), "damping = -1.0; allowed: at least 0"),
        (lambda: bilevel.amended(0.0), "eta = 0.0; allowed: greater than 0"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{said}$"):
        make()
