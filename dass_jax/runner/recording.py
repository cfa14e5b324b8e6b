"""What is written down of phases: their declarations, and a line of metrics for each epoch of each seed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dass_jax.compose import Setting
from dass_jax.errors import UserError
from dass_jax.phases import Phase
from dass_jax.runner.chain import SEARCH, Chain
from dass_jax.runner.runner import Runner
from dass_jax.runtime import keeping, soundness


def lines_of(s: Setting, chain: Chain, phase: Phase, epoch: int, seconds: float, infos: Any) -> list[dict[str, Any]]:
    """For each seed the line of an epoch: where it stands, the means over its steps, its learning rates.

    Raises:
      UserError: if no step of it was finite.
    """
    lines = []
    share = round(seconds / len(s.seeds), 4)
    for seed, means in zip(s.seeds, soundness.means(infos), strict=True):
        whose = {"seed": seed} if s.config.seeds > 1 else {}
        line = {"method": chain.method, **whose, "chain": chain.name, "phase": phase.name}
        line |= {"epoch": epoch, "epochs": phase.epochs, "seconds": share, **means, **rates_of(phase, epoch)}
        wrong = [name for name, value in means.items() if name.endswith("loss") and not math.isfinite(value)]
        if wrong:
            where = f"{chain.method} · {phase.name}{f', seed {seed}' if whose else ''}, epoch {epoch}"
            raise UserError(
                f"{where}: {wrong[0]} = {means[wrong[0]]}; allowed: a finite number (a smaller learning rate may help)"
            )
        lines.append(line)
    return lines


def rates_of(phase: Phase, epoch: int) -> dict[str, float]:
    """The numbers with which an epoch (from 1) begins, by name; of groups of numbers the learning rates alone."""
    found = phase.rates(np.array([(epoch - 1) / phase.epochs]))
    several = len(found.get("learning_rate", ())) > 1
    flat = {
        f"learning_rate_{level}" if several else "learning_rate": rate
        for level, rate in found.get("learning_rate", {}).items()
    }
    flat |= {name: rate for name, rate in found.items() if not isinstance(rate, Mapping)}
    return {name: round(float(np.ravel(rate)[0]), 8) for name, rate in flat.items()}


def shown(s: Setting, lines: list[dict[str, Any]]) -> dict[str, float]:
    """What the progress shows of an epoch: losses and the task's metrics, averaged over the seeds."""
    chosen = ("loss", *(metric.name for metric in s.task.metrics))
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0] if name.endswith(chosen)}


def declare(r: Runner, s: Setting, chain: Chain) -> None:
    """Says in phases.json what the chain's phases are and how they are drawn."""
    before = r.facts["declared"].get(chain.method, [])
    hidden = {phase["name"]: {"hidden": phase["hidden"]} for phase in before if "hidden" in phase}
    own = [{**declared(chain.name, phase), **hidden.get(phase.name, {})} for phase in chain.phases]
    others = [phase for phase in before if phase["chain"] != chain.name]
    both = [*own, *others] if chain.name == SEARCH else [*others, *own]
    r.facts["declared"][chain.method] = both
    keeping.file(r.keeper, "phases.json", {"methods": r.facts["declared"]})


def declared(chain: str, phase: Phase) -> dict[str, Any]:
    """A phase as phases.json has it."""
    return {
        "chain": chain,
        "name": phase.name,
        "title": phase.title,
        "epochs": phase.epochs,
        "curves": [curve._asdict() for curve in phase.curves],
        "matrices": {
            name: {key: value for key, value in matrix._asdict().items() if key != "grid" or value}
            for name, matrix in phase.matrices.items()
        },
    }


def hide(r: Runner, chain: Chain, phase: Phase, line: dict[str, Any]) -> None:
    """Says in phases.json, once, which of a phase's metrics are recorded and not drawn: rates and gradients' norms."""
    declared = r.facts["declared"][chain.method]
    own = next(one for one in declared if (one["chain"], one["name"]) == (chain.name, phase.name))
    if "hidden" not in own:
        own["hidden"] = [*rates_of(phase, 1), *(name for name in line if name.endswith("gradient_norm"))]
        keeping.file(r.keeper, "phases.json", {"methods": r.facts["declared"]})
