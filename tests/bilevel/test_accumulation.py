"""A batch in parts: the gradient of the whole where the loss is a mean, a loop over the parts where it is not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel
from dass_jax.bilevel import Level, Loss, Point, Sample, accumulated
from dass_jax.bilevel.levels import gradients, same

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def smooth_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    """A mean over the examples (last axis) that is neither linear nor quadratic in u or v."""
    x, labels = batch
    logits = jnp.tanh(v["v"]["first"] @ (x * jnp.exp(v["u"])[:, None])) * v["v"]["second"][:, None]
    error = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels).mean()
    return error, ({"largest": logits.max(0).mean()}, {"seen": 0.5 * v["seen"] + x.mean(-1)})


def begin() -> Any:
    rng = np.random.default_rng(0)
    found = {
        "u": rng.normal(size=3),
        "v": {"first": rng.normal(size=(4, 3)), "second": rng.normal(size=4)},
        "seen": np.zeros(3),
    }
    return jax.tree.map(jnp.asarray, found)


def batch(seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 12)), rng.integers(0, 4, 12)


def close(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


@pytest.mark.parametrize("collections", [("u",), ("v",), ("u", "v")])
def test_value_gradient_and_metrics_are_those_of_the_whole_batch(collections: tuple[str, ...]) -> None:
    @jax.jit
    def found(v: Any, sample: Sample) -> Any:
        """(gradient, value, metrics) of the whole and in parts, and the undifferentiated value of the parts."""
        losses = [accumulated(smooth_loss, parts) for parts in (1, 2, 3, 12)]
        every = [gradients(loss, v, collections, sample) for loss in losses]
        values = [loss(v, *sample)[0] for loss in losses]
        return [(slope, value, metrics) for slope, (value, (metrics, _)) in every], values

    (whole, *parts), values = found(begin(), Sample(batch(), KEY))
    for part in parts:
        close(part, whole)
    close(values, [whole[1]] * 4)


@pytest.mark.parametrize("outer", [jax.jacrev, jax.jacfwd], ids=["reverse", "forward"])
def test_second_and_mixed_derivatives_are_those_of_the_whole_batch(outer: Any) -> None:
    def slopes(loss: Loss) -> Any:
        def of(uv: Any) -> Any:
            return gradients(loss, {**begin(), **uv}, ("u", "v"), Sample(batch(), KEY))[0]

        return jax.jit(outer(of))({name: begin()[name] for name in ("u", "v")})

    close(slopes(accumulated(smooth_loss, 3)), slopes(smooth_loss))


ESTIMATORS = {
    "first_order": {},
    "unrolled": {"steps": 2},
    "finite_difference": {},
    "neumann": {"terms": 3, "lr": 0.1},
    "conjugate_gradient": {"iterations": 2, "damping": 0.5},
    "amended": {"eta": 0.1},
}


@pytest.mark.parametrize("name", bilevel.ESTIMATORS)
def test_every_estimator_takes_it(name: str) -> None:
    estimator = bilevel.ESTIMATORS[name](**ESTIMATORS[name])

    def estimate(loss: Loss, point: Point) -> Any:
        return estimator(Level("u", loss, optax.sgd(1.0)), Level("v", loss, optax.sgd(0.1, 0.9)), point, same)[0]

    v = begin()
    point = Point(v, optax.sgd(0.1, 0.9).init(v["v"]), Sample(batch(1), KEY), Sample(batch(2), KEY), {})
    found, wanted = jax.jit(lambda p: [estimate(loss, p) for loss in (accumulated(smooth_loss, 4), smooth_loss)])(point)
    # A finite difference divides the rounding of its two gradients by its radius.
    close(found, wanted, 1e-11)


def uneven_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    """No mean over the examples; depends on the key and on what the part before handed back."""
    x, _ = batch
    value = (v["v"]["second"] ** 2).sum() * (1 + jax.random.uniform(key)) * x.var() + v["seen"].sum() * v["u"][0]
    return value, ({"variance": x.var()}, {"seen": v["seen"] + x.mean(-1)})


def by_hand(loss: Loss, v: Any, batch: Any, parts: int) -> Any:
    """The parts in a Python loop: (mean gradients by u and v, mean loss, mean metrics, updates)."""
    seen, found = {"seen": v["seen"]}, []
    for number, key in enumerate(jax.random.split(KEY, parts)):
        part = jax.tree.map(lambda x, n=number: x[..., n::parts], batch)
        slope, (value, (metrics, seen)) = gradients(loss, {**v, **seen}, ("u", "v"), Sample(part, key))
        found.append((slope, value, metrics))
    return *jax.tree.map(lambda *x: jnp.stack(x).mean(0), *found), seen


@pytest.mark.parametrize("loss", [smooth_loss, uneven_loss])
def test_it_is_a_loop_over_every_kth_example_with_keys_and_updates_of_their_own(loss: Loss) -> None:
    @jax.jit
    def found(v: Any, batch: Any) -> Any:
        slope, (value, (metrics, seen)) = gradients(accumulated(loss, 4), v, ("u", "v"), Sample(batch, KEY))
        return (slope, value, metrics, seen), accumulated(loss, 4)(v, batch, KEY)

    differentiated, undifferentiated = found(begin(), batch())
    _, value, metrics, seen = differentiated
    close(differentiated, jax.jit(lambda v, batch: by_hand(loss, v, batch, 4))(begin(), batch()))
    close(undifferentiated, (value, (metrics, seen)))


def test_another_axis_of_the_examples_can_be_named() -> None:
    def rows_loss(v: Any, batch: Any, key: jax.Array) -> Any:
        return smooth_loss(v, (batch[0].T, batch[1]), key)

    x, labels = batch()
    rows = accumulated(rows_loss, 4, axis=0)(begin(), (x.T, labels), KEY)
    close(rows, accumulated(smooth_loss, 4)(begin(), (x, labels), KEY))


def test_one_part_is_the_loss_itself() -> None:
    assert accumulated(smooth_loss, 1) is smooth_loss


def products(function: Callable[..., Any], *arguments: Any) -> int:
    """How many matrix products a function's program has."""
    return str(jax.make_jaxpr(function)(*arguments)).count(" dot_general[")


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    def count(loss: Loss, collections: tuple[str, ...]) -> int:
        return products(lambda v: gradients(loss, v, collections, Sample(batch(), KEY))[0], begin())

    # By v: forward and ∂/∂first. By u: forward and ∂/∂x. The forward product is in the program once.
    assert [count(smooth_loss, which) for which in (("v",), ("u",), ("u", "v"))] == [2, 2, 3]
    assert [count(accumulated(smooth_loss, 4), which) for which in (("v",), ("u",), ("u", "v"))] == [2, 2, 3]


def test_the_cotangent_scales_the_gradient() -> None:
    loss = accumulated(smooth_loss, 4)

    def value(v: Any) -> Any:
        return loss({**begin(), "v": v}, batch(), KEY)[0]

    close(
        jax.grad(lambda v: -3 * value(v))(begin()["v"]), jax.tree.map(lambda g: -3 * g, jax.grad(value)(begin()["v"]))
    )


def test_metrics_and_updates_are_constants() -> None:
    def handed_back(v: Any) -> Any:
        _, (metrics, updates) = accumulated(smooth_loss, 4)({**begin(), "v": v}, batch(), KEY)
        return metrics["largest"] + updates["seen"].sum()

    close(jax.grad(handed_back)(begin()["v"]), jax.tree.map(jnp.zeros_like, begin()["v"]))


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match="parts = 0; allowed: at least 1"):
        accumulated(smooth_loss, 0)
    with pytest.raises(ValueError, match="parts = 5 of a batch of 12; allowed: a divisor"):
        accumulated(smooth_loss, 5)(begin(), batch(), KEY)
    x, labels = batch()
    with pytest.raises(ValueError, match="by its batch; allowed: by the variables"):
        jax.grad(lambda x: accumulated(smooth_loss, 4)(begin(), (x, labels), KEY)[0])(jnp.asarray(x))
