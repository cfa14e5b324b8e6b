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

from dass_jax.bilevel import Level, Sample, alternate, descend, freeze_pruned, scale_by_given_learning_rate

A = np.array([[0.5, -1.0], [2.0, 0.25], [1.0, 1.0]])
B = np.array([[1.0, 0.0, -0.5], [0.5, 1.0, 0.0]])
BATCHES = [(np.array([1.0, 2.0, 3.0]) * i, np.array([-1.0, 0.5]) * i) for i in (1, 2, 3)]
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("order", ["upper_first", "lower_first"])
def test_turns_equal_the_updates_written_out_by_hand(order: str, momentum: float | None) -> None:
    alternation = alternate(*levels(momentum), order=order)
    state = alternation.init(begin())
    u, w, trace = np.array([1.0, -1.0, 0.5]), np.array([2.0, 0.0]), np.zeros(2)
    for b, c in BATCHES:
        state, info = alternation.update(state, (b, c), KEY)
        for turn in order.split("_")[0], {"upper_first": "lower", "lower_first": "upper"}[order]:
            if turn == "upper":
                gradient = u - A @ w - b
                u = u - 0.1 * gradient
                seen = info.upper
            else:
                gradient = w - B @ u - c
                trace = gradient + (momentum or 0) * trace
                w = w - 0.2 * trace
                seen = info.lower
            np.testing.assert_allclose(seen.loss, 0.5 * gradient @ gradient, rtol=1e-12)
            np.testing.assert_allclose(seen.gradient_norm, np.linalg.norm(gradient), rtol=1e-12)
        np.testing.assert_allclose(state.variables["alpha"]["u"], u, rtol=1e-12)
        np.testing.assert_allclose(state.variables["params"]["v"], w, rtol=1e-12)
        np.testing.assert_allclose(info.upper.metrics["mean"], b.mean())
        np.testing.assert_allclose(info.lower.metrics["mean"], c.mean())


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
    assert [float(info.upper.metrics["draw"]), float(info.lower.metrics["draw"])] == wanted


@pytest.mark.parametrize("collection", ["alpha", "params"])
def test_a_descent_leaves_every_other_collection_the_same_object(collection: str) -> None:
    v = begin()
    level = {"alpha": levels()[0], "params": levels()[1]}[collection]
    descent = descend(level)
    batch = BATCHES[0][collection == "params"]
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
    (after, _), info = plain.update(plain.init(begin()), BATCHES[0][1], KEY)
    (twice, _), info_twice = doubled.update(doubled.init(begin()), BATCHES[0][1], KEY)
    chex.assert_trees_all_close(info_twice, jax.tree.map(lambda x: 2 * x, info), rtol=1e-6)
    start = begin()["params"]["v"]
    np.testing.assert_allclose(twice["params"]["v"] - start, 2 * (after["params"]["v"] - start), rtol=1e-5)
    assert twice["batch_stats"]["count"] == 1
    both = alternate(*levels(), reduce=lambda t: jax.tree.map(lambda x: 2 * x, t))
    _, info_both = both.update(both.init(begin()), BATCHES[0], KEY)
    first = alternate(*levels())
    _, info_first = first.update(first.init(begin()), BATCHES[0], KEY)
    np.testing.assert_allclose(info_both.upper.loss, 2 * info_first.upper.loss, rtol=1e-6)


def test_descend_uses_the_gradient_it_is_given() -> None:
    def constant(level: Level, v: Any, sample: Sample) -> Any:
        return jax.tree.map(jnp.ones_like, v[level.collection]), (jnp.float32(7), ({}, {}))

    descent = descend(levels()[1], gradient=constant)
    (after, _), info = descent.update(descent.init(begin()), BATCHES[0][1], KEY)
    np.testing.assert_allclose(after["params"]["v"], [1.8, -0.2], rtol=1e-6)
    assert info.loss == 7
    assert float(info.gradient_norm) == pytest.approx(2**0.5)


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
