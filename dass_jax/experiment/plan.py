"""An experiment's TOML file as a list of checked runs.

    title = "…"
    base = "../cifar10_cpu.toml"          the configuration that all runs start from, relative to this file
    [set]                                 fields that differ from it in all runs
    data.limit = 4000
    [axes]                                every combination is a run; the first axis varies slowest
    seed = [0, 1, 2]
    method = ["dass", "darts"]
    [[runs]]                              optional: all combinations again for each of these, with their own values
    name = "Medium"
    network.cells = 12
    [report]                              what is drawn, see `Report`

A field has the name that it has on the command line of a run; a tag has its short name too (`method`, `recipe`).
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from dass_jax import config
from dass_jax.config import AXES, Config
from dass_jax.errors import UserError
from dass_jax.recipes import RECIPES
from dass_jax.schema import Count, CountOrZero, NotNegative, Range, Text

TableName = Literal["methods", "keep", "tests", "seeds", "lookup", "percentiles", "percentile_tests", "drop", "kendall"]
FigureName = Literal[
    "keep", "cost", "learning", "gap", "latency", "parameters", "seeds", "lookup", "percentiles", "kendall", "tsne"
]
OWN = ("controls", "seeds")
"""Fields of a run that an experiment replaces: methods and seeds are axes."""
TAGS = {its.short: f"{axis}.{its.tag}" for axis, its in AXES.items()}
"""Short name of a tag → its dotted name."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The `[report]` table. `kendall` and `tsne` are drawn where they are asked for: they take time of their own."""

    tables: tuple[TableName, ...] = ("methods", "keep", "tests", "seeds", "lookup", "percentiles", "percentile_tests")
    figures: tuple[FigureName, ...] = (
        *("keep", "learning", "gap", "latency", "parameters", "seeds", "lookup", "percentiles"),
    )
    keep: Annotated[float, Range(0, 1)] = 0.0
    """The fraction of kept weights of what shows one only; 0 = the smallest of the experiment."""
    published: Literal["none", "cifar10", "scas_cifar10", "scas_cifar100", "scas_mnist"] = "none"
    """What published figures stand beside ours: `cifar10` are DASS' accuracies; the others are SCAS' reductions, in the
    table `drop`, for networks of the names DARTS, ENAS macro, ENAS micro and SMASH."""
    watts: NotNegative = 0.0
    """Power of the machine under load, for energy and CO2; 0 = not known, no column."""
    grams_per_kwh: NotNegative = 0.0
    """CO2 of the electricity used, in grams for each kWh."""
    country: Annotated[str, Text("a country's code of three letters (ISO 3166), or '' for none", empty=True)] = ""
    """Measure energy and CO2 with the package codecarbon, for the electricity of this country; '' = do not."""
    kendall_images: Count = 100
    """Test images over which `kendall` averages, drawn at random; all if there are fewer."""
    tsne_images: Annotated[int, Range(10, 1_000_000)] = 1000
    """Test images that `tsne` shows, drawn at random; all if there are fewer."""
    tsne_cell: CountOrZero = 0
    """The cell whose features `tsne` shows, counted from 1; 0 = the last."""


@dataclasses.dataclass(frozen=True)
class _File:
    title: Annotated[str, Text("a title", empty=True)] = ""
    base: Annotated[str, Text("the path of a run's TOML file")] = "(missing)"
    # Bare types: what these hold is checked when a run is made of it.
    set: dict = dataclasses.field(default_factory=dict)  # type: ignore[type-arg]
    axes: dict = dataclasses.field(default_factory=dict)  # type: ignore[type-arg]
    runs: list = dataclasses.field(default_factory=list)  # type: ignore[type-arg]
    report: Report = Report()


class Planned(NamedTuple):
    """One run: the name of its folder, what its network is called, and its configuration."""

    name: str
    network: str
    config: Config

    @property
    def keep(self) -> float:
        """The fraction of the weights that the recipe leaves."""
        return self.config.sparsity.keep if RECIPES[self.config.train.name].prunes else 1.0


class Plan(NamedTuple):
    """An experiment: `text` is the file's own, `runs` are in the order in which they are done."""

    title: str
    text: str
    runs: tuple[Planned, ...]
    report: Report


def load(path: pathlib.Path) -> Plan:
    """The plan in a TOML file.

    Raises:
      UserError: if the file or its base cannot be read, or says something not allowed.
    """
    text, data = config.read_toml(path, "experiment")
    try:
        file = config.structured(data, _File)
        runs = apart(tuple(_runs(data.get("base"), file, path.parent)))
        _check(runs, file.report)
    except UserError as error:
        raise UserError(f"experiment file {str(path)!r}: {error}") from error
    return Plan(file.title or path.stem, text, runs, file.report)


def _runs(base: Any, file: _File, folder: pathlib.Path) -> Iterator[Planned]:
    """The runs, each changed from its base, or the file's, by [set], then by its table, then by its place on the axes:
    every step settles tags first, and what it says of other fields holds for the member that it chooses."""
    axes = {name: _axis(name, values) for name, values in _dotted(file.axes).items()}
    for table in file.runs or [{}]:
        if not isinstance(table, Mapping):
            raise UserError(f"runs = {config.short(table)}; allowed: a table [[runs]] for each")
        label = table.get("name", "")
        if not isinstance(label, str) or not label.isprintable():
            raise UserError(f"runs.name = {config.short(label)}; allowed: what the tables call the network")
        own = _dotted({key: value for key, value in table.items() if key not in ("name", "base")})
        start = _base(table.get("base", base), folder)
        changed = _step(_step(start, _dotted(file.set), "set", folder), own, "runs", folder)
        free = {name: values for name, values in axes.items() if name not in own}
        for values in itertools.product(*free.values()):
            found = _step(changed, dict(zip(free, values, strict=True)), "axes", folder)
            run = config.check(dataclasses.replace(found, seeds=1))
            yield Planned(_name(label, run), label or _network(run), run)


def _base(name: Any, folder: pathlib.Path) -> Config:
    if not isinstance(name, str):
        found = "base is missing" if name is None else f"runs.base = {config.short(name)}"
        raise UserError(f"{found}; allowed: base = FILE, the TOML file of a run, relative to this one")
    return config.load(folder / name)


def _dotted(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as dotted name → value; a tag by its full name, as `method.name`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _dotted(value, f"{before}{key}.")
        else:
            found[TAGS.get(before + key, before + key)] = value
    return found


def _step(start: Config, fields: Mapping[str, Any], place: str, folder: pathlib.Path) -> Config:
    """`config.changed` by fields that have dotted names; a run has no controls, whatever the base has."""
    for name in fields:
        _check_own(name, place)
    return config.changed(start, config.nested({"controls": [], **fields}), f"{place}.", folder)


def _check_own(name: str, place: str) -> None:
    if name in OWN:
        raise UserError(f"{place}.{name}: a run of an experiment has one method and one seed; allowed: as [axes]")


def _axis(name: str, values: Any) -> list[Any]:
    _check_own(name, "axes")
    if not isinstance(values, list) or not values or len({repr(value) for value in values}) < len(values):
        raise UserError(f"axes.{name} = {config.short(values)}; allowed: a list of different values")
    return values


def _name(label: str, run: Config) -> str:
    """Of the folder: readable and, by the digest, of this configuration alone."""
    slug = "".join(letter if letter.isalnum() else "_" for letter in label)
    parts = [*([slug] if slug else []), run.method.name, f"keep{run.sparsity.keep:g}", f"seed{run.seed}"]
    return "-".join([*parts, config.digest(run)])


def _network(run: Config) -> str:
    """The network's sizes ("20 cells, 36 channels"), or its name if it has none."""
    sizes = [f"{value} {name}" for name, value in vars(run.network.fields).items() if type(value) is int]
    return ", ".join(sizes) or run.network.name


def apart(runs: tuple[Planned, ...]) -> tuple[Planned, ...]:
    """The runs, in whose networks' names stands what tells them from others that would be averaged with them: an
    average is over seeds, and over nothing else. Each seed may have an architecture of its own, as after a search."""
    fields = [config.flatten(run.config) for run in runs]
    averaged: dict[Any, list[dict[str, Any]]] = {}
    for run, own in zip(runs, fields, strict=True):
        averaged.setdefault((run.network, run.config.method.name, run.keep), []).append(own)
    names = dict.fromkeys(name for own in fields for name in own if name != "seed")
    differing = [name for name in names if any(_differs(name, group) for group in averaged.values())]
    return tuple(
        run._replace(network=", ".join([run.network, *_told(own, differing)]))
        for run, own in zip(runs, fields, strict=True)
    )


def _differs(name: str, group: list[dict[str, Any]]) -> bool:
    """Whether a field differs between runs that would be averaged; architectures, between those of one seed."""
    of_one = [own["seed"] if name == "architecture" else None for own in group]
    found = {(seed, repr(own.get(name))) for seed, own in zip(of_one, group, strict=True)}
    return len(found) > len(set(of_one))


def _told(fields: dict[str, Any], differing: list[str]) -> Iterator[str]:
    for name in differing:
        value = fields.get(name)
        if isinstance(value, str):
            yield pathlib.PurePath(value).name if name.startswith("data.") else value or f"no {name}"
        elif value is not None:
            yield f"{name.rpartition('.')[2].replace('_', ' ')} {value}"


def _check(runs: tuple[Planned, ...], report: Report) -> None:
    digests = [config.digest(run.config) for run in runs]
    for index, digest in enumerate(digests):
        if digest in digests[:index]:
            raise UserError(f"runs: {runs[index].name} is there twice; allowed: runs that differ in what they compute")
    if bool(report.watts) != bool(report.grams_per_kwh):
        raise UserError(
            f"report.watts = {report.watts:g} and report.grams_per_kwh = {report.grams_per_kwh:g}; "
            "allowed: both, or none of them"
        )
    if report.country and report.watts:
        raise UserError(
            f"report.country = {report.country!r} and report.watts = {report.watts:g}; allowed: one of them, as CO2 "
            "is measured or reckoned"
        )
    cells = [getattr(run.config.network.fields, "cells", None) for run in runs]
    fewest = min((number for number in cells if number is not None), default=0)
    if report.tsne_cell > fewest:
        raise UserError(
            f"report.tsne_cell = {report.tsne_cell}; allowed: 0 (the last) to {fewest}, the cells of the smallest "
            "network"
        )
    if report.keep and report.keep not in {run.keep for run in runs}:
        raise UserError(f"report.keep = {report.keep:g}; allowed: a fraction that a run of the experiment keeps, or 0")
