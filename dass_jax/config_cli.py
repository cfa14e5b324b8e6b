"""The command line of a run: `--config FILE [--workdir DIR] [--search.epochs 5 …]`.

tyro parses the overrides and writes `--help`. Its own error boxes run over many lines, so the flags are checked
against the schema first; whatever is left for tyro to refuse is caught and put on one line.
"""

import contextlib
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import tyro

from dass_jax import config_io
from dass_jax.config import Config, Text, usual_controls
from dass_jax.errors import UserError, nearest


class Invocation(NamedTuple):
    """What a command line asks for."""

    config: Config
    path: pathlib.Path
    """The file of `--config`."""
    workdir: pathlib.Path | None
    """The folder of `--workdir`, None if not given."""


@dataclasses.dataclass(frozen=True)
class _CommandLine:
    config: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(required)")]
    """TOML file of the run; every option below that is not given has its value there."""
    workdir: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: named after the config)")]
    """Folder of the run: its checkpoints, numbers and networks. The same command in the same folder goes on."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


def parse(argv: Sequence[str], prog: str) -> Invocation:
    """The configuration of the arguments `argv` (without the program's name), overrides applied and checked.

    Raises:
      UserError: for an unknown flag, a missing or wrong value, or a wrong file.
      SystemExit: with code 0, after `--help` is printed.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        _run_tyro(["--help"], prog, _settings_for_help(argv))
    given = list(_flags_given(argv))
    files = [values[0] for flag, values in given if flag == "--config"]
    if not files:
        raise UserError("--config is missing; allowed: --config FILE, the TOML file of the run")
    settings = config_io.load(files[-1])
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            line = _run_tyro(argv, prog, settings)
    except SystemExit as error:
        raise UserError(f"command line refused: {_flat(output.getvalue())}; allowed: see --help") from error
    flags = {flag for flag, _ in given}
    # What was usual for the file's own run is replaced by what is usual for the one that is asked for.
    controls_given = "--controls" in flags or settings.controls != usual_controls(settings)
    # A file's method gives way to a cell or a network that the command line asks for.
    method_given = "--method" in flags or not {"--genotype", "--network.name"} & flags
    config = config_io.validated(config_io.implied(line.settings, method_given, controls_given))
    return Invocation(config, pathlib.Path(line.config), pathlib.Path(line.workdir) if line.workdir else None)


def _run_tyro(argv: Sequence[str], prog: str, settings: Config) -> _CommandLine:
    default = _CommandLine(config="", workdir="", settings=settings)
    return tyro.cli(_CommandLine, args=list(argv), prog=prog, default=default, description=_ABOUT)


_ABOUT = "Runs what a TOML file says; each option overrides one field of it."


def _settings_for_help(argv: Sequence[str]) -> Config:
    """The file's values when a file is named, the schema's defaults when not."""
    for index, token in enumerate(argv):
        flag, equals, value = token.partition("=")
        value = value if equals else next(iter(argv[index + 1 : index + 2]), "")
        if flag == "--config" and value and _is_value(value):
            return config_io.load(value)
    return Config()


def _flag_table() -> dict[str, tuple[str, Any]]:
    """Every flag with its field's dotted name and annotated type."""
    table: dict[str, tuple[str, Any]] = {
        "--config": ("--config", Annotated[str, Text("the path of a TOML file")]),
        "--workdir": ("--workdir", Annotated[str, Text("the path of a folder")]),
    }
    for name, hint in config_io.leaves():
        dashed = name.replace("_", "-")
        table[f"--{dashed}"] = (name, hint)
        if hint is bool:
            section, _, last = dashed.rpartition(".")
            table[f"--{section}.no-{last}"] = (name, hint)
    return table


def _flags_given(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The (flag, values) pairs of a command line, each checked. Raises UserError."""
    table = _flag_table()
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            raise UserError(f"unexpected argument {config_io.short(token)}; allowed: --flag VALUE, see --help")
        flag, equals, value = token.partition("=")
        flag = flag.replace("_", "-")
        if flag not in table:
            raise UserError(f"unknown flag {config_io.short(flag)}{nearest(flag, table)}; allowed: see --help")
        name, hint = table[flag]
        values = [value] if equals else []
        while not equals and rest and _is_value(rest[0]) and (not values or _takes_several(hint)):
            values.append(rest.pop(0))
        _check_values(flag, name, hint, values)
        yield flag, values


def _is_value(token: str) -> bool:
    """Whether a token is a value and not a flag: a leading minus sign only before a number."""
    return not token.startswith("-") or not isinstance(_number_or_text(float, token), str)


def _takes_several(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _check_values(flag: str, name: str, hint: Any, values: list[str]) -> None:
    """Raises UserError if the flag of field `name` cannot take `values`."""
    if hint is bool:
        if values:
            raise UserError(f"{flag} = {config_io.short(values[0])}; allowed: the flag alone (--no-… for false)")
        return
    if not values and not _takes_several(hint):
        raise UserError(f"{flag}: no value given; allowed: {config_io.allowed(hint)}")
    item = get_args(hint)[0] if _takes_several(hint) else hint
    base, _ = config_io.split_hint(item)
    for text in values:
        try:
            config_io.conform(item, _number_or_text(base, text))
        except config_io.Refused as error:
            raise UserError(f"{name} = {error}") from error


def _number_or_text(base: Any, text: str) -> Any:
    """The number that `text` writes when `base` is a number's type; else the text itself, for `conform` to judge."""
    if base not in (int, float):
        return text
    try:
        return base(text)
    except ValueError:
        return text


def _flat(box: str) -> str:
    """tyro's error box as one line: colours, frame and repeated blanks removed."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[─-╿]", " ", box).split())
