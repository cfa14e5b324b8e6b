"""Classification: loss and figures against NumPy, sums that add up over padded batches, and how they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dass_jax.phases import Curve
from dass_jax.tasks import TASKS
from dass_jax.tasks.classification import accuracy, classification, cross_entropy

RNG = np.random.default_rng(0)
LOGITS, LABELS = 3 * RNG.normal(size=(11, 4)), RNG.integers(4, size=11)
TASK = classification(4)


def losses() -> np.ndarray:
    return -special.log_softmax(LOGITS, axis=-1)[np.arange(11), LABELS]


def test_the_loss_is_the_mean_surprise_and_accuracy_is_in_per_cent(x64: None) -> None:
    assert float(cross_entropy(jnp.asarray(LOGITS), LABELS)) == pytest.approx(losses().mean(), rel=1e-12)
    right = LOGITS.argmax(-1) == LABELS
    assert 0 < right.sum() < 11
    assert float(accuracy(jnp.asarray(LOGITS), LABELS)) == pytest.approx(100 * right.mean(), rel=1e-12)
    assert (TASK.loss, list(TASK.measured(jnp.asarray(LOGITS), LABELS))) == (cross_entropy, ["accuracy"])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_smoothed_targets_are_pytorchs(x64: None, share: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    logits = torch.tensor(LOGITS, requires_grad=True)
    wanted = torch.nn.CrossEntropyLoss(label_smoothing=share)(logits, torch.tensor(LABELS))
    wanted.backward()
    value, gradient = jax.value_and_grad(TASK.smoothed_loss)(jnp.asarray(LOGITS), LABELS, share)
    assert float(value) == pytest.approx(wanted.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_means_keep_the_dtype_of_the_outputs(x64: None, dtype: str) -> None:
    logits = jnp.asarray(LOGITS, dtype)
    assert cross_entropy(logits, LABELS).dtype == accuracy(logits, LABELS).dtype == dtype


def test_sums_over_padded_batches_are_the_figures_of_the_whole(x64: None) -> None:
    rows, total = np.arange(12).reshape(3, 4), dict.fromkeys(("loss", "right", "examples"), 0.0)
    for batch in rows:
        counted = (batch < 11).astype(float)
        found = TASK.sums(jnp.asarray(LOGITS[batch % 11]), LABELS[batch % 11], counted)
        total = {name: total[name] + float(found[name]) for name in total}
    assert total["examples"] == 11
    figures = TASK.figures(total)
    assert list(figures) == [metric.name for metric in TASK.metrics]
    right = 100 * (LOGITS.argmax(-1) == LABELS).mean()
    assert figures == pytest.approx({"accuracy": right, "loss": losses().mean()}, rel=1e-12)


def test_networks_are_compared_by_accuracy_and_the_more_the_better() -> None:
    assert TASK.outputs == 4 and TASK.name == "classification" and TASKS["classification"].make is classification
    assert [(m.name, m.unit, m.higher_is_better) for m in TASK.metrics] == [
        ("accuracy", "%", True),
        ("loss", "nats", False),
    ]


def test_its_curves_show_the_loss_first_and_the_gap_of_what_is_compared() -> None:
    assert TASK.curves("") == (Curve("loss", "loss", "train", "nats"), Curve("accuracy", "accuracy", "train", "%"))
    assert TASK.curves("lower_", "upper_", "validation") == (
        Curve("lower_loss", "loss", "train", "nats"),
        Curve("upper_loss", "loss", "validation", "nats", "dashed"),
        Curve("lower_accuracy", "accuracy", "train", "%", gap=True),
        Curve("upper_accuracy", "accuracy", "validation", "%", "dashed"),
    )
