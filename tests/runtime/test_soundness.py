"""Numbers that are not finite: where they began, what they leave of an epoch's means, and one line about it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import bilevel
from dass_jax.bilevel.levels import first_unsound
from dass_jax.runtime import soundness

NAN = float("nan")
RATE = np.float32(0.1)
VARIABLES = {"params": {"a": np.ones(2), "b": np.ones(3)}, "alpha": {"normal": np.ones(1)}}


def info(loss: Any, leaf: Any = None) -> bilevel.Info:
    """Of steps with these losses, [seeds, steps]."""
    loss = np.array(loss, np.float32)
    leaf = np.full(loss.shape, -1) if leaf is None else np.array(leaf)
    return bilevel.Info(loss, {"accuracy": np.ones_like(loss)}, np.ones_like(loss), None, {"params": leaf})


def test_the_first_leaf_that_is_not_finite_is_found_under_jit() -> None:
    gradient = {"a": np.ones((2, 3)), "b": np.ones(4), "c": np.ones(())}
    find = jax.jit(first_unsound)
    assert find(gradient) == -1
    for number, name in enumerate(gradient):
        last = (np.arange(gradient[name].size) == gradient[name].size - 1).reshape(gradient[name].shape)
        for value in (np.nan, np.inf, -np.inf):
            for leaf in (gradient[name] + value, np.where(last, value, gradient[name])):
                wrong = {**gradient, "c": np.array(np.nan), name: leaf}
                assert find(wrong) == number and find(wrong).dtype == np.int32


def test_an_update_says_which_leaf_of_which_level_is_not_finite() -> None:
    def loss(v: Any, batch: Any, key: Any) -> Any:
        value = (v["params"]["a"] ** 2).sum() + (jnp.sqrt(v["params"]["b"] - batch)).sum()
        return value, ({}, {})

    level = bilevel.Level("params", loss, bilevel.sgd(0.9, 0.0, 5.0))
    descent = bilevel.descend(level)
    state = descent.init({"params": {"a": jnp.ones(2), "b": jnp.ones(3)}})
    update = jax.jit(descent.update)
    _, good = update(state, 0.5, jax.random.key(0), learning_rate=RATE)
    _, edge = update(state, 1.0, jax.random.key(0), learning_rate=RATE)
    good, edge = good["params"], edge["params"]
    assert good.unsound == {"params": -1} and edge.unsound == {"params": 1}
    assert np.isfinite(edge.loss) and not np.isfinite(edge.gradient_norm)


def test_several_steps_in_a_turn_report_the_leaf_too() -> None:
    def loss(v: Any, batch: Any, key: Any) -> Any:
        return (jnp.sqrt(v["params"]["b"] - batch)).sum(), ({}, {})

    descent = bilevel.descend(bilevel.Level("params", loss, bilevel.sgd(0.0, 0.0, 5.0), steps=2))
    state = descent.init({"params": {"b": jnp.ones(3)}})
    _, info = jax.jit(descent.update)(state, jnp.array([0.5, 1.5]), jax.random.key(0), learning_rate=RATE)
    unsound = info["params"].unsound
    assert unsound == {"params": 0} and unsound["params"].dtype == np.int32


def test_the_earliest_step_counts_whatever_the_seed() -> None:
    assert soundness.first({"low": info([[1.0, 2.0]])}) is None
    found = soundness.first({"low": info([[1, 1, NAN], [1, np.inf, 1]])})
    assert found is not None and found[:2] == (1, 1) and found.figures == {"loss": np.inf}
    found = soundness.first({"low": info([[1, NAN]]), "high": info([[NAN, 1]])})
    assert found is not None and found[:2] == (0, 0) and list(found.figures) == ["high_loss"]


def test_the_line_names_phase_epoch_step_figures_and_leaf() -> None:
    lower = info([[1, 1, 1], [1, 1, NAN]], [[-1, -1, -1], [-1, -1, 1]])
    upper = info([[1, 1, 1], [1, 1, 1]])._replace(unsound={"alpha": np.full((2, 3), -1)})
    both = {"upper": upper, "lower": lower}
    found = soundness.first(both)
    assert found is not None
    line = soundness.message(found, "dass · step2", None, 5, VARIABLES)
    assert line.startswith("dass · step2, epoch 5, step 3: lower_loss = nan, ")
    assert "first in the gradient of params['b']; allowed: finite numbers" in line and "upper" not in line
    assert line.endswith("(a smaller learning rate may help, runtime.nonfinite = 'skip' leaves such steps out)")
    assert "x, seed 9, epoch 5" in soundness.message(found, "x", (7, 9), 5, VARIABLES)
    before = jax.tree.unflatten(jax.tree.structure(both), soundness.before(both, found))
    assert before["lower"].loss.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert np.isfinite(before["lower"].gradient_norm).all()


def test_figures_are_named_by_level_where_there_are_several() -> None:
    one = info([[1.0]])
    assert list(soundness.named({"low": one})) == ["loss", "accuracy", "gradient_norm"]
    # Levels of one joint step share loss and metrics, which the first of them has.
    other = one._replace(loss=None, metrics={}, cosine=np.ones((1, 1)))
    assert list(soundness.named({"low": other, "high": one})) == [
        *("high_loss", "high_accuracy", "high_gradient_norm", "low_gradient_norm", "low_cosine"),
    ]


def test_the_means_of_an_epoch_are_over_the_steps_that_are_finite() -> None:
    first, second, third = soundness.means({"low": info([[1.0, NAN, 4.0], [2.0, 2.0, 2.0], [NAN, NAN, np.inf]])})
    assert (first["loss"], first["skipped_steps"], first["accuracy"]) == (2.5, 1, 1.0)
    assert second["loss"] == 2.0 and "skipped_steps" not in second
    assert np.isnan(third["loss"]) and third["skipped_steps"] == 3
