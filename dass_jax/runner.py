"""Carries out phases: for each phase, for each epoch: feed, call, observe, record, checkpoint.

A phase is declared data (`phases.Phase`); this is the only place that knows in which order things happen. Every epoch
ends with a line of metrics for each seed and a checkpoint, which says where the run stands. A run that is started again
goes on from there and ends with the same bits.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax import compose
from dass_jax.bilevel import State
from dass_jax.compose import Setting
from dass_jax.errors import UserError
from dass_jax.feed import Feed
from dass_jax.phases import Phase
from dass_jax.runtime import calls, checkpoint, compilation, keeping, memory, parallel, seeds, shelf, soundness
from dass_jax.runtime.ahead import Ahead
from dass_jax.runtime.calls import Done
from dass_jax.runtime.keeping import Keeper
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals

COMPILE = "compile"
"""The clock of compilations, beside those of the phases."""
SEARCH, TRAINING = "search", "training"
"""The chains of a method."""


class Chain(NamedTuple):
    """Phases one after another, of some seeds, with what the pipeline does with them."""

    method: str
    name: str
    """`SEARCH` or `TRAINING`."""
    phases: tuple[Phase, ...]
    look: Callable[[Phase, int, Any], list[dict[str, Any]]]
    """(phase, epochs done, variables of all seeds as NumPy arrays) → for each seed what its line says beside the
    figures of the steps."""
    shared: Callable[[Phase], Any] = lambda phase: None
    """Phase → the folder in which other runs look for its end; None: not shared."""
    evaluation: "Evaluation | None" = None
    """What `look` evaluates networks by."""


class Evaluation(NamedTuple):
    """A program that evaluates networks."""

    name: str
    function: Callable[..., Any]
    """`epoch.evaluation`, for one seed."""


class Standing(NamedTuple):
    """Where a chain stands."""

    number: int = 0
    """Of the phase in its chain."""
    epoch: int = 0
    """Epochs of the phase that are done."""
    done: Done = Done()
    """How far the next epoch has come."""
    state: Any = None
    """NumPy arrays; None: the phase has not begun."""
    built: Mapping[str, Any] = {}
    """Phase → what its program was rebuilt as; without an entry: its own."""


@dataclasses.dataclass
class Runner:
    """A run in progress.

    Three of its parts change as it goes on: `facts`, everything found out so far, which a checkpoint holds beside the
    arrays; `programs`, those that are compiled; and `ahead`, those that a chain will need.
    """

    progress: Progress
    signals: Signals
    keeper: Keeper | None
    """None: another process keeps what is to be kept."""
    feed: Feed
    resumed: checkpoint.Checkpoint | None
    """From which the run goes on."""
    facts: dict[str, Any]
    programs: dict[str, Any] = dataclasses.field(default_factory=dict)
    ahead: Ahead = dataclasses.field(default_factory=Ahead)
    """What is compiled beside the phase that runs."""

    def known(self, s: Setting) -> list[dict[str, Any]]:
        """What is known so far of the current method, for each seed: seconds by clock, and what the pipeline enters."""
        current = self.facts["current"]
        return [current.setdefault(str(seed), {"seconds": {COMPILE: 0.0}}) for seed in s.seeds]

    def spend(self, s: Setting, clock: str, seconds: float) -> None:
        """Enters seconds under the clock, for each seed its share of them."""
        for one in self.known(s):
            one["seconds"][clock] = one["seconds"].get(clock, 0.0) + seconds / len(s.seeds)

    def compiled(
        self, s: Setting, label: str, batch: memory.Batch, name: str, function: Any, arguments: Any, donate: bool
    ) -> Any:
        """The program of that name for as many seeds as there are; raises UserError if it does not fit into memory.

        Args:
          batch: by which it would fit.
        """
        name = named(s, name)
        if name not in self.programs:
            start = time.monotonic()
            with self.progress.busy(f"compiling {label}"):
                self.programs[name] = self.signals.waiting(
                    lambda: self.ahead.get(name) or s.layout.program(function, arguments, donate)
                )
            self.spend(s, COMPILE, time.monotonic() - start)
            if s.config.runtime.memory_check:
                check_memory(s, label, batch, self.programs[name], arguments)
        return self.programs[name]

    def watch(self, s: Setting) -> calls.Watch:
        """What is looked for between two calls."""
        c = s.config.runtime

        def pause(state: State, done: Done) -> None:
            self.facts["saved"] += 1
            keeping.pause(self.keeper, state, done, self.facts)

        return calls.Watch(
            self.signals, c.call_seconds, c.checkpoint_minutes, c.nonfinite == "skip", pause, s.layout.get
        )

    def record(self, s: Setting, chain: Chain, line: dict[str, Any]) -> None:
        """A line of metrics of one epoch of one seed, and its events."""
        whose = keeping.event_folder(line["method"], line.get("seed"))
        epochs = self.facts["epochs"]
        epochs[whose] = epochs.get(whose, 0) + 1
        self.facts["metrics_bytes"] = keeping.line(self.keeper, line, epochs[whose])

    def checkpoint(self, s: Setting, chain: Chain, phase: Phase, standing: Standing, stopped: bool) -> None:
        """The state after an epoch, and where the run stands."""
        self.facts["saved"] += 1
        self.facts["at"] = {**at_of(s, chain, phase, standing), "stopped": stopped}
        keeping.state(self.keeper, standing.state, self.facts)


def named(s: Setting, program: str) -> str:
    """A program's name, of so many seeds."""
    return f"{program}, {len(s.seeds)} seeds"


def place_of(s: Setting, chain: Chain) -> dict[str, Any]:
    """What tells a chain of a run from all others."""
    return {"method": chain.method, "chain": chain.name, "seeds": list(s.seeds)}


def at_of(s: Setting, chain: Chain, phase: Phase, standing: Standing) -> dict[str, Any]:
    """Where a run stands, as its checkpoints say it."""
    return {**place_of(s, chain), "phase": phase.name, "epoch": standing.epoch, "built": dict(standing.built)}


def label_of(s: Setting, chain: Chain, phase: Phase) -> str:
    """What a user calls a phase: with the seeds, when the run has several."""
    return " · ".join([chain.method, phase.name, *([seeds.named(s.seeds)] if s.config.seeds > 1 else [])])


def run_chain(r: Runner, s: Setting, chain: Chain) -> Any:
    """Runs phases one after another, from where the run stands; returns the last state as NumPy arrays, None without
    any phase.

    Raises:
      UserError: if a phase does not fit into memory, or its numbers are not finite.
      Stopped: after a signal, with everything kept.
    """
    declare(r, s, chain)
    chain = chain._replace(phases=tuple(on_its_own(s, chain, phase) for phase in chain.phases))
    standing = resumed(r, s, chain)
    r.ahead = Ahead(later_programs(r, s, chain, standing.number))
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
            shelf.put(place, standing.state, shelf.facts(r.keeper.path, chain.method, chain.name, phase.name, known))
    return standing.state


def later_programs(r: Runner, s: Setting, chain: Chain, number: int) -> dict[str, Callable[[], Any]]:
    """Name → what compiles it, for each program that the chain needs after the phase `number` has begun."""
    like = s.layout.like
    if like is None or s.config.data.streaming or not chain.phases:
        return {}

    def compiled(feed: Callable[..., Any], *given: Any) -> Any:
        """The program that a feed asks for, first of all."""
        found: list[Any] = []

        def compile(name: str, function: Any, arguments: Any, donate: bool) -> Any:
            found.append(s.layout.program(function, arguments, donate))
            return found[0]

        feed(s, *given, compile)
        return found[0]

    def evaluating(evaluation: Evaluation, phases: tuple[Phase, ...]) -> Any:
        assert phases[-1].network is not None
        network = parallel.over_seeds(len(s.seeds), phases[-1].network, (0,))
        shapes, batch = jax.eval_shape(network, template(s, phases).variables), batch_of_evaluation(s)
        return compiled(r.feed.evaluate, evaluation.name, evaluation.function, like(shapes), batch.size // batch.parts)

    def advancing_on(phase: Phase, phases: tuple[Phase, ...]) -> Any:
        return compiled(r.feed.advance, phase, like(template(s, phases)))

    works: dict[str, Callable[[], Any]] = {}
    evaluated = next((n for n, phase in enumerate(chain.phases, 1) if phase.network is not None), None)
    if chain.evaluation is not None and evaluated is not None:
        phases = chain.phases[:evaluated]
        works[named(s, chain.evaluation.name)] = functools.partial(evaluating, chain.evaluation, phases)
    for last in range(number + 1, len(chain.phases)):
        phase, phases = chain.phases[last], chain.phases[: last + 1]
        works.setdefault(named(s, phase.program), functools.partial(advancing_on, phase, phases))
    present = chain.phases[number]
    there = {*r.programs, named(s, present.program)}
    return {name: work for name, work in works.items() if name not in there}


def begun(s: Setting, phase: Phase, key: jax.Array, state: Any) -> State:
    """A phase's first state. The keys are an argument: one program for all seeds."""
    return compilation.at_once(parallel.over_seeds(len(s.seeds), phase.begin, (0, 0)), key, state)


def resumed(r: Runner, s: Setting, chain: Chain) -> Standing:
    """Where the chain stands: at the checkpoint from which the run goes on, if that is one of this chain's."""
    here = place_of(s, chain)
    if r.resumed is None or not here.items() <= r.resumed.facts["at"].items():
        return Standing()
    at = r.resumed.facts["at"]
    index = [phase.name for phase in chain.phases].index(at["phase"])
    leaves, done = keeping.state_of(r.resumed)
    state = checkpoint.restore(template(s, chain.phases[: index + 1], at["built"]), leaves)
    return Standing(index, chain.phases[index].epochs if at.get("stopped") else at["epoch"], done, state, at["built"])


def template(s: Setting, phases: Sequence[Phase], built: Mapping[str, Any] = {}) -> Any:
    """The state of the last of `phases`, as shapes, with each program as it was `built`."""
    state: Any = None
    key = jax.eval_shape(lambda: compose.key(s, ""))
    for phase in phases:
        for begin in (phase.begin, *([rebuilt_as(phase, built).begin] if phase.name in built else [])):
            state = jax.eval_shape(parallel.over_seeds(len(s.seeds), begin, (0, 0)), key, state)
    return state


def rebuilt_as(phase: Phase, built: Mapping[str, Any], before: Any = None) -> Phase:
    """The phase with its program as it was built, whose `begin` takes the state of the one before."""
    if phase.rebuild is None or phase.name not in built:
        return phase
    found = phase.rebuild.phase(before, built[phase.name])
    return found._replace(program=found.program or f"{phase.program}, as {built[phase.name]}")


def on_its_own(s: Setting, chain: Chain, phase: Phase) -> Phase:
    """The phase with a program that no other one of the run has, unless it says which it shares: phases of one name may
    be of another method or architecture."""
    return phase._replace(program=phase.program or f"{phase.name} of {chain.method}, {chain.name}, {s.seeds}")


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
            lines = lines_of(s, chain, phase, at.epoch, done.seconds, infos)
            look = functools.partial(looked, chain, phase, at.epoch, after.variables, lines)
            stopped = calls.keeping(watch, state, done, look)
            standing = standing._replace(epoch=at.epoch, state=after, done=Done(size=done.size))
            keep_epoch(r, s, chain, phase, standing, lines, done.seconds, stopped)
            bar.epoch(shown(s, lines))
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
    and a run that goes on from it asks the same.
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
    hide(r, chain, phase, lines[0])
    for line in lines:
        if stopped:
            line["stopped"] = True
        r.record(s, chain, line)
    r.checkpoint(s, chain, phase, standing, stopped)


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
    both = [*others, *own] if chain.name == TRAINING else [*own, *others]
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


def batch_of_evaluation(s: Setting) -> memory.Batch:
    """As many images as there are in a part of a training batch."""
    c = s.config.train.fields
    return memory.Batch("train", c.batch_size, c.accumulate)


def batch_of(s: Setting, chain: Chain, phase: Phase) -> memory.Batch:
    """A phase's batch, as the configuration says it."""
    searching = chain.name == SEARCH
    fields = compose.method_fields(s.config, chain.method) if searching else s.config.train.fields
    size = max((feed.batch for feed in phase.feeds.values() if feed is not None), default=0)
    remat = "space.remat" if searching and getattr(s.config.space.fields, "remat", True) is False else None
    return memory.Batch("method" if searching else "train", size, getattr(fields, "accumulate", 1), remat)


def check_memory(s: Setting, label: str, batch: memory.Batch, program: Any, arguments: tuple[Any, ...]) -> None:
    """Raises UserError if a program does not fit into memory, where that is known."""
    own = parallel.own_devices(s.devices)
    need, free = memory.needed(program), memory.available(own)
    there = None if free is None else free + memory.held(arguments, own)
    memory.check(label, need, there, batch, s.layout.sharing)
