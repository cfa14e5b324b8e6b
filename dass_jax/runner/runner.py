"""A run in progress: what its phases have in common from one to the next."""

import dataclasses
import time
from typing import Any

from dass_jax.bilevel import State
from dass_jax.compose import Setting
from dass_jax.feed import Feed
from dass_jax.phases import Phase
from dass_jax.runner.chain import Chain, Standing, at_of, named
from dass_jax.runtime import calls, checkpoint, keeping, memory, parallel
from dass_jax.runtime.ahead import Ahead
from dass_jax.runtime.calls import Done
from dass_jax.runtime.keeping import Keeper
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals

COMPILE = "compile"
"""The clock of compilations, beside those of the phases."""


@dataclasses.dataclass
class Runner:
    """A run in progress.

    Three of its parts change while it runs: `facts`, everything found out so far, which a checkpoint holds beside the
    arrays; `programs`, those that are compiled; and `ahead`, those that it will need.
    """

    progress: Progress
    signals: Signals
    keeper: Keeper | None
    """None: another process keeps what is to be kept."""
    feed: Feed
    resumed: checkpoint.Checkpoint | None
    """From which the run resumes."""
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


def check_memory(s: Setting, label: str, batch: memory.Batch, program: Any, arguments: tuple[Any, ...]) -> None:
    """Raises UserError if a program does not fit into memory, where that is known."""
    own = parallel.own_devices(s.devices)
    need, free = memory.needed(program), memory.available(own)
    there = None if free is None else free + memory.held(arguments, own)
    memory.check(label, need, there, batch, s.layout.sharing)
