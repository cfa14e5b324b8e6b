"""Which phases of different runs are the same, so that an experiment does them once.

Neither the dense part of a search nor the dense pre-training of an architecture depends on how many weights will be
pruned: a phase says which fields of the configuration it does not read (`phases.Phase.unread`). Its end is named by a
digest of all the others, so a field that nobody has thought of makes less be shared, never something wrong.
"""

import hashlib
import json
import pathlib
from typing import Any

from dass_jax import architectures, config
from dass_jax.config import Config
from dass_jax.phases import Phase
from dass_jax.runner import SEARCH
from dass_jax.runtime.shelf import Shelf

NEVER_READ = ("controls", "plugins")
SEARCH_UNREAD = ("network", "train", "data.cutout")
"""What no search reads."""
TRAINING_UNREAD = ("method", "space", "hypergradient", "architecture", "data.validation_fraction")
"""What no training reads, which is that of an architecture, whoever found it."""


def phase_digest(c: Config, machine: Any, method: str, chain: str, phase: Phase, architecture: Any) -> str:
    """16 hexadecimal digits, equal for phases that end bit-identical.

    Args:
      machine: what the bits depend on beside the configuration: versions and devices, JSON-able.
      architecture: of the trained network; None in a search, or for a network that has none.
    """
    searching = chain == SEARCH
    unread = {*NEVER_READ, *(SEARCH_UNREAD if searching else TRAINING_UNREAD), *phase.unread}

    def is_read(name: str) -> bool:
        # A phase that has left out steps is not one that would have stopped at them.
        counts = name == "runtime.nonfinite" or name not in config.NOT_IN_RESULT
        return counts and {name, name.partition(".")[0]}.isdisjoint(unread)

    own = config.control(c, method) if searching and method != config.title(c) else c
    fields = {name: value for name, value in config.flatten(own).items() if is_read(name)}
    whose = method if searching else None
    found = None if architecture is None else architectures.to_json(architecture)
    everything = [chain, phase.name, whose, found, fields, machine]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def shelf(c: Config, machine: Any, folder: pathlib.Path) -> Shelf:
    """The places in `folder` for the phases of a run."""

    def place(method: str, chain: str, phase: Phase, architecture: Any) -> pathlib.Path:
        return folder / f"{phase.name}-{phase_digest(c, machine, method, chain, phase, architecture)}"

    return place
