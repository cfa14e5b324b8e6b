"""Carries out phases: for each phase, for each epoch: feed, call, observe, record, checkpoint.

A phase is declared data (`phases.Phase`); this is the only place that knows in which order things happen. Every epoch
ends with a line of metrics for each seed and a checkpoint, which says where the run stands. A run that is started again
resumes there and ends bit-identical.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dass_jax import compose
from dass_jax.bilevel import State
from dass_jax.compose import Setting
from dass_jax.phases import Phase
from dass_jax.runner import foreseen, recording
from dass_jax.runner.chain import (
    Chain,
    Evaluation,
    Standing,
    at_of,
    batch_of,
    batch_of_evaluation,
    label_of,
    on_its_own,
    place_of,
    rebuilt_as,
    template,
)
from dass_jax.runner.runner import Runner
from dass_jax.runtime import calls, checkpoint, compilation, keeping, parallel, seeds, shelf
from dass_jax.runtime.calls import Done


def run_chain(r: Runner, s: Setting, chain: Chain) -> Any:
    """Runs phases one after another, from where the run stands; returns the last state as NumPy arrays, None without
    any phase.

    Raises:
      UserError: if a phase does not fit into memory, or its numbers are not finite.
      Stopped: after a signal, with everything kept.
    """
    recording.declare(r, s, chain)
    chain = on_its_own(s, chain)
    standing = resumed(r, s, chain)
    r.ahead.add(foreseen.programs(r, s, chain, standing.number + 1), first=True)
    for index in range(standing.number, len(chain.phases)):
        phase = chain.phases[index]
        fresh = standing.state is None or index > standing.number
        state = standing.state
        standing = standing if index == standing.number else Standing(index, built=standing.built)
        place = chain.shared(phase) if index == 0 and fresh else None
        kept = shelf.take(place) if place else None
        if kept is not None:
            standing = Standing(index, phase.epochs, state=taken_over(r, s, chain, phase, kept))
            continue
        if fresh:
            key = compose.key(s, chain.name)
            state = r.signals.waiting(functools.partial(begun, s, phase, key, state))
        r.facts["at"] = at_of(s, chain, phase, standing)
        standing = run_phase(r, s, chain, phase, standing._replace(state=state))
        if place and r.keeper:
            known = r.known(s)[0].get("evaluations", {})
            facts = shelf.facts(r.keeper.path, chain.method, chain.name, phase.name, known)
            shelf.put(place, standing.state, facts, r.keeper.path)
    return standing.state


def begun(s: Setting, phase: Phase, key: jax.Array, state: Any) -> State:
    """A phase's first state. The keys are an argument: one program for all seeds."""
    return compilation.hastily(parallel.over_seeds(len(s.seeds), phase.begin, (0, 0)))(key, state)


def resumed(r: Runner, s: Setting, chain: Chain) -> Standing:
    """Where the chain stands: at the checkpoint from which the run resumes, if that is one of this chain's."""
    here = place_of(s, chain)
    if r.resumed is None or not here.items() <= r.resumed.facts["at"].items():
        return Standing()
    at = r.resumed.facts["at"]
    index = [phase.name for phase in chain.phases].index(at["phase"])
    leaves, done = keeping.state_of(r.resumed)
    state = checkpoint.restore(template(s, chain.phases[: index + 1], at["built"]), leaves)
    return Standing(index, chain.phases[index].epochs if at.get("stopped") else at["epoch"], done, state, at["built"])


def taken_over(r: Runner, s: Setting, chain: Chain, phase: Phase, kept: checkpoint.Checkpoint) -> Any:
    """The end of a phase that another run has done. Its lines of metrics, marked, and its seconds become this run's:
    they are what the run would have cost alone."""
    state = checkpoint.restore(template(s, [phase]), keeping.state_of(kept)[0])
    lines = [{**line, "method": chain.method, "shared": True} for line in kept.facts["lines"]]
    r.known(s)[0].setdefault("evaluations", {}).update(kept.facts["evaluations"])
    r.spend(s, phase.name, sum(line["seconds"] for line in lines))
    for line in lines:
        r.record(s, chain, line)
    r.checkpoint(s, chain, phase, Standing(0, phase.epochs, state=state), stopped=True)
    r.progress.say(f"{label_of(s, chain, phase)}: taken over from {kept.facts['origin']}")
    return state


def run_phase(r: Runner, s: Setting, chain: Chain, phase: Phase, standing: Standing) -> Standing:
    """Runs the epochs of a phase that are left."""
    if standing.epoch == phase.epochs:
        return standing
    label, watch = label_of(s, chain, phase), r.watch(s)
    whose = s.seeds if s.config.seeds > 1 else None
    on_devices = s.layout.put(standing.state)
    advance = advancing(r, s, chain, rebuilt_as(phase, standing.built), on_devices)
    with r.progress.phase(label, standing.epoch, phase.epochs) as bar:
        while standing.epoch < phase.epochs:
            rebuilt = rebuild(r, s, chain, phase, standing)
            if rebuilt is not None:
                standing, smaller = rebuilt
                on_devices = s.layout.put(standing.state)
                advance = advancing(r, s, chain, smaller, on_devices)
            at = calls.Place(label, standing.epoch + 1, whose)
            with r.progress.busy(f"{label}, epoch {at.epoch}", announce=False):
                on_devices, infos, done = calls.run(advance(standing.epoch), on_devices, standing.done, watch, at)
                state = s.layout.get(on_devices)
            after = state if phase.after_epoch is None else of_each(s, phase.after_epoch, state)
            lines = recording.lines_of(s, chain, phase, at.epoch, done.seconds, infos)
            look = functools.partial(looked, chain, phase, at.epoch, after.variables, lines)
            stopped = calls.keeping(watch, state, done, look)
            standing = standing._replace(epoch=at.epoch, state=after, done=Done(size=done.size))
            keep_epoch(r, s, chain, phase, standing, lines, done.seconds, stopped)
            bar.epoch(recording.shown(s, lines))
            if stopped:
                r.progress.say(f"{label}: ended by its stop rule after epoch {at.epoch}")
                break
            if after is not state:
                on_devices = s.layout.put(after)
    return standing


def looked(chain: Chain, phase: Phase, epoch: int, v: Any, lines: list[dict[str, Any]]) -> bool:
    """Adds to the lines of an epoch what is seen of the variables; whether the phase ends with it before its time."""

    def add(epoch: int) -> None:
        for line, seen in zip(lines, chain.look(phase, epoch, v), strict=True):
            line |= seen

    add(epoch)
    stopped = phase.stop is not None and epoch < phase.epochs and all(map(phase.stop, lines))
    if stopped:
        add(phase.epochs)  # what is measured at the end only
    return stopped


def advancing(r: Runner, s: Setting, chain: Chain, phase: Phase, on_devices: Any) -> Callable[[int], calls.Series]:
    """The feed's steps of a phase's epochs, its program compiled when it is needed."""
    compile = functools.partial(r.compiled, s, label_of(s, chain, phase), batch_of(s, chain, phase))
    return r.feed.advance(s, phase, on_devices, compile)


def rebuild(r: Runner, s: Setting, chain: Chain, phase: Phase, standing: Standing) -> tuple[Standing, Phase] | None:
    """The phase with a smaller program, and its state, where so much has died that one is wanted.

    It is asked before an epoch, not after one: a checkpoint then has the state with the program that it was made by,
    and a run that resumes from it asks the same.
    """
    if phase.rebuild is None or not standing.epoch or standing.done.steps:
        return None
    before = standing.built.get(phase.name)
    wanted = phase.rebuild.wanted(standing.state.variables, before)
    if wanted is None:
        return None
    built = {**standing.built, phase.name: wanted}
    smaller = rebuilt_as(phase, built, before)
    state = jax.tree.map(np.asarray, begun(s, smaller, compose.key(s, chain.name), standing.state))
    standing = standing._replace(state=state, built=built)
    r.facts["at"] = at_of(s, chain, phase, standing)
    r.progress.say(f"{label_of(s, chain, phase)}: a smaller program after epoch {standing.epoch}")
    return standing, smaller


def of_each(s: Setting, function: Callable[[Any], Any], state: Any) -> Any:
    """`function` of each seed's part of a state."""
    return seeds.stacked([function(part) for part in seeds.members(state, len(s.seeds))])


def keep_epoch(
    r: Runner,
    s: Setting,
    chain: Chain,
    phase: Phase,
    standing: Standing,
    lines: list[dict[str, Any]],
    seconds: float,
    stopped: bool,
) -> None:
    """Metrics, events and checkpoint of an epoch."""
    r.spend(s, phase.name, seconds)
    recording.hide(r, chain, phase, lines[0])
    for line in lines:
        if stopped:
            line["stopped"] = True
        r.record(s, chain, line)
    r.checkpoint(s, chain, phase, standing, stopped)


def evaluate(r: Runner, s: Setting, evaluation: Evaluation, networks: Any) -> list[dict[str, float]]:
    """The figures of the task on the whole test split, for each seed; `networks` are the variables of all seeds."""
    networks = s.layout.put(networks)
    batch = batch_of_evaluation(s)
    compile = functools.partial(r.compiled, s, "evaluation", batch)
    series = r.feed.evaluate(s, evaluation.name, evaluation.function, networks, batch.size // batch.parts, compile)
    with r.progress.busy("evaluation", announce=False):
        sums = calls.evaluate(series, networks, r.signals, s.config.runtime.call_seconds)
    return [
        {figure: round(float(value), 6) for figure, value in s.task.figures(one).items()}
        for one in seeds.members(sums, len(s.seeds))
    ]
