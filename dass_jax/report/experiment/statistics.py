"""What a few seeds tell: mean, deviation, confidence interval, and tests between methods over the seeds they share."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy import stats


class Summary(NamedTuple):
    """Of a sample: its size, mean, standard deviation (n − 1) and half the width of the mean's 95 % confidence interval
    by Student's t; NaN for what so few values do not have."""

    size: int
    mean: float
    std: float
    half: float


class Comparison(NamedTuple):
    """A method less another, seed by seed: the summary of the differences and the two-sided p values that they have no
    mean (paired t) and no median (Wilcoxon's signed ranks); NaN where a test does not apply."""

    difference: Summary
    p_t: float
    p_wilcoxon: float


def summary(values: Sequence[float]) -> Summary:
    """Of the values that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    count = len(known)
    if count < 2:
        return Summary(count, known[0] if known else math.nan, math.nan, math.nan)
    mean, std = float(np.mean(known)), float(np.std(known, ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * std / math.sqrt(count)
    return Summary(count, mean, std, half)


def compare(one: Mapping[int, float], other: Mapping[int, float]) -> Comparison:
    """`one` less `other`, both seed → value, over the seeds that both have.

    Differences that are all equal have no spread to test by, and so no p of the t-test; where they are all zero there
    is none of either.
    """
    seeds = [seed for seed in one if seed in other]
    pairs = [(one[seed], other[seed]) for seed in seeds if not math.isnan(one[seed] - other[seed])]
    differences = np.array([first - second for first, second in pairs])
    found = summary(differences.tolist())
    if found.size < 2:
        return Comparison(found, math.nan, math.nan)
    spread = np.ptp(differences) > 1e-9 * np.abs(differences).max()
    p_t = float(stats.ttest_rel(*np.transpose(pairs)).pvalue) if spread else math.nan
    # Rounded to what results are given to: ranks are tied by equal differences, not by how these came about.
    ranked = differences.round(6)
    p_wilcoxon = float(stats.wilcoxon(ranked).pvalue) if ranked.any() else math.nan
    return Comparison(found, p_t, p_wilcoxon)


def chance(values: Sequence[float]) -> float:
    """The two-sided p value of the mean of numbers that would be drawn evenly from 0 to 1: twice the smaller tail of
    the distribution of Irwin and Hall, that of their sum; NaN without any."""
    count = len(values)
    if not count:
        return math.nan
    total = sum(map(Fraction, values))
    # In fractions: of many numbers the terms cancel each other to more digits than a float has.
    terms = ((-1) ** k * math.comb(count, k) * (total - k) ** count for k in range(math.floor(total) + 1))
    below = float(sum(terms) / math.factorial(count))
    return min(1.0, 2 * min(below, 1 - below))


def pareto(points: Sequence[tuple[float, float]], higher: bool = True) -> list[int]:
    """The places of the (cost, value) points that none is better than in both, by rising cost; `higher`: whether
    higher values are better."""
    values = [value if higher else -value for _, value in points]
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -values[index]))
    best, found = -math.inf, []
    for index in order:
        if values[index] > best:
            best = values[index]
            found.append(index)
    return found
