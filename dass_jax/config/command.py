"""The command line of a run: `--config NAME_OR_FILE [--workdir DIR] [--method NAME] [--method.epochs 5 …]`.

Tags are settled first: they say which fields there are. The values of these are then read by the same rules as a
file's. tyro writes `--help`.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import tyro

from dass_jax.config import files, manual, old, rules
from dass_jax.config.axes import AXES, Chosen, tag_hint
from dass_jax.config.changes import changed, elsewhere
from dass_jax.config.checks import check
from dass_jax.config.run import Config, leaves, plain_hints
from dass_jax.config.shipped import find
from dass_jax.errors import UserError, nearest, show
from dass_jax.schema import Text


class Invocation(NamedTuple):
    """What a command line asks for."""

    config: Config
    path: pathlib.Path
    """The file of `--config`."""
    workdir: pathlib.Path | None
    """The folder of `--workdir`, None if not given."""


@dataclasses.dataclass(frozen=True)
class _CommandLine:
    config: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(required)")] = ""
    """TOML file of the run, or the name of a shipped one; every option below that is not given has its value there."""
    workdir: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: named after the config)")] = ""
    """Folder of the run: its checkpoints, numbers and networks. The same command in the same folder resumes."""


OWN = {
    "--config": Annotated[str, Text("the path of a TOML file, or the name of a shipped one")],
    "--workdir": Annotated[str, Text("the path of a folder")],
}
TAGS = {f"--{flag}": f"{axis}.{its.tag}" for axis, its in AXES.items() for flag in (its.short, f"{axis}.{its.tag}")}
SETTLED = {"--plugins": "plugins", "--architecture": "architecture", **TAGS}
"""Flag → the dotted name of what says which other fields there are."""


def parse(argv: Sequence[str], prog: str) -> Invocation:
    """The configuration of the arguments `argv` (without the program's name), overrides applied and checked.

    Raises:
      UserError: for an unknown flag, a missing or wrong value, or a wrong file.
      SystemExit: with code 0, after `--help` or `--help-all` is printed.
    """
    scanned = _scanned(argv)
    path = next(map(find, scanned.get("--config", [])), None)
    base = files.load(path) if path else Config()
    tags = {SETTLED[flag]: values for flag, values in scanned.items() if flag in SETTLED}
    settled = changed(base, rules.nested({name: _settled(name, values) for name, values in tags.items() if values}))
    if not {"-h", "--help", "--help-all"}.isdisjoint(argv):
        _help(prog, settled, everything="--help-all" in argv)
    given = dict(_values(argv, settled))
    workdir = given.pop("--workdir", None)
    if given.pop("--config", None) is None:
        raise UserError("--config is missing; allowed: --config NAME_OR_FILE, the TOML file of the run")
    assert path is not None
    return Invocation(check(changed(base, rules.nested(given))), path, workdir and pathlib.Path(workdir))


def _help(prog: str, settled: Config, everything: bool) -> None:
    """Prints the fields of a configuration. Raises SystemExit."""
    settings = _settings(settled)
    added = [("settings", Annotated[type(settings), tyro.conf.arg(name="")], settings)]
    schema = dataclasses.make_dataclass("CommandLine", added, bases=(_CommandLine,), frozen=True)
    about = "Runs what a TOML file says; each option overrides one field of it. --help-all has all members' fields."
    try:
        tyro.cli(schema, args=["--help"], prog=prog, default=schema(), description=about)
    finally:  # tyro ends with SystemExit
        if everything:
            show(manual.others(settled))


def _settings(config: Config) -> Any:
    """A configuration whose tables have the tag beside the member's fields, as in TOML; its type is made of the
    declared ones, where tyro finds their docstrings."""
    now = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    chosen = {axis: _flat_table(axis, config) for axis, value in now.items() if isinstance(value, Chosen)}
    types = [*((axis, type(table)) for axis, table in chosen.items()), ("controls", plain_hints()["controls"])]
    schema = dataclasses.make_dataclass(
        "Settings", [(name, hint, Config.controls) for name, hint in types], bases=(Config,), frozen=True
    )
    return schema(**{**now, **chosen})


def _flat_table(axis: str, config: Config) -> Any:
    chosen, its = getattr(config, axis), AXES[axis]
    hint = tyro.conf.arg(aliases=(f"--{its.short}",), help=its.help)
    tag = dataclasses.make_dataclass(
        "Tag", [(its.tag, Annotated[tag_hint(axis, config.space.name), hint], chosen.name)], frozen=True
    )
    schema = type(chosen.fields)
    flat = dataclasses.make_dataclass(
        axis, [], bases=(schema, tag), frozen=True, namespace={"__doc__": schema.__doc__, "__module__": __name__}
    )
    fields = {field.name: getattr(chosen.fields, field.name) for field in dataclasses.fields(schema)}
    return flat(**{its.tag: chosen.name, **fields})


def _scanned(argv: Sequence[str]) -> dict[str, list[str]]:
    """The values after each flag, unchecked; of a flag that is given twice the last ones."""
    found: dict[str, list[str]] = {}
    flag = ""
    for token in argv:
        if _is_value(token):
            found.get(flag, []).append(token)
            continue
        flag, equals, value = token.partition("=")
        flag = flag.replace("_", "-")
        found.pop(flag, None)
        found[flag] = [value] if equals else []
    return found


def _settled(name: str, values: list[str]) -> Any:
    return tuple(values) if name == "plugins" else values[0]


def _flags(config: Config) -> dict[str, tuple[str, Any]]:
    """Every flag with its field's dotted name and annotated type."""
    table: dict[str, tuple[str, Any]] = {flag: (flag, hint) for flag, hint in OWN.items()}
    for name, hint in leaves(config):
        dashed = name.replace("_", "-")
        table[f"--{dashed}"] = (name, hint)
        if hint is bool:
            section, _, last = dashed.rpartition(".")
            table[f"--{section}.no-{last}"] = (name, hint)
    return {**table, **{flag: table[f"--{name}"] for flag, name in TAGS.items()}}


def _values(argv: Sequence[str], config: Config) -> Iterator[tuple[str, Any]]:
    """The (dotted name, value) pairs of the arguments, each checked but for those of `SETTLED`. Raises UserError."""
    table = _flags(config)
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {rules.short(token)}; allowed: --flag VALUE, see --help")
        flag, equals, value = token.partition("=")
        flag = flag.replace("_", "-")
        if flag not in table:
            raise UserError(_unknown(flag, table, config))
        name, hint = table[flag]
        several = get_origin(hint) is tuple
        values = [value] if equals else []
        while not equals and rest and _is_value(rest[0]) and (not values or several):
            values.append(rest.pop(0))
        if hint is bool:
            if values:
                raise UserError(f"{flag} = {rules.short(values[0])}; allowed: the flag alone (--no-… for false)")
            yield name, flag == f"--{name.replace('_', '-')}"
            continue
        if not values and not several:
            raise UserError(f"{flag}: no value given; allowed: {rules.allowed(hint)}")
        item = get_args(hint)[0] if several else hint
        if flag not in SETTLED:
            values = [rules.conformed(name, item, _number_or_text(rules.split_hint(item)[0], text)) for text in values]
        yield name, tuple(values) if several else values[0]


def _unknown(flag: str, known: Iterable[str], config: Config) -> str:
    """What is said of a flag that there is not."""
    name = flag.removeprefix("--").replace("-", "_").replace(".no_", ".")
    if name in old.KEYS:
        place = old.KEYS[name]
        return f"unknown flag {rules.short(flag)}; allowed: in its place {place if ' ' in place else '--' + place}"
    axis, _, field = name.partition(".")
    others = elsewhere(axis, field, config.space.name) if axis in AXES else ""
    return f"unknown flag {rules.short(flag)}{others}{nearest(flag, known)}; allowed: see --help"


def _is_value(token: str) -> bool:
    """Whether a token is a value and not a flag: a leading minus sign only before a number."""
    return not token.startswith("-") or not isinstance(_number_or_text(float, token), str)


def _number_or_text(base: Any, text: str) -> Any:
    """The number that `text` writes when `base` is a number's type; else the text itself, for `conform` to judge."""
    if base not in (int, float):
        return text
    try:
        return base(text)
    except ValueError:
        return text
