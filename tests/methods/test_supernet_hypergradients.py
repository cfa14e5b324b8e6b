"""Hypergradients through the real supernet on real digits, in float64: BN, pools, straight-through masks and all."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, relaxation, variables
from dass_jax.bilevel import Level, Point, Sample
from dass_jax.data import digits
from dass_jax.methods import dass, relaxed
from dass_jax.nn import layers
from dass_jax.runtime import parallel
from dass_jax.spaces import nasbench201
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.spaces.space import Space
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import ALPHA, PARAMS, SCORES
from tests import supernets

pytestmark = pytest.mark.usefixtures("x64")

SIZES = SupernetConfig(classes=10, cells=1, channels=2, nodes=1)
KEY = jax.random.key(0)


class Problem(NamedTuple):
    """Step 1 or Step 2, at a point where the optimizer has momentum."""

    upper: Level
    lower: Level
    point: Point
    known: dict[str, np.ndarray]
    """The gradients found so far: each is compiled once."""

    def gradient(self, estimator: str, **arguments: Any) -> np.ndarray:
        """α's gradient by an estimator, flat."""
        name = f"{estimator} {arguments}"
        if name not in self.known:
            found = bilevel.ESTIMATORS[estimator](**arguments)
            self.known[name] = flat(
                jax.jit(lambda p: found(self.upper, self.lower, p, bilevel.levels.same)[0])(self.point)
            )
        return self.known[name]


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def levels(collection: str, average: Callable[[Any], Any] = bilevel.levels.same) -> tuple[Level, Level, Any]:
    """(upper, lower, variables) of DARTS' supernet."""
    return levels_of(darts(SIZES, average=average, live=supernets.EACH_KIND), collection)


def levels_of(space: Space, collection: str) -> tuple[Level, Level, Any]:
    """(upper, lower, variables)."""
    shapes = {name: choice.shape for name, choice in space.choices.items()}
    fresh = jax.jit(lambda key: space.init(key, (8, 8, 1)))(jax.random.key(1))
    v = {**fresh, ALPHA: relaxation.init(jax.random.key(2), shapes)}
    v = jax.tree.map(np.float64, v)
    stacks = variables.prunable(v[PARAMS], space.rules)
    v = dass.with_scores(v, stacks)
    weights = {PARAMS: relaxed.dense_weights, SCORES: dass.sparse_weights(stacks, 0.5)}[collection]
    loss = relaxed.supernet_loss(space.apply, classification(SIZES.classes), relaxed.softmax_choice, weights)
    transform = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(3e-4), optax.sgd(0.05, 0.9))
    return Level(ALPHA, loss, optax.sgd(1.0)), Level(collection, loss, transform), v


def samples() -> list[Sample]:
    """Eight digits for each level."""
    train = digits.opened()[0]
    images = np.moveaxis(train.images[:16].astype(np.float64) / 16 - 0.5, [0, 3], [3, 0])
    return [
        Sample(Batch(jnp.asarray(images[..., half]), jnp.asarray(train.labels[:16][half])), KEY)
        for half in (slice(0, 8), slice(8, 16))
    ]


def problem(collection: str) -> Problem:
    upper, lower, v = levels(collection)
    above, below = samples()

    @jax.jit
    def first_step(v: Any) -> Any:
        slope, _ = bilevel.levels.direct_gradient(lower, v, below)
        return lower.transform.update(slope, lower.transform.init(v[collection]), v[collection])[1]

    return Problem(upper, lower, Point(v, first_step(v), above, below, {}), {})


@pytest.fixture(scope="module")
def step1() -> Iterator[Problem]:
    with jax.enable_x64(True):
        yield problem(PARAMS)


@pytest.fixture(scope="module")
def step2() -> Iterator[Problem]:
    with jax.enable_x64(True):
        yield problem(SCORES)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def test_unrolling_and_finite_difference_agree_as_far_as_theory_goes(step1: Problem) -> None:
    """The network is smooth between the kinks of its ReLUs and maxima. Within 1e-6 of θ there are none, and what is
    left is rounding, 1e-16 / 1e-6; at DARTS' 0.01 kinks are crossed and the error is no longer O(ε²)."""
    exact, first = step1.gradient("unrolled"), step1.gradient("first_order")
    assert distance(step1.gradient("finite_difference", radius=1e-6), exact) < 1e-6
    coarse = distance(step1.gradient("finite_difference"), exact)
    assert 1e-6 < coarse < 1
    assert distance(first, exact) > 0.05  # the second-order term is no trifle here


def test_unrolling_is_the_derivative_of_the_loss_after_the_step(step1: Problem) -> None:
    p = step1
    direction = jax.tree.map(
        lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape)), p.point.variables[ALPHA]
    )

    @jax.jit
    def after(distance: Any) -> Any:
        v = dict(p.point.variables)
        v[ALPHA] = jax.tree.map(lambda x, d: x + distance * d, v[ALPHA], direction)
        slope, _ = bilevel.levels.direct_gradient(p.lower, v, p.point.lower)
        v[PARAMS], _ = bilevel.levels.move(p.lower, v[PARAMS], p.point.optimizer, slope, {})
        return p.upper.loss(v, *p.point.upper)[0]

    h = 1e-6
    numerical = (after(h) - after(-h)) / (2 * h)
    np.testing.assert_allclose(p.gradient("unrolled") @ flat(direction), numerical, rtol=1e-6)


def test_implicit_estimators_pass_through_the_supernet(step1: Problem) -> None:
    """One Neumann term of size lr is ∂F/∂α − lr (∂²f/∂α∂θ)ᵀ∂F/∂θ, of which two differ by a multiple."""
    first = step1.gradient("first_order")
    small, large = (step1.gradient("neumann", terms=1, lr=lr) - first for lr in (0.01, 0.02))
    np.testing.assert_allclose(large, 2 * small, rtol=1e-9)
    assert distance(small + first, first) > 1e-3


def test_implicit_estimators_have_a_program_for_nasbench201() -> None:
    """Its kernels are not those of DARTS' supernet, and of their gradients a forward derivative is taken."""
    space = nasbench201.from_fields(nasbench201.Fields(cells=1, channels=2), SIZES.classes, layers.one_device, None)
    upper, lower, v = levels_of(space, PARAMS)
    point = Point(v, lower.transform.init(v[PARAMS]), *samples(), {})
    found = bilevel.neumann(terms=1, lr=0.01)
    jax.jit(lambda at: found(upper, lower, at, bilevel.levels.same)[0]).lower(point)  # raises where there is none


def test_scores_unroll_straight_through_and_finite_difference_sees_only_the_look_ahead(step2: Problem) -> None:
    p = step2
    exact, difference = p.gradient("unrolled"), p.gradient("finite_difference", radius=1e-9)

    @jax.jit
    def ahead(v: Any) -> Any:
        slope, _ = bilevel.levels.direct_gradient(p.lower, v, p.point.lower)
        scores, _ = bilevel.levels.move(p.lower, v[SCORES], p.point.optimizer, slope, {})
        return bilevel.levels.direct_gradient(p.upper, {**v, SCORES: scores}, p.point.upper)[0]

    found = flat(ahead(p.point.variables))
    np.testing.assert_allclose(difference, found, rtol=1e-9)
    assert distance(exact, found) > 1e-3


def test_two_devices_unroll_as_one_with_batch_norm_over_both(step1: Problem) -> None:
    upper, lower, _ = levels(PARAMS, average=parallel.mean)
    hypergradient = bilevel.unrolled(1)

    def own(x: jax.Array) -> jax.Array:
        return parallel.own_slice(x, 2)

    def run(point: Point, _: jax.Array) -> Any:
        point = point._replace(
            upper=Sample(jax.tree.map(own, point.upper.batch), KEY),
            lower=Sample(jax.tree.map(own, point.lower.batch), KEY),
        )
        return parallel.mean(hypergradient(upper, lower, point, parallel.mean)[0])

    mapped = jax.pmap(run, axis_name=parallel.AXIS, in_axes=(None, 0), devices=jax.devices()[:2])
    found = jax.tree.map(lambda x: np.asarray(x[1]), mapped(step1.point, jnp.arange(2)))
    np.testing.assert_allclose(flat(found), step1.gradient("unrolled"), rtol=1e-9, atol=1e-12)
