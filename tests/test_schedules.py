"""Schedules as functions of progress, and that a schedule by epochs is the epoch's own value to the last digits."""

import math

import numpy as np
import pytest

from dass_jax.schedules import by_epoch, constant, cosine, linear, warmed


def progress(epoch: int, epochs: int, steps: int) -> np.ndarray:
    """Of the steps of an epoch, as a run's feed has it."""
    return (epoch + np.arange(steps) / steps) / epochs


def test_they_start_and_end_where_they_say_and_keep_the_shape() -> None:
    at = np.array([[0.0, 0.25], [0.5, 1.0]])
    np.testing.assert_array_equal(constant(0.3)(at), np.full((2, 2), 0.3))
    np.testing.assert_allclose(linear(1.0, 3.0)(at), [[1.0, 1.5], [2.0, 3.0]], rtol=1e-15)
    falling = [0.8, 0.2 + 0.6 * 0.5 * (1 + math.sqrt(0.5)), 0.5, 0.2]
    np.testing.assert_allclose(cosine(0.8, 0.2)(at), np.reshape(falling, (2, 2)), rtol=1e-15)


def test_a_warm_up_rises_to_where_the_schedule_begins_and_takes_its_share_of_it() -> None:
    schedule = warmed(linear(3.0, 1.0), 0.2, 0.5)
    np.testing.assert_allclose(schedule(np.array([0.0, 0.1, 0.2, 0.6, 1.0])), [0.5, 1.75, 3.0, 2.0, 1.0], rtol=1e-15)
    falling = cosine(0.8, 0.2)
    assert warmed(falling, 0.0, 0.5) is falling


@pytest.mark.parametrize("epochs", [1, 3, 7, 8, 50, 600])
@pytest.mark.parametrize("steps", [1, 3, 49, 20_000])
def test_a_cosine_by_epochs_is_the_cosine_of_the_epoch_in_each_of_its_steps(epochs: int, steps: int) -> None:
    schedule = by_epoch(cosine(0.025, 1e-3), epochs)
    for epoch in {*range(min(epochs, 9)), epochs // 2, epochs - 1}:
        wanted = 1e-3 + (0.025 - 1e-3) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        np.testing.assert_allclose(schedule(progress(epoch, epochs, steps)), wanted, rtol=1e-14)


def test_progress_that_misses_a_boundary_by_a_rounding_is_at_it() -> None:
    boundaries = np.arange(8) / 8
    for near in (boundaries, np.nextafter(boundaries, -1), np.nextafter(boundaries, 2)):
        np.testing.assert_array_equal(by_epoch(linear(0.0, 8.0), 8)(near), np.arange(8))


@pytest.mark.parametrize(("begun", "epochs"), [(3, 8), (10, 200), (1, 3), (7, 49)])
def test_a_part_of_a_schedule_changes_with_the_epochs_of_the_whole(begun: int, epochs: int) -> None:
    """As a search that goes on after a warm-up takes it."""
    share = begun / epochs
    for epoch in range(epochs - begun):
        at = share + (1 - share) * progress(epoch, epochs - begun, 7)
        found = by_epoch(linear(0.0, epochs), epochs)(at)
        np.testing.assert_allclose(found, begun + epoch, rtol=1e-14)


def test_the_last_step_of_an_epoch_does_not_belong_to_the_next_one() -> None:
    last = progress(2, 4, 100_000)[-1:]
    assert by_epoch(linear(0.0, 4.0), 4)(last) == 2
