"""Whether a search's scores rank architectures: of some, scores beside what their networks reach."""

import math

import numpy as np
from matplotlib.figure import Figure

from dass_jax.report import markup, style
from dass_jax.report.records import Run
from dass_jax.report.results import Outcome, titled
from dass_jax.report.tables import decimal, decimals, in_brackets


def ranking(run: Run) -> str:
    """The section; empty where nothing was checked."""
    found = [each for each in run.outcomes if each.ranking is not None]
    if not found:
        return ""
    task, title = found[0].task, "Do the scores rank architectures?"
    values = [value for each in found for value in _reached(each)]
    digits = decimals(task.unit, values)
    unit = in_brackets(task.unit)
    caption = (
        "A point for each architecture that was drawn in the search, scored there, and then trained and evaluated as "
        "the found one was: scores that rank them lie on a rising line, or for a metric of which less is better on a "
        "falling one. The horizontal line is what the found network reaches. The correlations are Spearman's, of "
        "ranks, and Pearson's, signed so that 1 is what a search wants; of so few points either is uncertain."
    )
    header = [("method", ""), ("checked", ""), ("rank correlation", ""), ("correlation", "")]
    header += [(name, f"{task.metric} {unit}".strip()) for name in ("mean of them", "best of them", "found")]
    best = max if task.higher_is_better else min
    rows = [
        [
            titled(each),
            decimal(len(_reached(each))),
            decimal(each.ranking.rank_correlation, 2),
            decimal(each.ranking.correlation, 2),
            decimal(float(np.mean(_reached(each))), digits),
            decimal(best(_reached(each)), digits),
            decimal(_final(each), digits),
        ]
        for each in found
        if each.ranking
    ]
    alt = f"Scores of architectures and the {task.metric} of their networks"
    figure = markup.wide(markup.image(_figure(found), alt), caption)
    return markup.heading(title) + figure + markup.rows_table(header, rows, main=(0,))


def _reached(each: Outcome) -> tuple[float, ...]:
    return each.ranking.reached if each.ranking else ()


def _final(each: Outcome) -> float:
    """What the found network reaches in the end."""
    last = list(each.evaluations.values())[-1] if each.evaluations else {}
    return last.get(each.task.metric, math.nan)


def _figure(found: list[Outcome]) -> Figure:
    figure = Figure(figsize=(5.6, 4.2), facecolor="white", layout="constrained")
    axes, task = figure.add_subplot(), found[0].task
    for index, each in enumerate(found):
        colour, scores = style.colour(index), each.ranking.scores if each.ranking else ()
        axes.plot(scores, _reached(each), "o", color=colour, markersize=5, label=style.literal(titled(each)))
        axes.axhline(_final(each), color=colour, linewidth=0.9, linestyle="--")
    label = style.literal(f"test {task.metric} {in_brackets(task.unit)}".strip())
    style.tidy(axes, "scores and results", "score in the search", label)
    if len(found) > 1:
        figure.legend(loc="outside lower left", ncols=2, fontsize=7.5, frameon=False)
    return figure
