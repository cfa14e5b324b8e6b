"""Segmentation: figures against scikit-learn's confusion matrix on a split in uneven batches, the loss against
PyTorch's, and what a label that is ignored leaves alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from dass_jax.phases import Curve
from dass_jax.runtime import calls
from dass_jax.runtime.calls import Series
from dass_jax.runtime.signals import Signals
from dass_jax.tasks import TASKS, Pixels
from dass_jax.tasks.segmentation import Fields, mean_iou, segmentation

RNG = np.random.default_rng(0)
CLASSES, IMAGES, BATCH = 5, 11, 4
OUTPUTS = 3 * RNG.normal(size=(CLASSES, 6, 7, IMAGES))
TARGETS = RNG.choice([0, 1, 2, 4, 5, 255], size=(6, 7, IMAGES), p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
"""Class 3 is only predicted; 5 is the label that is ignored."""
OUTPUTS[..., :BATCH] += 9 * (np.arange(CLASSES)[:, None, None, None] == TARGETS[..., :BATCH])
TASK = segmentation(6, Fields(ignore=5))


def batches() -> Any:
    """(outputs, targets, counted) of the split, the last batch filled up with images that do not count."""
    for rows in np.arange(12).reshape(-1, BATCH):
        yield jnp.asarray(OUTPUTS[..., rows % IMAGES]), jnp.asarray(TARGETS[..., rows % IMAGES]), rows < IMAGES


def expected() -> tuple[float, float]:
    """(mIoU, pixel accuracy), by scikit-learn's matrix of the whole split."""
    counts = TARGETS < CLASSES
    matrix = confusion_matrix(TARGETS[counts], OUTPUTS.argmax(0)[counts], labels=range(CLASSES))
    right = np.diag(matrix)
    return 100 * np.mean(right / (matrix.sum(0) + matrix.sum(1) - right)), 100 * right.sum() / matrix.sum()


def torch_loss(rows: np.ndarray, smoothing: float = 0.0) -> float:
    """The mean over the images of PyTorch's mean over their pixels."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    targets = torch.tensor(np.where(TARGETS < CLASSES, TARGETS, -1), dtype=torch.long)
    return float(
        np.mean(
            [
                torch.nn.functional.cross_entropy(
                    torch.tensor(OUTPUTS[None, ..., n]),
                    targets[None, ..., n],
                    ignore_index=-1,
                    label_smoothing=smoothing,
                )
                for n in rows
            ]
        )
    )


def test_figures_of_a_split_in_uneven_batches_are_those_of_one_matrix(x64: None) -> None:
    sums = [TASK.sums(*batch[:2], batch[2].astype(float)) for batch in batches()]
    figures = TASK.figures(jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *sums))
    assert list(figures) == [metric.name for metric in TASK.metrics]
    iou, accuracy = expected()
    assert figures == pytest.approx(
        {"mIoU": iou, "pixel_accuracy": accuracy, "loss": torch_loss(np.arange(IMAGES))}, rel=1e-12
    )
    by_batch = np.mean([float(TASK.measured(*batch[:2])["mIoU"]) for batch in batches()])
    assert abs(by_batch - iou) > 0.1  # what a mean over batches would say


def test_the_runner_adds_matrices_of_steps_and_seeds() -> None:
    """Sums that are arrays keep their shape, and are added over the steps alone."""
    sums = [TASK.sums(*batch[:2], batch[2].astype(float))["confusion"] for batch in batches()]
    steps = np.stack([np.stack(sums), 2 * np.stack(sums)])

    def call(state: None, first: int, last: int) -> Any:
        done = (np.arange(3) >= first) & (np.arange(3) < last)
        return state, {"confusion": steps * done[:, None, None]}

    series = Series(3, 3, call)
    found = calls.evaluate(series, None, Signals(), 0.0)["confusion"]
    assert found.shape == (2, CLASSES, CLASSES) and found.dtype == np.float64
    np.testing.assert_array_equal(found[1], 2 * np.sum(sums, axis=0))


def test_the_loss_does_not_depend_on_how_a_batch_is_parted(x64: None) -> None:
    whole = float(TASK.loss(jnp.asarray(OUTPUTS), jnp.asarray(TARGETS)))
    assert whole == pytest.approx(torch_loss(np.arange(IMAGES)), rel=1e-12)
    smoothed = float(TASK.smoothed_loss(jnp.asarray(OUTPUTS), jnp.asarray(TARGETS), 0.2))
    assert smoothed == pytest.approx(torch_loss(np.arange(IMAGES), 0.2), rel=1e-12)
    singles = [[jnp.asarray(x[..., n : n + 1]) for x in (OUTPUTS, TARGETS)] for n in range(IMAGES)]
    parts = [float(TASK.loss(*single)) for single in singles]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-12)


def test_ignored_pixels_have_no_gradient_and_all_others_have(x64: None) -> None:
    gradient = jax.grad(TASK.loss)(jnp.asarray(OUTPUTS), jnp.asarray(TARGETS))
    np.testing.assert_array_equal(np.asarray(gradient != 0).any(0), TARGETS < CLASSES)
    nothing = jax.value_and_grad(TASK.loss)(jnp.asarray(OUTPUTS), jnp.full(TARGETS.shape, 255))
    assert float(nothing[0]) == 0 and not np.asarray(nothing[1]).any()


def test_a_label_that_is_ignored_in_the_middle_stays_an_output_without_a_pixel() -> None:
    task = segmentation(5, Fields(ignore=1))
    assert task.outputs == Pixels(5)
    found = task.sums(jnp.asarray(OUTPUTS), jnp.asarray(TARGETS), jnp.ones(IMAGES))["confusion"]
    assert found[1].sum() == 0 and int(found.sum()) == ((TARGETS < 5) & (TARGETS != 1)).sum()


def test_classes_that_never_occur_are_left_out_of_the_mean() -> None:
    assert mean_iou(np.diag([3.0, 5.0, 0.0])) == 100
    assert mean_iou(np.array([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx(25)  # 1/2 and 0/1
    assert mean_iou(np.zeros((3, 3))) == 0


def test_networks_are_compared_by_the_mean_of_intersections_over_unions() -> None:
    assert TASK.name == "segmentation" and TASKS["segmentation"].make is segmentation
    assert TASK.outputs == Pixels(CLASSES, 16, (6, 12, 18), 256)
    assert TASK.curves("")[1] == Curve("mIoU", "mIoU", "train", "%")
    assert TASK.predictions is not None
    np.testing.assert_array_equal(TASK.predictions(jnp.asarray(OUTPUTS)), OUTPUTS.argmax(0))
