"""Two levels on a pair of quadratics whose every step is written out in NumPy.

upper  F(u, v) = ½|u − A·v − b|²      lower  f(u, v) = ½|v − B·u − c|²
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax.bilevel import (
    Level,
    Sample,
    Through,
    alternate,
    descend,
    freeze_pruned,
    in_turn,
    joint,
    scale_by_given_learning_rate,
    unrolled,
    with_rate,
)

pytestmark = pytest.mark.usefixtures("x64")

A = np.array([[0.5, -1.0], [2.0, 0.25], [1.0, 1.0]])
B = np.array([[1.0, 0.0, -0.5], [0.5, 1.0, 0.0]])
BATCHES = [{"upper": np.array([1.0, 2.0, 3.0]) * i, "lower": np.array([-1.0, 0.5]) * i} for i in (1, 2, 3)]
KEY = jax.random.key(0)


def metrics(v: Any, batch: Any, key: jax.Array) -> Any:
    seen = {"mean": batch.mean(), "draw": jax.random.uniform(key)}
    return seen, {"batch_stats": {"count": v["batch_stats"]["count"] + 1}}


def upper_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    return 0.5 * ((v["alpha"]["u"] - A @ v["params"]["v"] - batch) ** 2).sum(), metrics(v, batch, key)


def lower_loss(v: Any, batch: Any, key: jax.Array) -> Any:
    return 0.5 * ((v["params"]["v"] - B @ v["alpha"]["u"] - batch) ** 2).sum(), metrics(v, batch, key)


def begin() -> Any:
    return {
        "alpha": {"u": jnp.array([1.0, -1.0, 0.5])},
        "params": {"v": jnp.array([2.0, 0.0])},
        "masks": {"m": jnp.ones(2)},
        "scores": {"s": jnp.arange(2.0)},
        "batch_stats": {"count": jnp.zeros((), jnp.int32)},
    }


def levels(momentum: float | None = None) -> tuple[Level, Level]:
    return Level("alpha", upper_loss, optax.sgd(0.1)), Level("params", lower_loss, optax.sgd(0.2, momentum))


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("order", ["upper_first", "lower_first"])
def test_turns_equal_the_updates_written_out_by_hand(order: str, momentum: float | None) -> None:
    alternation = alternate(*levels(momentum), order=order)
    state = alternation.init(begin())
    u, w, trace = np.array([1.0, -1.0, 0.5]), np.array([2.0, 0.0]), np.zeros(2)
    for batches in BATCHES:
        (b, c), (state, info) = batches.values(), alternation.update(state, batches, KEY)
        for turn in order.split("_")[0], {"upper_first": "lower", "lower_first": "upper"}[order]:
            if turn == "upper":
                gradient = u - A @ w - b
                u = u - 0.1 * gradient
            else:
                gradient = w - B @ u - c
                trace = gradient + (momentum or 0) * trace
                w = w - 0.2 * trace
            np.testing.assert_allclose(info[turn].loss, 0.5 * gradient @ gradient, rtol=1e-12)
            np.testing.assert_allclose(info[turn].gradient_norm, np.linalg.norm(gradient), rtol=1e-12)
        np.testing.assert_allclose(state.variables["alpha"]["u"], u, rtol=1e-12)
        np.testing.assert_allclose(state.variables["params"]["v"], w, rtol=1e-12)
        np.testing.assert_allclose(info["upper"].metrics["mean"], b.mean())
        np.testing.assert_allclose(info["lower"].metrics["mean"], c.mean())


def test_the_order_changes_the_result() -> None:
    found = {}
    for order in ("upper_first", "lower_first"):
        alternation = alternate(*levels(), order=order)
        found[order] = alternation.update(alternation.init(begin()), BATCHES[0], KEY)[0].variables
    assert not np.allclose(found["upper_first"]["alpha"]["u"], found["lower_first"]["alpha"]["u"])
    assert not np.allclose(found["upper_first"]["params"]["v"], found["lower_first"]["params"]["v"])


def test_upper_first_is_the_default() -> None:
    results = []
    for options in ({}, {"order": "upper_first"}):
        alternation = alternate(*levels(), **options)
        results.append(alternation.update(alternation.init(begin()), BATCHES[0], KEY))
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize("order", ["upper_first", "lower_first"])
def test_each_level_draws_from_its_own_key_whatever_the_order(order: str) -> None:
    alternation = alternate(*levels(), order=order)
    _, info = alternation.update(alternation.init(begin()), BATCHES[0], KEY)
    wanted = [float(jax.random.uniform(key)) for key in jax.random.split(KEY)]
    assert [float(info["upper"].metrics["draw"]), float(info["lower"].metrics["draw"])] == wanted


@pytest.mark.parametrize("collection", ["alpha", "params"])
def test_a_descent_leaves_every_other_collection_the_same_object(collection: str) -> None:
    v = begin()
    level = {"alpha": levels()[0], "params": levels()[1]}[collection]
    descent = descend(level)
    batch = BATCHES[0]["lower" if collection == "params" else "upper"]
    after = descent.update(descent.init(v), batch, KEY)[0].variables
    assert after.keys() == v.keys()
    for name in after.keys() - {collection, "batch_stats"}:
        assert after[name] is v[name]
    chex.assert_trees_all_equal(v, begin())  # nothing is changed in place
    assert not np.array_equal(jax.tree.leaves(after[collection])[0], jax.tree.leaves(v[collection])[0])
    assert after["batch_stats"]["count"] == 1


def test_an_alternation_leaves_third_collections_the_same_objects_and_both_levels_update_statistics() -> None:
    v = begin()
    alternation = alternate(*levels(0.9))
    after = alternation.update(alternation.init(v), BATCHES[0], KEY)[0].variables
    assert after["masks"] is v["masks"]
    assert after["scores"] is v["scores"]
    assert after["batch_stats"]["count"] == 2


@pytest.mark.parametrize(
    ("collection", "learning_rate"), [("alpha", 0.0), ("params", 0.0)], ids=["upper stands", "lower stands"]
)
def test_a_level_that_does_not_move_stays_bit_identical(collection: str, learning_rate: float) -> None:
    pair = [
        level._replace(transform=optax.sgd(learning_rate)) if level.collection == collection else level
        for level in levels()
    ]
    alternation = alternate(*pair)
    after = alternation.update(alternation.init(begin()), BATCHES[0], KEY)[0].variables
    for name in ("alpha", "params"):
        same = jax.tree.leaves(after[name])[0].tobytes() == jax.tree.leaves(begin()[name])[0].tobytes()
        assert same == (name == collection)


def test_reduce_reaches_gradient_loss_and_metrics_but_not_statistics() -> None:
    level = levels()[1]
    plain, doubled = (descend(level, reduce) for reduce in (lambda t: t, lambda t: jax.tree.map(lambda x: 2 * x, t)))
    (after, _), info = plain.update(plain.init(begin()), BATCHES[0]["lower"], KEY)
    (twice, _), info_twice = doubled.update(doubled.init(begin()), BATCHES[0]["lower"], KEY)
    expected = jax.tree.map(lambda x: 2 * x, info["params"])._replace(unsound=info["params"].unsound)
    chex.assert_trees_all_close(info_twice, {"params": expected}, rtol=1e-6)
    start = begin()["params"]["v"]
    np.testing.assert_allclose(twice["params"]["v"] - start, 2 * (after["params"]["v"] - start), rtol=1e-5)
    assert twice["batch_stats"]["count"] == 1
    both = alternate(*levels(), reduce=lambda t: jax.tree.map(lambda x: 2 * x, t))
    _, info_both = both.update(both.init(begin()), BATCHES[0], KEY)
    first = alternate(*levels())
    _, info_first = first.update(first.init(begin()), BATCHES[0], KEY)
    np.testing.assert_allclose(info_both["upper"].loss, 2 * info_first["upper"].loss, rtol=1e-6)


def test_descend_uses_the_gradient_it_is_given() -> None:
    def constant(level: Level, v: Any, sample: Sample) -> Any:
        return jax.tree.map(jnp.ones_like, v[level.collection]), (jnp.float32(7), ({}, {}))

    descent = descend(levels()[1], gradient=constant)
    (after, _), info = descent.update(descent.init(begin()), BATCHES[0]["lower"], KEY)
    np.testing.assert_allclose(after["params"]["v"], [1.8, -0.2], rtol=1e-6)
    assert info["params"].loss == 7
    assert float(info["params"].gradient_norm) == pytest.approx(2**0.5)


@pytest.mark.parametrize("order", ["upper-first", "", "lower"])
def test_an_unknown_order_is_named(order: str) -> None:
    with pytest.raises(ValueError, match=rf"order = '{order}'; allowed: 'upper_first', 'lower_first'"):
        alternate(*levels(), order=order)


def test_both_levels_on_one_collection_are_an_error() -> None:
    upper, _ = levels()
    wanted = "'upper' and 'lower' both train 'alpha'; allowed: a collection of its own for each"
    with pytest.raises(ValueError, match=wanted):
        alternate(upper, upper)


def lower_transform() -> optax.GradientTransformation:
    """Weight decay and momentum, both of which would move a pruned weight, under a learning rate given as data."""
    return optax.chain(
        optax.add_decayed_weights(0.1), optax.trace(0.9), scale_by_given_learning_rate(), freeze_pruned()
    )


def test_steps_under_jit_are_traced_once_keep_structure_and_dtypes_and_equal_the_eager_ones() -> None:
    chex.clear_trace_counter()
    upper, lower = levels()
    alternation = alternate(upper, lower._replace(transform=lower_transform()))
    compiled = jax.jit(chex.assert_max_traces(alternation.update, n=1))
    eager_state = state = alternation.init(begin())
    masks = {"v": jnp.array([1.0, 0.0])}
    for step, batches in enumerate(BATCHES):
        batches = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), batches)
        extra = {"learning_rate": jnp.float32(0.2 / (step + 1)), "masks": {"v": 1 - masks["v"]} if step else masks}
        key = jax.random.fold_in(KEY, step)
        new_state, info = compiled(state, batches, key, **extra)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        chex.assert_trees_all_equal_structs(new_state, state)
        state = new_state
        eager_state, eager_info = alternation.update(eager_state, batches, key, **extra)
        chex.assert_trees_all_close((state, info), (eager_state, eager_info), rtol=1e-5)


def test_the_given_learning_rate_scales_the_step_and_keeps_each_leaf_its_dtype() -> None:
    transform = scale_by_given_learning_rate()
    updates = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([4.0], jnp.float16)}
    found, _ = transform.update(updates, transform.init(updates), learning_rate=jnp.float32(0.5))
    chex.assert_trees_all_equal(found, {"a": jnp.array([-0.5, 1.0]), "b": jnp.array([-2.0], jnp.float16)})
    with pytest.raises(TypeError, match="learning_rate"):
        transform.update(updates, transform.init(updates))


def test_each_level_takes_its_own_of_several_learning_rates() -> None:
    algorithm = in_turn(
        {
            name: Level(name, level.loss, with_rate(scale_by_given_learning_rate(), name))
            for name, level in three_levels().items()
        }
    )
    rates = {"alpha": 0.5, "params": 0.25, "scores": 0.0}
    state = algorithm.init({name: jnp.ones(1) for name in rates})
    given = {name: jnp.float32(rate) for name, rate in rates.items()}
    after, infos = algorithm.update(state, dict.fromkeys(rates, 0.0), KEY, learning_rate=given)
    for name, rate in rates.items():  # every gradient is negative
        step = float(after.variables[name][0] - 1)
        assert step == pytest.approx(rate * float(infos[name].gradient_norm))
    with pytest.raises(KeyError, match="params"):
        algorithm.update(state, dict.fromkeys(rates, 0.0), KEY, learning_rate={"alpha": given["alpha"]})


def test_frozen_entries_stay_bit_identical_under_momentum_and_weight_decay() -> None:
    start = {"w": jax.random.normal(jax.random.key(1), (4, 5)), "bias": jnp.array([0.3, -0.7])}
    params, masks = start, {"w": (jax.random.uniform(jax.random.key(2), (4, 5)) < 0.4).astype(jnp.float32)}
    transform = lower_transform()
    state = transform.init(params)
    for step in range(4):
        gradient = jax.tree.map(lambda p, step=step: jnp.sin(p + step), params)  # not masked: the transform must do it
        update, state = transform.update(gradient, state, params, masks=masks, learning_rate=jnp.float32(0.1))
        params = optax.apply_updates(params, update)
    kept = np.asarray(masks["w"]) != 0
    assert 0 < kept.sum() < kept.size
    before, after = np.asarray(start["w"]), np.asarray(params["w"])
    assert after[~kept].tobytes() == before[~kept].tobytes()
    assert (after[kept] != before[kept]).all()
    assert (np.asarray(params["bias"]) != np.asarray(start["bias"])).all()


def test_freezing_stops_even_infinite_updates_of_pruned_entries() -> None:
    updates = {"w": jnp.array([jnp.inf, jnp.nan, 1.0])}
    found, _ = freeze_pruned().update(updates, optax.EmptyState(), masks={"w": jnp.array([0.0, 0.0, 1.0])})
    np.testing.assert_array_equal(found["w"], [0.0, 0.0, 1.0])


def three_levels() -> dict[str, Level]:
    """α, θ and s, each pulled to the sum of the other two and its own batch."""

    def loss_of(own: str, others: tuple[str, str]) -> Any:
        def loss(v: Any, batch: Any, key: jax.Array) -> Any:
            return 0.5 * ((v[own] - v[others[0]] - v[others[1]] - batch) ** 2).sum(), ({}, {})

        return loss

    names = ("alpha", "params", "scores")
    return {
        name: Level(name, loss_of(name, tuple(other for other in names if other != name)), optax.sgd(0.5))
        for name in names
    }


def test_three_levels_in_turn_equal_the_updates_written_out_by_hand() -> None:
    algorithm = in_turn(three_levels())
    values = {"alpha": 1.0, "params": 2.0, "scores": -3.0}
    state = algorithm.init({name: jnp.array([value]) for name, value in values.items()})
    batches = {"alpha": 0.5, "params": -1.0, "scores": 2.0}
    for _ in range(3):
        state, infos = algorithm.update(state, batches, KEY)
        for name in values:
            gradient = values[name] - sum(values[other] for other in values if other != name) - batches[name]
            assert float(infos[name].gradient_norm) == pytest.approx(abs(gradient), rel=1e-6)
            values[name] -= 0.5 * gradient
    for name, value in values.items():
        np.testing.assert_allclose(state.variables[name], [value], rtol=1e-6)


def test_the_order_of_three_levels_is_the_one_asked_for() -> None:
    seen = {}
    for order in (("alpha", "params", "scores"), ("scores", "params", "alpha")):
        algorithm = in_turn(three_levels(), order=order)
        state = algorithm.init({name: jnp.ones(1) for name in three_levels()})
        seen[order], _ = algorithm.update(state, dict.fromkeys(three_levels(), 0.0), KEY)
    first, second = (np.concatenate(list(state.variables.values())) for state in seen.values())
    np.testing.assert_allclose(first, [1.5, 1.75, 2.125])
    np.testing.assert_allclose(second, first[::-1])


def test_any_level_can_follow_a_hypergradient_through_any_other() -> None:
    """Through s, α's own loss falls as if s answered: s' = s − 0.5·(s − α − θ), ds'/dα = 0.5."""
    algorithm = in_turn(three_levels(), {"alpha": Through("scores", unrolled(1))})
    a, t, s = 1.0, 2.0, -3.0
    state = algorithm.init({"alpha": jnp.array([a]), "params": jnp.array([t]), "scores": jnp.array([s])})
    _, infos = algorithm.update(state, dict.fromkeys(three_levels(), 0.0), KEY)
    answer = s - 0.5 * (s - a - t)
    assert float(infos["alpha"].gradient_norm) == pytest.approx(abs((1 - 0.5) * (a - t - answer)))


def test_several_steps_in_a_turn_are_as_many_turns_of_that_level() -> None:
    upper, lower = levels(0.9)
    several = alternate(upper, lower._replace(steps=3))
    state = several.init(begin())
    rows = np.stack([batches["lower"] for batches in BATCHES])
    found, info = several.update(state, {"upper": BATCHES[0]["upper"], "lower": rows}, KEY)

    expected, _ = descend(upper).update(state, BATCHES[0]["upper"], KEY)
    losses = []
    for row in rows:
        expected, one = descend(lower).update(expected, row, KEY)
        losses.append(float(one["params"].loss))
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    np.testing.assert_allclose(info["lower"].loss, np.mean(losses), rtol=1e-6)
    assert found.variables["batch_stats"]["count"] == 4


def test_steps_of_a_turn_draw_from_different_keys() -> None:
    lower = levels()[1]._replace(steps=2, transform=optax.sgd(0.0))
    _, info = descend(lower).update(descend(lower).init(begin()), np.stack([np.zeros(2)] * 2), KEY)
    draws = [float(jax.random.uniform(key)) for key in jax.random.split(KEY, 2)]
    assert float(info["params"].metrics["draw"]) == pytest.approx(np.mean(draws))


@pytest.mark.parametrize(("own", "virtual"), [(1, 1), (3, 3), (1, 3)])
def test_unrolling_looks_ahead_to_where_the_lower_turn_then_ends(own: int, virtual: int) -> None:
    """With u at rest the loss seen above is that of the lower level's real steps, batches and momentum included."""
    upper, lower = levels(0.9)
    lower, upper = lower._replace(steps=own), upper._replace(transform=optax.sgd(0.0))
    rows = np.stack([batches["lower"] for batches in BATCHES])
    batches = {**BATCHES[0], **({"lower": rows} if own > 1 else {})}
    algorithm = alternate(upper, lower, unrolled(virtual))
    state, _ = algorithm.update(algorithm.init(begin()), batches, KEY)  # momentum is no longer zero
    _, info = algorithm.update(state, batches, KEY)
    real = state
    for _ in range(virtual // own):
        real, _ = descend(lower).update(real, batches["lower"], KEY)
    np.testing.assert_allclose(info["upper"].loss, upper.loss(real.variables, batches["upper"], KEY)[0], rtol=1e-6)


def test_joint_levels_share_one_backward_pass_and_keep_their_own_transforms() -> None:
    calls = []

    def loss(v: Any, batch: Any, key: jax.Array) -> Any:
        calls.append(1)
        return upper_loss(v, batch, key)

    transforms = {"alpha": optax.sgd(0.1), "params": optax.adam(0.2)}
    algorithm = joint({f"own {name}": Level(name, loss, transform) for name, transform in transforms.items()})
    state = algorithm.init(begin())
    after, info = algorithm.update(state, BATCHES[0]["upper"], KEY)
    assert len(calls) == 1
    u, v = np.array([1.0, -1.0, 0.5]), np.array([2.0, 0.0])
    residual = u - A @ v - BATCHES[0]["upper"]
    np.testing.assert_allclose(after.variables["alpha"]["u"], u - 0.1 * residual, rtol=1e-6)
    np.testing.assert_allclose(after.variables["params"]["v"], v + 0.2 * np.sign(A.T @ residual), rtol=1e-5)
    assert list(info) == ["own alpha", "own params"]
    np.testing.assert_allclose(info["own alpha"].gradient_norm, np.linalg.norm(residual), rtol=1e-6)
    np.testing.assert_allclose(info["own params"].gradient_norm, np.linalg.norm(A.T @ residual), rtol=1e-6)
    # What all have in common is told once.
    np.testing.assert_allclose(info["own alpha"].loss, 0.5 * residual @ residual, rtol=1e-6)
    assert info["own alpha"].metrics["mean"] == 2
    assert info["own params"].loss is None and info["own params"].metrics == {}
    assert [one.unsound for one in info.values()] == [{"alpha": -1}, {"params": -1}]
    assert after.variables["batch_stats"]["count"] == 1 and after.variables["scores"] is state.variables["scores"]


def test_the_cosine_is_that_of_the_hypergradient_and_the_direct_term() -> None:
    upper, lower = levels()
    (u, w), (b, c) = (np.array([1.0, -1.0, 0.5]), np.array([2.0, 0.0])), BATCHES[0].values()
    ahead = w - 0.2 * (w - B @ u - c)
    direct, residual = u - A @ w - b, u - A @ ahead - b
    followed = residual - 0.2 * B.T @ A.T @ residual
    wanted = direct @ followed / np.linalg.norm(direct) / np.linalg.norm(followed)
    for hypergradient, expected in ((unrolled(1), wanted), (None, 1.0)):
        algorithm = alternate(upper, lower, hypergradient, cosine=True)
        _, info = algorithm.update(algorithm.init(begin()), BATCHES[0], KEY)
        np.testing.assert_allclose(info["upper"].cosine, expected, rtol=1e-10)
        assert info["lower"].cosine is None
    _, info = alternate(upper, lower).update(alternate(upper, lower).init(begin()), BATCHES[0], KEY)
    assert info["upper"].cosine is None


def wrong_through() -> Any:
    return in_turn(three_levels(), {"alpha": Through("beta", unrolled(1))})


UPPER, LOWER = levels()
WRONG = {
    "a lower level that is none": (
        wrong_through,
        r"through\['alpha'\] leads to 'beta'; allowed: two different names of",
    ),
    "through itself": (
        lambda: in_turn(three_levels(), {"alpha": Through("alpha", unrolled(1))}),
        r"through\['alpha'\] leads to 'alpha'; allowed: two different names of \['alpha', 'params', 'scores'\]",
    ),
    "an order with a gap": (
        lambda: in_turn(three_levels(), order=("alpha", "params")),
        r"order = \('alpha', 'params'\); allowed: each of \['alpha', 'params', 'scores'\] once",
    ),
    "joint losses that differ": (
        lambda: joint({"upper": UPPER, "lower": LOWER}),
        r"the levels \('upper', 'lower'\) have different losses; allowed: one function, which all share",
    ),
    "joint steps": (
        lambda: joint({"upper": UPPER, "lower": LOWER._replace(loss=UPPER.loss, steps=2)}),
        r"steps = \[1, 2\] in a joint update; allowed: 1 for each level",
    ),
    "joint levels on one collection": (
        lambda: joint({"one": UPPER, "other": UPPER}),
        r"'one' and 'other' both train 'alpha'; allowed: a collection of its own for each",
    ),
    "no step": (lambda: descend(UPPER._replace(steps=0)), "'alpha' has steps = 0; allowed: at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_composition_is_named(case: str) -> None:
    make, said = WRONG[case]
    with pytest.raises(ValueError, match=said):
        make()
