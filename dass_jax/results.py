"""What results.json holds: a method's figures for one seed and, for several, their mean ± standard deviation."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import accounting, architectures, compose, variables
from dass_jax.compose import Setting
from dass_jax.data import record
from dass_jax.nn.layers import one_device
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

SPREADS = {"parameters": ("kept",), "macs": ("dense", "nonzero")}
"""The figures that differ between seeds and are counts, by section."""


def of_run(found: dict[str, list[dict[str, Any]]], method: str, controls: Sequence[str]) -> dict[str, Any]:
    """The whole file: the main method's part and, inside, those of its controls.

    Args:
      found: method → its results, one for each seed.
    """
    parts = {name: runs[0] if len(runs) == 1 else of_seeds(runs) for name, runs in found.items()}
    return {**parts[method], "controls": {name: parts[name] for name in controls}}


def of_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One method's part for several seeds: `runs`, what each seed has, and their spread; seconds are sums."""
    first = runs[0]
    found: dict[str, Any] = {"method": first["method"], "seeds": [run["seed"] for run in runs], "keep": first["keep"]}
    found["task"] = first["task"]
    found["evaluations"] = {
        name: {figure: spread([run["evaluations"][name][figure] for run in runs]) for figure in figures}
        for name, figures in first["evaluations"].items()
    }
    for section, names in SPREADS.items():
        found[section] = {name: spread([run[section][name] for run in runs]) for name in names}
    found["nid"] = None if first["nid"] is None else spread([run["nid"] for run in runs])
    clocks = dict.fromkeys(name for run in runs for name in run["seconds"])
    found["seconds"] = {name: round(sum(run["seconds"].get(name, 0.0) for run in runs), 2) for name in clocks}
    return {**found, "runs": runs}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation of a sample, so with n − 1, of two or more values."""
    return {"mean": round(float(np.mean(values)), 4), "std": round(float(np.std(values, ddof=1)), 4)}


def architecture_of(known: Mapping[str, Any]) -> Any:
    """What a seed has found; None for a network that is not made of an architecture."""
    found = known["architecture"]
    return None if found is None else architectures.from_json(found["architecture"])


def of_method(s: Setting, method: str, seed: int, known: Mapping[str, Any], v: Any) -> dict[str, Any]:
    """One method's part for one seed.

    Args:
      known: its architecture as `architectures.described` or None, evaluations in the order of time, and seconds.
      v: params, batch_stats and masks at the end of its training, as NumPy arrays.
    """
    net = compose.model(s, architecture_of(known), auxiliary=False, average=one_device)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))[PARAMS]
    height, width, channels = s.image_shape

    def forward() -> Any:
        return net.apply(v[PARAMS], v[BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    keep, kept = s.config.sparsity.keep, accounting.kept_of_masks(v[MASKS], params, net.rules)
    count, task = accounting.count(params, net.rules, kept, keep, forward), task_of(s)
    last = list(known["evaluations"].values())[-1][task["metric"]]
    return {
        "method": method,
        "seed": seed,
        "keep": keep if count.kept < count.prunable else None,
        **_described(s, known),
        "chosen": chosen(s, architecture_of(known)),
        **tabled(s, architecture_of(known)),
        "task": task,
        "evaluations": known["evaluations"],
        "parameters": {
            "total": count.total,
            "prunable": count.prunable,
            "kept": count.kept,
            "kept_with_bn_bias": count.kept_with_bn_bias,
            "paper": count.paper_kept,
        },
        "macs": {"dense": count.macs, "nonzero": count.macs_nonzero},
        # Accuracy per weight means something where more of it is better.
        "nid": round(accounting.nid(last, count.kept), 4) if task["higher_is_better"] else None,
        "compression": round(count.total / count.kept, 2),
        "seconds": seconds_of(known),
        "layers": layers_of(v, params),
    }


def _described(s: Setting, known: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's architecture as `architectures.described`, with a warning where a table knows nothing of it."""
    found, table = known["architecture"], compose.lookup(s.config)
    if found is None:
        return {"architecture": None, "graphs": [], "warnings": {}}
    unknown = "" if table is None else table.unknown(architecture_of(known))
    return {**found, "warnings": {**found["warnings"], **({"table": unknown} if unknown else {})}}


def task_of(s: Setting) -> dict[str, Any]:
    """The task, its main metric, and on how many test examples it is measured."""
    metric = s.task.metrics[0]
    return {
        "name": s.task.name,
        "metric": metric.name,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "examples": s.dataset.test.size,
    }


def seconds_of(known: Mapping[str, Any]) -> dict[str, float]:
    """What a seed has taken so far, by phase."""
    return {name: round(value, 2) for name, value in known["seconds"].items()}


def ranking(s: Setting, checked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the scores of a search rank what the networks of those architectures reach.

    Returns:
      scores: more being better; reached: the main metric of each network; rank_correlation (Spearman) and correlation
      (Pearson) of the two, the metric taken so that more is better; None where all of one are equal.
    """
    from scipy import stats  # it takes a second, and few runs need it

    scores, reached = [one["score"] for one in checked], [one["reached"] for one in checked]
    signed = np.array(reached, np.float64) * (1 if s.task.metrics[0].higher_is_better else -1)
    constant = min(np.ptp(scores), np.ptp(signed)) == 0
    return {
        "scores": [round(score, 6) for score in scores],
        "reached": reached,
        "rank_correlation": None if constant else round(float(stats.spearmanr(scores, signed).statistic), 4),
        "correlation": None if constant else round(float(stats.pearsonr(scores, signed).statistic), 4),
    }


def about(s: Setting, evaluations: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """What a network carries with it: its data's record, and what the run measured last on all test images; None where
    nothing is known of the data.

    Args:
      evaluations: in the order of time.
    """
    if s.dataset.record is None:
        return None
    last = list(evaluations.values())[-1] if evaluations else None
    return {"data": record.to_json(s.dataset.record), "task": task_of(s), "measured": last and dict(last)}


def chosen(s: Setting, architecture: Any) -> dict[str, list[list[int]]]:
    """Matrix → the [row, column] pairs that an architecture has of its space; empty without one."""
    if architecture is None:
        return {}
    encoded = compose.make_space(s).encode(architecture)
    return {name: _pairs(np.asarray(matrix)) for name, matrix in encoded.items()}


def _pairs(choice: np.ndarray) -> list[list[int]]:
    """The columns of each row, of weights [rows, columns] or of numbers of columns [rows]."""
    if choice.ndim == 1:
        return [[row, int(column)] for row, column in enumerate(choice)]
    return np.argwhere(choice > 0).tolist()


def tabled(s: Setting, architecture: Any) -> dict[str, Any]:
    """{"table": {column: what it says of the architecture}}, where the configuration names a table."""
    table = compose.lookup(s.config)
    if table is None or architecture is None:
        return {}
    return {"table": {name: entry._asdict() for name, entry in table.entries(architecture).items()}}


def layers_of(v: Any, params: Any) -> list[dict[str, Any]]:
    """Weights and kept weights of every prunable leaf of the network without its auxiliary head, as the masks say."""
    masks, wanted = variables.flatten(v[MASKS]), variables.flatten(params)
    return [
        {"path": path, "weights": int(mask.size), "kept": int(np.count_nonzero(mask))}
        for path, mask in masks.items()
        if path in wanted
    ]
