"""What a table of sparse networks says: how much of an accuracy is the cell's, whether dense accuracy foretells sparse
accuracy, and what else does. NumPy and SciPy on a table's rows; every figure is of the means over the seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from dass_jax import architectures
from dass_jax.architectures.family import Graph
from dass_jax.sparsebench.table import DENSE, Row

TEST = "test_"
RESAMPLED = 1000
"""Times that the cells are drawn again, with replacement, for an interval."""


class Interval(NamedTuple):
    """A figure and its 95 % interval: the percentiles of the bootstrap over cells."""

    value: float
    low: float
    high: float


class Spread(NamedTuple):
    """Where the differences between a column's accuracies come from, in points (one-way analysis of variance)."""

    mean: float
    seeds: float
    """Standard deviation of one cell's seeds."""
    cells: float
    """That between cells, once the part of the seeds is taken off that of their means; 0 if nothing is left."""
    ratio: float
    """`cells` in terms of the standard deviation of a mean over the seeds."""
    share: float
    """Of the variance of single trainings: how much is the cell's (the intraclass correlation)."""
    reliability: float
    """The same of the means over the seeds: the square of the most that they can correlate with anything."""


class Sample(NamedTuple):
    """What tables and figures are made of."""

    cells: tuple[Any, ...]
    """Architectures."""
    accuracies: dict[str, np.ndarray]
    """Stage (`dense`, `erk_10`, …) → test accuracies in per cent, float64 [cells, seeds]."""
    means: dict[str, np.ndarray]
    """The same, over the seeds: [cells]."""
    predictors: dict[str, np.ndarray]
    """Name → a figure of each cell, [cells], that is known before any network is pruned."""


def accuracies(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Stage → test accuracies of a table's rows in per cent, float64 [cells, seeds]."""
    names = [name for name in rows[0].figures if name.startswith(TEST)]
    return {name.removeprefix(TEST): np.array([row.figures[name] for row in rows]) for name in names}


def sample(rows: Sequence[Row], layers: Sequence[int]) -> Sample:
    """That of a table's rows, whose networks have so many prunable layers."""
    found = accuracies(rows)
    means = {stage: values.mean(1) for stage, values in found.items()}
    known = {**_counted(rows, layers), "dense accuracy": means[DENSE]}
    return Sample(tuple(row.cell for row in rows), found, means, known)


def spread(values: np.ndarray) -> Spread:
    """Of accuracies [cells, seeds], two of each at least."""
    within = float(values.var(1, ddof=1).mean())
    of_mean = within / values.shape[1]
    observed = float(values.mean(1).var(ddof=1))
    between = max(0.0, observed - of_mean)
    return Spread(
        mean=float(values.mean()),
        seeds=within**0.5,
        cells=between**0.5,
        ratio=(between / of_mean) ** 0.5 if of_mean else np.inf,
        share=between / (between + within) if between + within else np.nan,
        reliability=between / observed if observed else np.nan,
    )


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The rank correlation of two figures of the cells, [cells] each; NaN if one of them is the same of all."""
    return float(stats.spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else np.nan


def rank_correlation(one: np.ndarray, other: np.ndarray) -> Interval:
    """`spearman` with its interval."""
    return _interval(lambda rows: spearman(one[rows], other[rows]), len(one))


def rank_correlation_beyond(given: np.ndarray, one: np.ndarray, other: np.ndarray) -> Interval:
    """The partial rank correlation of two figures: of what is left of their ranks once that which follows from the
    ranks of a third, in a straight line, is taken off. NaN where nothing is left."""

    def partial(rows: np.ndarray) -> float:
        both = spearman(one[rows], other[rows])
        first, second = spearman(one[rows], given[rows]), spearman(other[rows], given[rows])
        left = (1 - first**2) * (1 - second**2)
        return (both - first * second) / left**0.5 if left > 1e-9 else np.nan

    return _interval(partial, len(one))


def kept_best(one: np.ndarray, other: np.ndarray, share: float = 0.1) -> Interval:
    """How many of the best by `one`, a share of the cells, are among as many best by `other`: a fraction, which is
    `share` by chance."""

    def best(values: np.ndarray) -> np.ndarray:
        return values >= np.quantile(values, 1 - share)

    def common(rows: np.ndarray) -> float:
        first, second = best(one[rows]), best(other[rows])
        return float((first & second).sum() / first.sum())

    return _interval(common, len(one))


def _interval(figure: Callable[[np.ndarray], float], cells: int) -> Interval:
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(cells, size=cells)) for _ in range(RESAMPLED)]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Interval(float(figure(np.arange(cells))), float(low), float(high))


def features(architecture: Any) -> dict[str, float]:
    """What can be read off an architecture's graphs; of several, sums. A path leads from an input to the last node.

    `number of <operation>`; `depth` and `least depth`, the most and the fewest convolutions on a path; `paths`; and
    `paths without weights`, of which no edge is a convolution.
    """
    found: dict[str, float] = {}
    for graph in architectures.family_of(architecture).graphs(architecture):
        for edge in graph.edges:
            if edge.label:
                found[f"number of {edge.label}"] = found.get(f"number of {edge.label}", 0) + 1
        for name, value in _paths(graph).items():
            found[name] = found.get(name, 0) + value
    return found


def _paths(graph: Graph) -> dict[str, float]:
    """Node by node: the longest and the shortest way there in convolutions, and how many ways there are."""
    entered = {edge.target for edge in graph.edges}
    nodes = {node: (0.0, 0.0, 1.0, 1.0) for node in graph.nodes if node not in entered}
    for node in graph.nodes:
        into = [(nodes[e.source], "conv" in e.label) for e in graph.edges if e.target == node and e.source in nodes]
        if into:
            nodes[node] = (
                max(most + weighs for (most, *_), weighs in into),
                min(least + weighs for (_, least, *_), weighs in into),
                sum(paths for (_, _, paths, _), _ in into),
                sum(free for (*_, free), weighs in into if not weighs),
            )
    most, least, paths, free = nodes.get(graph.nodes[-1], (0.0, 0.0, 0.0, 0.0))
    return {"depth": most, "least depth": least, "paths": paths, "paths without weights": free}


def _counted(rows: Sequence[Row], layers: Sequence[int]) -> dict[str, np.ndarray]:
    """The predictors that no training is needed for."""
    found = [features(row.cell) for row in rows]
    names = sorted({name for each in found for name in each}, key=lambda name: (not name.startswith("number"), name))
    own = {name: np.array([each.get(name, 0.0) for each in found]) for name in names}
    own["weights"] = np.array([row.figures[f"kept_{DENSE}"][0] for row in rows], float)
    own["weights per layer"] = own["weights"] / np.asarray(layers)
    own["multiply-accumulates"] = np.array([row.figures[f"macs_{DENSE}"][0] for row in rows], float)
    return own


def correlations(s: Sample) -> np.ndarray:
    """Spearman's of each predictor with the accuracy of each stage, [predictors, stages]."""
    return np.array([[spearman(figure, values) for values in s.means.values()] for figure in s.predictors.values()])
