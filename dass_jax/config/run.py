"""A run as one value: `Config`, the tables that every run has and the members that it has chosen.

The defaults are the paper's values (DASS, arXiv 2207.06968).
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from dass_jax import architectures
from dass_jax.config import rules
from dass_jax.config.axes import AXES, DEFAULTS, GIVEN, Chosen, is_published, tag_hint
from dass_jax.config.tables import Data, Parallel, Runtime, Sparsity
from dass_jax.methods import METHODS
from dass_jax.schema import Range, Text
from dass_jax.spaces import SPACES

LARGEST_SEED = 2**31 - 1


CONTROLS = ("darts", "shared_random", "random")
"""Those that a run has if it names none, as far as they can search its space."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: a search, the found network's training, and the same for each control."""

    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    """Seed of everything random in the run."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Searches that run in one program, with the seeds `seed`, `seed` + 1, …; each has the numbers of a run with its
    seed alone, up to rounding. Networks of equal architecture are then trained so too. A search that ends by a rule
    of its own (a budget, no more operations to remove) ends when all seeds are through."""
    controls: tuple[str, ...] = ("darts", "random")
    """Methods run after the main one at the same budget, for comparison; `--controls` without a value = none. If they
    are not given: `darts`, or `shared_random` in a sampled space, and `random`, but for the main one, and none where
    nothing is searched."""
    architecture: Annotated[str, Text("a published name or the path of a JSON file", empty=True)] = ""
    """Architecture to train in the place of a searched one: a published name (`dass_99`, `darts_v2`, …), a JSON file or
    what such a file holds. What a file holds is kept in the run's config.toml."""
    plugins: tuple[Annotated[str, Text("the path of a Python file, or a module's name")], ...] = ()
    """Python files or modules that add spaces, methods, networks, tasks or recipes; paths in a configuration start at
    its folder."""
    space: Chosen = DEFAULTS["space"]
    method: Chosen = DEFAULTS["method"]
    hypergradient: Chosen = DEFAULTS["hypergradient"]
    task: Chosen = DEFAULTS["task"]
    network: Chosen = DEFAULTS["network"]
    train: Chosen = DEFAULTS["train"]
    data: Data = dataclasses.field(default_factory=Data)
    sparsity: Sparsity = dataclasses.field(default_factory=Sparsity)
    runtime: Runtime = dataclasses.field(default_factory=Runtime)
    parallel: Parallel = dataclasses.field(default_factory=Parallel)


def title(config: Config) -> str:
    """The main method's name in metrics and results: with `given` that of the network or of the architecture."""
    if config.method.name != GIVEN:
        return config.method.name
    if is_published(config.network.name):
        return config.network.name
    return config.architecture if config.architecture in architectures.published() else "architecture"


def usual_controls(config: Config) -> tuple[str, ...]:
    """The controls of a run that names none; a method that searches nothing sets no budget for them."""
    if not METHODS[config.method.name].epochs(config.method.fields):
        return ()
    searched = (None, SPACES[config.space.name].sampled)
    return tuple(name for name in CONTROLS if METHODS[name].sampled in searched and name != config.method.name)


def plain_hints() -> dict[str, Any]:
    """The annotated types of the fields that belong to no table."""
    searches: Any = Literal[tuple(name for name in METHODS if name != GIVEN)]
    found = {name: hint for name, hint in rules.hints(Config).items() if not dataclasses.is_dataclass(hint)}
    return {**found, "controls": tuple[searches, ...]}


def leaves(config: Config | None = None) -> Iterator[tuple[str, Any]]:
    """The (dotted name, annotated type) of every field of a configuration, tags included, in its order."""
    config = Config() if config is None else config
    plain = plain_hints()
    for field in dataclasses.fields(Config):
        table = getattr(config, field.name)
        if field.name in plain:
            yield field.name, plain[field.name]
            continue
        if isinstance(table, Chosen):
            yield f"{field.name}.{AXES[field.name].tag}", tag_hint(field.name, config.space.name)
            table = table.fields
        yield from ((f"{field.name}.{name}", hint) for name, hint in rules.hints(type(table)).items())


def tree(config: Config) -> dict[str, Any]:
    """The configuration as nested tables, which `from_dict` reads."""

    def value(name: str) -> Any:
        found = getattr(config, name)
        if isinstance(found, Chosen):
            return {AXES[name].tag: found.name, **dataclasses.asdict(found.fields)}
        # An instance: no field holds a class, which mypy cannot know.
        return dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found  # type: ignore[arg-type]

    return {field.name: value(field.name) for field in dataclasses.fields(config)}


def flatten(config: Config) -> dict[str, Any]:
    """The value of every field by its dotted name."""
    found: dict[str, Any] = {}
    for name, value in tree(config).items():
        found |= {f"{name}.{field}": one for field, one in value.items()} if isinstance(value, dict) else {name: value}
    return found
