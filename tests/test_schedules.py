"""Numbers over a phase: where they begin, pass and end."""

import numpy as np
import pytest

from dass_jax import schedules


@pytest.mark.parametrize(("initial", "final"), [(0.025, 0.001), (0.1, 0.0), (0.1, 0.2)])
def test_the_cosine_starts_high_passes_the_middle_and_ends_low(initial: float, final: float) -> None:
    first, quarter, middle, end = schedules.cosine(initial, final)(np.array([0.0, 0.25, 0.5, 1.0]))
    assert first == pytest.approx(initial) and end == pytest.approx(final)
    assert middle == pytest.approx((initial + final) / 2)
    assert quarter == pytest.approx(final + (initial - final) * (2 + np.sqrt(2)) / 4)


def test_a_line_and_a_constant() -> None:
    progress = np.linspace(0, 1, 5)
    np.testing.assert_allclose(schedules.linear(1.0, 3.0)(progress), [1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(schedules.constant(0.3)(progress), np.full(5, 0.3))


@pytest.mark.parametrize("epochs", [1, 3, 7, 50, 600])
@pytest.mark.parametrize("steps", [1, 3, 11])
def test_by_epoch_holds_the_first_value_of_an_epoch_until_its_end(epochs: int, steps: int) -> None:
    """Whatever the rounding of a step's progress, which is (epoch + step / steps) / epochs."""
    falling = schedules.by_epoch(schedules.linear(1.0, 0.0), epochs)
    for epoch in range(epochs):
        found = falling((epoch + np.arange(steps) / steps) / epochs)
        np.testing.assert_allclose(found, np.full(steps, 1 - epoch / epochs), rtol=1e-12, atol=1e-15)
        assert len(set(found)) == 1
