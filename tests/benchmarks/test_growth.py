"""The benchmark of growth: its fit, its points and its picture."""

from pathlib import Path

import pytest

from benchmarks import growth
from dass_jax.architectures.darts import edges


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power: float) -> None:
    xs = [2.0, 4.0, 16.0]
    assert growth.exponent(xs, [3 * x**power for x in xs]) == pytest.approx(power)


def test_every_sweep_passes_through_the_base() -> None:
    for quantity, values in growth.POINTS.items():
        assert growth.BASE in [growth.size_of(quantity, value) for value in values]


def test_fits_and_picture_of_linear_growth(tmp_path: Path) -> None:
    records = [
        {"quantity": name, "value": value, "seconds": [0.1 * (len(edges(value)) if name == "nodes" else value)]}
        for name, values in growth.POINTS.items()
        for value in values
    ]
    assert growth.fits(records) == pytest.approx(dict.fromkeys(("cells", "channels", "batch", "edges"), 1.0))
    growth.plot(records, str(tmp_path / "new" / "growth.png"))
    assert (tmp_path / "new" / "growth.png").stat().st_size > 10_000
