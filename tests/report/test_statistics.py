"""The statistics of an experiment against closed forms, tables and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from dass_jax.report.experiment import statistics


def test_summary_of_four_values_by_hand() -> None:
    found = statistics.summary([2.0, 4.0, 4.0, 6.0, math.nan])
    # Σ(x − 4)² = 8, so the variance is 8/3; t of 97.5 % with 3 degrees of freedom is 3.182446 (tables).
    assert found.size == 4 and found.mean == 4.0
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    assert found.half == pytest.approx(3.182446 * math.sqrt(8 / 3) / 2, rel=1e-6)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(10.0, 3.0, (2000, 5))
    found = [statistics.summary(sample) for sample in samples.tolist()]
    assert np.mean([abs(each.mean - 10.0) < each.half for each in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("values", "count", "mean"), [([], 0, math.nan), ([3.0], 1, 3.0), ([math.nan], 0, math.nan)])
def test_too_few_values_have_no_spread(values: list[float], count: int, mean: float) -> None:
    found = statistics.summary(values)
    assert found.size == count and math.isnan(found.std) and math.isnan(found.half)
    np.testing.assert_equal(found.mean, mean)


def test_methods_are_compared_over_the_seeds_that_both_have() -> None:
    one, other = {0: 3.0, 1: 5.0, 2: 4.0, 7: 0.0}, {0: 2.0, 1: 1.0, 2: 2.0, 3: 9.0}
    found = statistics.compare(one, other)
    assert (found.difference.size, found.difference.mean) == (3, pytest.approx(7 / 3))
    # t = mean / (std / √n) with 2 degrees of freedom, whose distribution function is 1/2 + t / (2 √(2 + t²)).
    t = (7 / 3) / (math.sqrt(7 / 3) / math.sqrt(3))
    assert found.p_t == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert found.p_wilcoxon == pytest.approx(2 / 2**3), "all three ranks of one sign: 2 of the 8 signs are as extreme"


def test_p_values_are_scipys() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(1.0, 1.0, 8), rng.normal(0.0, 1.0, 8)
    found = statistics.compare(dict(enumerate(one)), dict(enumerate(other)))
    assert found.p_t == pytest.approx(stats.ttest_1samp(one - other, 0.0).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(one, other).pvalue, rel=1e-6)
    back = statistics.compare(dict(enumerate(other)), dict(enumerate(one)))
    assert (back.p_t, back.p_wilcoxon) == pytest.approx((found.p_t, found.p_wilcoxon))
    assert back.difference.mean == pytest.approx(-found.difference.mean)


@pytest.mark.parametrize(("step", "wilcoxon"), [(0.0, math.nan), (0.1, 0.25)])
def test_equal_differences_have_no_t_test(step: float, wilcoxon: float) -> None:
    one = {0: 80.3, 1: 71.7, 2: 65.1}
    found = statistics.compare(one, {seed: value - step for seed, value in one.items()})
    assert math.isnan(found.p_t) and found.difference.mean == pytest.approx(step)
    np.testing.assert_allclose(found.p_wilcoxon, wilcoxon)


def test_the_pareto_front_is_what_nothing_beats() -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 60.0), (3.0, 55.0), (0.5, 50.0), (9.0, 60.0)]
    beaten = [any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert statistics.pareto(points) == [4, 2] == sorted(np.flatnonzero(~np.array(beaten)), key=lambda i: points[i])


def test_of_costs_the_front_is_what_nothing_undercuts() -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 60.0), (0.5, 50.0), (9.0, 40.0)]
    assert statistics.pareto(points, higher=False) == [3, 1]
    mirrored = [(cost, -value) for cost, value in points]
    assert statistics.pareto(mirrored) == statistics.pareto(points, higher=False)


def test_the_chance_of_a_mean_is_that_of_numbers_drawn_evenly() -> None:
    # Of one number the distribution function is x, of two that sum to 1.8 it is 1 − 0.2²/2, and it is symmetrical.
    assert statistics.chance([0.98]) == pytest.approx(0.04) == statistics.chance([0.02])
    assert statistics.chance([1.0, 0.8]) == pytest.approx(0.04)
    assert statistics.chance([0.3, 0.7, 0.5]) == pytest.approx(1) and math.isnan(statistics.chance([]))
    # Where sums of floats would have no right digit left: the normal distribution is near for so many.
    many = [0.5 + 2.5 / math.sqrt(12 * 60)] * 60
    assert statistics.chance(many) == pytest.approx(2 * stats.norm.sf(2.5), rel=0.06)
    drawn = np.random.default_rng(2).random((4000, 8))
    found = [statistics.chance(values) for values in drawn.tolist()]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.011)
