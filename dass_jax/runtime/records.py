"""The lines of metrics: each epoch's figures by name, checked before anything of the epoch is kept."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dass_jax import relaxation
from dass_jax.architectures.darts import Genotype, skips
from dass_jax.errors import UserError
from dass_jax.runtime import seeds, soundness
from dass_jax.runtime.stage import Stage


def of_call(
    method: str, stage: Stage, whose: Sequence[int] | None, first: int, share: float, infos: Any
) -> list[list[dict[str, Any]]]:
    """The lines of the epochs that one call has done: for each epoch one for each seed.

    Args:
      whose: the seeds, to be named in the lines; None for a run that has only one.
      first: epochs of the stage before this call.
      share: seconds of the call, divided by the number of seeds.
      infos: of all steps, with leading axes over epochs, over several seeds, and over steps.

    Raises:
      UserError: if no step of an epoch was finite.
    """
    found = []
    averages, skipped = soundness.means(infos)
    for number in range(len(skipped)):
        head: dict[str, Any] = {"stage": stage.name, "epoch": first + number + 1, "epochs": stage.epochs}
        head["seconds"] = round(share / len(skipped), 4)
        of_epoch = jax.tree.map(lambda x, n=number: x[n], (averages, skipped))
        heads: list[dict[str, Any]] = [{"method": method, "seed": seed} for seed in whose or ()] or [{"method": method}]
        for who, (info, left_out) in zip(heads, seeds.members(of_epoch, len(heads)), strict=True):
            counted = {"skipped_steps": int(left_out)} if left_out else {}
            who |= {**head, **figures(info), **counted}
            check_finite(who)
        found.append(heads)
    return found


def means(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Losses and accuracies of an epoch, averaged over the seeds."""
    names = [name for name in lines[0] if "loss" in name or "accuracy" in name]
    return {name: float(np.mean([line[name] for line in lines])) for name in names}


def figures(info: Any) -> dict[str, float]:
    """The scalars of an epoch by name, rounded."""
    return {name: round(float(value), 6) for name, value in soundness.named(info).items()}


def of_cells(edge_weights: Any, found: Genotype) -> dict[str, Any]:
    """What a line of a search says of the cells: the edge weights by cell; of each cell the skip connections that it
    would have if it were derived now, and its edges' mean entropy in nats.

    Args:
      edge_weights: cell → [edges, operations], after the softmax.
      found: the genotype derived from them.
    """
    counts = {f"skips_{name}": skips(cell) for name, cell in found._asdict().items()}
    entropies = {f"entropy_{name}": round(float(relaxation.entropy(w)), 6) for name, w in edge_weights.items()}
    weights = {name: np.asarray(w).round(6).tolist() for name, w in edge_weights.items()}
    return {**counts, **entropies, "edge_weights": weights}


def check_finite(record: dict[str, Any]) -> None:
    """Raises UserError if a loss is not a number: the run stops before anything of this epoch is kept."""
    wrong = {name: value for name, value in record.items() if "loss" in name and not math.isfinite(value)}
    if wrong:
        whose = f", seed {record['seed']}" if "seed" in record else ""
        where = f"{record['method']} · {record['stage']}{whose}, epoch {record['epoch']}"
        name, value = next(iter(wrong.items()))
        raise UserError(f"{where}: {name} = {value}; allowed: a finite number (a smaller learning rate may help)")
