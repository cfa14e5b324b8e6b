"""The phases of a method one after another, and how places and programs in them are named."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from dass_jax import compose
from dass_jax.compose import Setting
from dass_jax.phases import Phase
from dass_jax.runtime import memory, parallel, seeds
from dass_jax.runtime.calls import Done

SEARCH, TRAINING = "search", "training"
"""The chains of a method."""


class Chain(NamedTuple):
    """Phases one after another, of some seeds, with what the pipeline does with them."""

    method: str
    name: str
    """`SEARCH`, `TRAINING`, or that of a training which checks a search's scores, "check 1" and so on."""
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


def on_its_own(s: Setting, chain: Chain) -> Chain:
    """The chain whose phases have programs that no other ones of the run have, unless they say which they share: phases
    of one name may be of another method or architecture."""
    own = (
        phase._replace(program=phase.program or f"{phase.name} of {chain.method}, {chain.name}, {s.seeds}")
        for phase in chain.phases
    )
    return chain._replace(phases=tuple(own))


def rebuilt_as(phase: Phase, built: Mapping[str, Any], before: Any = None) -> Phase:
    """The phase with its program as it was built, whose `begin` takes the state of the one before."""
    if phase.rebuild is None or phase.name not in built:
        return phase
    found = phase.rebuild.phase(before, built[phase.name])
    return found._replace(program=found.program or f"{phase.program}, as {built[phase.name]}")


def template(s: Setting, phases: Sequence[Phase], built: Mapping[str, Any] = {}) -> Any:
    """The state of the last of `phases`, as shapes, with each program as it was `built`."""
    state: Any = None
    key = jax.eval_shape(lambda: compose.key(s, ""))
    for phase in phases:
        for begin in (phase.begin, *([rebuilt_as(phase, built).begin] if phase.name in built else [])):
            state = jax.eval_shape(parallel.over_seeds(len(s.seeds), begin, (0, 0)), key, state)
    return state


def batch_of(s: Setting, chain: Chain, phase: Phase) -> memory.Batch:
    """A phase's batch, as the configuration says it."""
    searching = chain.name == SEARCH
    fields = compose.method_fields(s.config, chain.method) if searching else s.config.train.fields
    size = max((feed.batch for feed in phase.feeds.values() if feed is not None), default=0)
    remat = "space.remat" if searching and getattr(s.config.space.fields, "remat", True) is False else None
    return memory.Batch("method" if searching else "train", size, getattr(fields, "accumulate", 1), remat)


def batch_of_evaluation(s: Setting) -> memory.Batch:
    """As many images as there are in a part of a training batch."""
    c = s.config.train.fields
    return memory.Batch("train", c.batch_size, c.accumulate)
