"""A run, read from top to bottom: each method's search, the training of what it found, the results.

Several seeds search as one batch; what they found is then trained in one batch for each different architecture.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax import architectures, compose, feed, results
from dass_jax.compose import Setting
from dass_jax.config import title
from dass_jax.data import identity
from dass_jax.phases import Phase
from dass_jax.runner import SEARCH, TRAINING, Chain, Evaluation, Runner, evaluate, foreseen, label_of, run_chain
from dass_jax.runtime import checkpoint, compilation, epoch, folder, keeping, networks, origin, parallel, seeds
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.shelf import Shelf
from dass_jax.runtime.signals import Signals


def run(
    setting: Setting, path: pathlib.Path, progress: Progress, signals: Signals, shared: Shelf | None = None
) -> dict[str, Any]:
    """Runs or continues a configuration in the folder `path`; returns what results.json holds.

    Raises:
      UserError: if no checkpoint of an interrupted run can be read, a phase does not fit into memory, or a loss or a
        gradient is not finite.
      Stopped: after a signal, with everything kept.
    """
    config = setting.config
    with keeping.opened(path, config.runtime.checkpoints_to_keep) as (keeper, (newest, said)):
        for line in said:
            progress.say(line)
        facts = {**keeping.NOTHING, "epochs": {}, "methods": {}, "current": {}, "declared": {}}
        if newest is not None:
            facts = dict(newest.facts)
            progress.say(going_on(newest, config.seeds > 1))
        # Every checkpoint says what its network needs of the data.
        facts["data"] = origin.to_json(setting.dataset.record)
        r = Runner(progress, signals, keeper, feed.of(setting), newest, facts)
        try:
            foresee(r, setting, shared)
            for name in compose.methods(config):
                method = called(setting, name)
                if method not in facts["methods"]:
                    facts["methods"][method] = run_method(r, setting, name, shared)
                    facts["current"] = {}
        finally:
            r.ahead.drop()
        r.ahead.finish()
        found = results.of_run(facts["methods"], called(setting, config.method.name), config.controls)
    # They say that the run is over: only now is its last checkpoint on the disk.
    keeping.file(keeper, "results.json", found)
    return found


def called(s: Setting, method: str) -> str:
    """What a method is called in metrics and results."""
    return title(s.config) if method == s.config.method.name else method


def going_on(newest: checkpoint.Checkpoint, several: bool) -> str:
    """What a user is told of the place from which a run of one or `several` seeds resumes."""
    at = newest.facts["at"]
    whose = f" of {seeds.named(at['seeds'])}" if several else ""
    held = f"checkpoint {newest.step}" + (f", {at['step']} steps later" if "step" in at else "")
    return f"resuming after {at['method']} · {at['phase']}, epoch {at['epoch']}{whose} ({held})"


def foresee(r: Runner, s: Setting, shared: Shelf | None) -> None:
    """Has the programs of controls that search nothing compiled while the methods before them run."""
    for name in compose.methods(s.config)[1:]:
        found, method = compose.search(s, name), called(s, name)
        if method in r.facts["methods"] or found.phases:
            continue
        for architecture, group in seeds.alike([(seed, found.found(None, seed)) for seed in s.seeds]):
            own = s.of(group)
            r.ahead.add(foreseen.programs(r, own, training(r, own, method, architecture, shared).chain))


def run_method(r: Runner, s: Setting, name: str, shared: Shelf | None) -> list[dict[str, Any]]:
    """Search, then training of what it found; the method's results by seed."""
    known, method = r.known(s), called(s, name)
    if "architecture" not in known[0]:
        for one, (found, checked) in zip(known, search(r, s, name, shared), strict=True):
            one["architecture"] = None if found is None else architectures.described(found)
            one["checked"] = [
                {"architecture": architectures.described(each)["architecture"], "score": score, "done": False}
                for each, score in checked
            ]
    if name == s.config.method.name:
        for file, one in zip(folder.architecture_names(s.seeds), known, strict=True):
            if one["architecture"] is not None:
                keeping.file(r.keeper, file, one["architecture"])
    found = [results.architecture_of(one) for one in known]
    for architecture, group in seeds.alike(list(zip(s.seeds, found, strict=True))):
        train(r, s.of(group), method, architecture, shared)
    for seed, one in zip(s.seeds, known, strict=True):
        for number in range(len(one.get("checked", ()))):
            check(r, s.of((seed,)), method, number)
        if one.get("checked"):
            one["results"] |= {"ranking": results.ranking(s, one["checked"]), "seconds": results.seconds_of(one)}
    return [one["results"] for one in known]


class Found(NamedTuple):
    """What a search has found."""

    architecture: Any
    """None for a network that has none."""
    checked: Sequence[tuple[Any, float]]
    """`Search.checked`."""


def search(r: Runner, s: Setting, name: str, shared: Shelf | None) -> list[Found]:
    """What a method finds, for each seed."""
    found, method = compose.search(s, name), called(s, name)
    table = compose.lookup(s.config)
    warned: dict[int, dict[str, str]] = {}

    def look(phase: Phase, epochs: int, v: Any) -> list[dict[str, Any]]:
        lines = []
        for seed, part in zip(s.seeds, seeds.members(v, len(s.seeds)), strict=True):
            architecture = found.found(part, seed)
            warnings = architectures.family_of(architecture).warnings(architecture)
            for place in warnings.keys() - warned.get(seed, {}).keys():
                r.progress.say(f"{label_of(s, chain, phase)}, seed {seed}: warning: {place}: {warnings[place]}")
            warned[seed] = warnings
            known = {} if table is None else table.metrics(architecture)
            lines.append({**observed(phase, part), **known})
        return lines

    phases = found.phases
    if table is not None:
        phases = tuple(phase._replace(curves=(*phase.curves, *table.curves)) for phase in phases)
    chain = Chain(method, SEARCH, phases, look, placing(s, method, SEARCH, None, shared))
    state = run_chain(r, s, chain)
    parts = [None] * len(s.seeds) if state is None else seeds.members(state.variables, len(s.seeds))
    return [
        Found(found.found(part, seed), found.checked(part, seed)) for seed, part in zip(s.seeds, parts, strict=True)
    ]


def observed(phase: Phase, v: Any) -> dict[str, Any]:
    """What a line says of the variables of a seed."""
    if phase.observe is None:
        return {}
    seen = phase.observe(v)
    figures = {name: round(float(value), 6) for name, value in seen.metrics.items()}
    matrices = {name: np.asarray(matrix, np.float64).round(6).tolist() for name, matrix in seen.matrices.items()}
    return {**figures, **({"matrices": matrices} if matrices else {})}


def placing(
    s: Setting, method: str, chain: str, architecture: Any, shared: Shelf | None
) -> Callable[[Phase], pathlib.Path | None]:
    """Where the end of a chain's first phase is shared with other runs; a batch of seeds shares nothing, and of a phase
    whose program is rebuilt nobody would know what is in its end."""
    if shared is None or len(s.seeds) > 1:
        return lambda phase: None

    def place(phase: Phase) -> pathlib.Path | None:
        return None if not phase.unread or phase.rebuild else on_shelf(s, shared(method, chain, phase, architecture))

    return place


def on_shelf(s: Setting, place: pathlib.Path) -> pathlib.Path:
    """A phase's place among those of the same data."""
    record = s.dataset.record
    return place if record is None else place.with_name(f"{place.name}-{identity.key(record.fingerprint)}")


class Trained(NamedTuple):
    """A training as a chain, and what it leaves."""

    chain: Chain
    network: Callable[[Any], Any]
    """Variables of a seed at the end → those that are evaluated and kept."""


Enter = Callable[[dict[str, Any], str, dict[str, float]], None]
"""Enters what a network reaches: (what is known of a seed, what the result is called, figures)."""


def enter_evaluation(known: dict[str, Any], name: str, figures: dict[str, float]) -> None:
    """Of the found network. What is measured at the end stays: it is in the checkpoint."""
    known.setdefault("evaluations", {})[name] = figures


def training(
    r: Runner, s: Setting, method: str, architecture: Any, shared: Shelf | None, enter: Enter = enter_evaluation
) -> Trained:
    """How the network of an architecture is trained and evaluated."""
    found = compose.training(s, architecture)
    total = s.layout.over_devices(parallel.total)
    function = epoch.evaluation(found.outputs, s.task.sums, compose.prepare_evaluation(s), total)
    evaluation = Evaluation(f"evaluation of {architecture}", function)
    every = s.config.train.fields.evaluate_every
    # Compiled: it is asked for each seed after each epoch, and may choose the weights that are kept.
    evaluated = {p.name: compilation.hastily(p.network) for p in found.phases if p.network is not None}

    def look(phase: Phase, epochs: int, v: Any) -> list[dict[str, Any]]:
        parts = seeds.members(v, len(s.seeds))
        lines = [observed(phase, part) for part in parts]
        if phase.name not in evaluated or not (epochs == phase.epochs or (every and epochs % every == 0)):
            return lines
        trained = seeds.stacked([evaluated[phase.name](part) for part in parts])
        measured = evaluate(r, s, evaluation, trained)
        for one, line, figures in zip(r.known(s), lines, measured, strict=True):
            line |= {f"test_{name}": value for name, value in figures.items()}
            if phase.name in found.evaluations:
                enter(one, found.evaluations[phase.name], figures)
        return lines

    placed = placing(s, method, TRAINING, architecture, shared)
    chain = Chain(method, TRAINING, found.phases, look, placed, evaluation)
    return Trained(chain, evaluated[found.phases[-1].name])


def train(r: Runner, s: Setting, method: str, architecture: Any, shared: Shelf | None) -> None:
    """Trains and evaluates the network of an architecture for each seed that found it; enters the results."""
    known = r.known(s)
    if "results" in known[0]:
        return
    chain, network = training(r, s, method, architecture, shared)
    state = run_chain(r, s, chain)
    for seed, one, part in zip(s.seeds, known, seeds.members(state.variables, len(s.seeds)), strict=True):
        v = jax.tree.map(np.asarray, network(part))
        one["results"] = results.of_method(s, method, seed, one, v)
        keep_results(r, s, method, seed, one, v)


def check(r: Runner, s: Setting, method: str, number: int) -> None:
    """Trains the `number`-th of the architectures that a seed's search has scored for this, and enters what it reaches:
    the main metric of the final network."""
    (known,), metric = r.known(s), s.task.metrics[0].name
    mine, which = known["checked"][number], f"architecture {number + 1} of {len(known['checked'])} that check scores"
    if mine["done"]:
        return
    r.progress.say(f"{method}: training {which}: {mine['score']:.4f}")

    def enter(known: dict[str, Any], name: str, figures: dict[str, float]) -> None:
        known["checked"][number]["reached"] = figures[metric]

    own = training(r, s, method, architectures.from_json(mine["architecture"]), None, enter).chain
    # Names of their own, for the clocks; with the draws that the found network's phases have.
    phases = {
        f"{p.name}, checks": p._replace(name=f"{p.name}, checks", title=f"{p.title}: {which}", draws=p.draws or p.name)
        for p in own.phases
    }
    names = dict(zip(phases, own.phases, strict=True))

    def look(phase: Phase, epochs: int, v: Any) -> list[dict[str, Any]]:
        return own.look(names[phase.name], epochs, v)

    run_chain(r, s, own._replace(name=f"check {number + 1}", phases=tuple(phases.values()), look=look))
    mine["done"] = True


def keep_results(r: Runner, s: Setting, method: str, seed: int, known: dict[str, Any], v: Any) -> None:
    """The network's file, what it predicts of pixels, and the method's row in TensorBoard's table."""
    found = known["results"]
    metric = found["task"]["metric"]
    final = list(found["evaluations"].values())[-1][metric]
    architecture = None if known["architecture"] is None else known["architecture"]["architecture"]
    about = results.about(s, known["evaluations"])
    keeping.network(r.keeper, networks.Network(method, seed, architecture, v, final, about))
    keeping.pictures(r.keeper, method, seed, compose.shown(s, results.architecture_of(known), v))
    figures = {f"{name} {metric}": measured[metric] for name, measured in found["evaluations"].items()}
    figures |= {"kept weights": float(found["parameters"]["kept"]), "MACs non-zero": float(found["macs"]["nonzero"])}
    whose = seed if s.config.seeds > 1 else None
    keeping.hparams(r.keeper, method, whose, compose.hparams(s, method), figures)
