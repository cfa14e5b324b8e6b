"""Reads, checks, writes and compares configurations: TOML text ⇄ `dass_jax.config.Config`.

One check serves every way in: the rule of a field (its type, and the range in its annotation) is turned into a
structure hook, and cattrs walks the schema. It is strict: no text for a number, no 5.7 for an integer, no true for 1.
"""

import dataclasses
import hashlib
import math
import pathlib
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import cattrs
import cattrs.gen
import tomli_w

from dass_jax.architectures import darts as genotype
from dass_jax.config import (
    HYPERGRADIENT_ARGUMENTS,
    LARGEST_SEED,
    Config,
    Hypergradient,
    Range,
    Text,
    title,
    usual_controls,
)
from dass_jax.errors import UserError, nearest

_HOW = {name: getattr(Config.runtime, name) for name in ("call_seconds", "checkpoint_minutes", "nonfinite")}

NOT_IN_RESULT = frozenset(
    f"runtime.{name}" for name in ("checkpoints_to_keep", "memory_check", "compilation_cache", *_HOW)
)
"""Fields that cannot change a run's numbers (`nonfinite` those of a run that has stopped, as they are): left out of
`digest` and `differences`."""

LATER = {
    "seeds": 1,
    "genotype": "",
    "network.name": "cells",
    "network.width": 1.0,
    "parallel.axis": "batch",
    **{f"runtime.{name}": value for name, value in _HOW.items()},
}
"""Fields that came later: where they have these values, folders keep the names that they had before."""

_KINDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a table",
    list: "a list of tables",
}
T = TypeVar("T")


class Refused(ValueError):
    """A value that a field's rule refuses; the field's name is added by whoever knows it."""

    def __init__(self, value: Any, allowed: str):
        super().__init__(f"{short(value)}; allowed: {allowed}")


def short(value: Any) -> str:
    """`repr(value)`, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def split_hint(hint: Any) -> tuple[Any, Range | Text | None]:
    """A field's type without its annotation, and the rule in the annotation."""
    if get_origin(hint) is Annotated:
        base, rule = get_args(hint)
        return base, rule
    return hint, None


def leaves(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted name, annotated type) of every field that is not a section, in the schema's order."""
    for name, hint in get_type_hints(schema, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            # is_dataclass narrows to "instance or class" for mypy; a type hint is the class.
            yield from leaves(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name, hint


def allowed(hint: Any) -> str:
    """What a field of type `hint` takes, in words: "a number in (0, 1]"."""
    base, rule = split_hint(hint)
    if get_origin(base) is Literal:
        return ", ".join(map(repr, get_args(base)))
    if get_origin(base) is tuple:
        return f"a list of {allowed(get_args(base)[0])}"
    if isinstance(rule, Text):
        return str(rule)
    return _KINDS[base] if rule is None else f"{_KINDS[base]} {rule}"


def conform(hint: Any, value: Any) -> Any:
    """`value` as the field's type; an integer becomes a float, a list a tuple, and nothing else is converted.

    Raises:
      Refused: if the type or the range of the annotated type `hint` does not hold.
    """
    base, rule = split_hint(hint)
    if get_origin(base) is tuple and isinstance(value, (list, tuple)):
        return tuple(conform(get_args(base)[0], item) for item in value)
    if get_origin(base) is Literal:
        fits = isinstance(value, str) and value in get_args(base)
    elif base is float:
        # Beyond 2^1023 an integer has no float; a float is refused when it is not finite.
        fits = type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)
    else:
        fits = type(value) is base
    if not fits or (rule is not None and value not in rule):
        raise Refused(value, allowed(hint))
    return float(value) if base is float else value


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

    def section(schema: Any) -> Any:
        read = cattrs.gen.make_dict_structure_fn(schema, converter, _cattrs_forbid_extra_keys=True)

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, Mapping):
                raise Refused(value, "a table")
            return read(value, kind)

        return structure

    converter.register_structure_hook_factory(
        lambda hint: not dataclasses.is_dataclass(hint), lambda hint: lambda value, _: conform(hint, value)
    )
    for plain in _KINDS:  # cattrs' own, lenient hooks for plain types would go before those of the factory
        converter.register_structure_hook(plain, lambda value, kind: conform(kind, value))
    converter.register_structure_hook_factory(dataclasses.is_dataclass, section)
    return converter


def from_dict(data: Mapping[str, Any]) -> Config:
    """A checked configuration from nested tables; a field that is left out has its default, or what others imply.

    Raises:
      UserError: for the first unknown name, wrong type, value out of range, or contradiction between fields.
    """
    config = implied(structured(data, Config), "method" in data, "controls" in data)
    if config.genotype:
        config = dataclasses.replace(config, genotype=genotype.to_text(genotype.load(config.genotype)))
    _check_methods(config)
    _check_together(config)
    return config


def implied(config: Config, method_given: bool, controls_given: bool) -> Config:
    """The configuration with what `genotype` and `network.name` say of the method, and the method of the controls."""
    if not method_given and (config.genotype or config.network.name != "cells"):
        config = dataclasses.replace(config, method="given")
    return config if controls_given else dataclasses.replace(config, controls=usual_controls(config))


def structured(data: Mapping[str, Any], schema: type[T]) -> T:
    """Nested tables as an instance of a schema (a frozen dataclass whose fields have defaults), each field checked.

    Raises:
      UserError: for the first unknown name, wrong type or value out of range.
    """
    try:
        return _converter().structure(data, schema)
    except cattrs.BaseValidationError as error:
        raise UserError(_first_fault(error, "")) from error


def _first_fault(error: BaseException, path: str) -> str:
    """The line for the first leaf of cattrs' tree of errors; its notes hold the name at each level."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        name = min(error.extra_fields)
        return f"unknown key {short(path + name)}{nearest(name, known)}; allowed: {', '.join(known)}"
    if not isinstance(error, cattrs.BaseValidationError):
        return f"{path.rstrip('.')} = {error}"
    inner = error.exceptions[0]
    names = [note.name for note in getattr(inner, "__notes__", ()) if isinstance(note, cattrs.AttributeValidationNote)]
    return _first_fault(inner, "".join([path, *(f"{name}." for name in names)]))


def _check_methods(config: Config) -> None:
    """Raises UserError if the fields that say what is trained contradict each other."""
    network, main = config.network, title(config)
    method, given = f"method = {config.method!r}", f"genotype = {short(config.genotype)}"
    if network.name == "cells":
        if config.method == "given" and not config.genotype:
            raise UserError(f"{method} without a genotype; allowed: genotype = NAME_OR_FILE, or another network.name")
        if config.method != "given" and config.genotype:
            raise UserError(f"{given} with {method}; allowed: method = 'given', or genotype = ''")
        if network.width != Config.network.width:
            raise UserError(f"network.width = {network.width} with 'cells'; allowed: network.channels sets theirs")
    else:
        other = f"network.name = {network.name!r}"
        if config.method != "given":
            raise UserError(f"{other} with {method}; allowed: method = 'given', as nothing is searched for it")
        for text, wrong in (
            (given, config.genotype),
            (f"controls = {list(config.controls)}", config.controls),
            ("network.stem = 'imagenet'", network.stem == "imagenet"),
        ):
            if wrong:
                raise UserError(f"{text} with {other}; allowed: with network.name = 'cells'")
    if main in config.controls or len(set(config.controls)) < len(config.controls):
        raise UserError(
            f"controls = {list(config.controls)}; allowed: different methods, none of them the main one, "
            f"{'method' if config.method == main else 'genotype'} = {main!r}"
        )


def _check_together(config: Config) -> None:
    """Raises UserError for what no single field can tell."""
    if config.seed + config.seeds > LARGEST_SEED + 1:
        raise UserError(
            f"seeds = {config.seeds} with seed = {config.seed}; allowed: seeds up to {LARGEST_SEED}, and the last one "
            f"would be {config.seed + config.seeds - 1}"
        )
    data = config.data
    if data.crop_scale and not (data.streaming and data.image_size and data.crop_padding == 0):
        raise UserError(
            f"data.crop_scale = {data.crop_scale} with data.streaming = {str(data.streaming).lower()}, data.image_size "
            f"= {data.image_size}, data.crop_padding = {data.crop_padding}; allowed: with true, a size, and 0"
        )
    if data.streaming and config.runtime.epochs_per_call > 1:
        raise UserError(
            f"runtime.epochs_per_call = {config.runtime.epochs_per_call} with data.streaming = true, which takes an "
            "epoch in parts; allowed: 1"
        )
    if config.search.stop_at_skips and config.seeds > 1:
        raise UserError(
            f"search.stop_at_skips = {config.search.stop_at_skips} with seeds = {config.seeds}, which search in step; "
            "allowed: 0, or runs of one seed"
        )
    estimator = config.search.hypergradient
    for field in dataclasses.fields(Hypergradient):
        takers = [name for name, arguments in HYPERGRADIENT_ARGUMENTS.items() if field.name in arguments]
        value = getattr(config.hypergradient, field.name)
        if takers and estimator not in takers and value != field.default:
            raise UserError(
                f"hypergradient.{field.name} = {value} with search.hypergradient = {estimator!r}, which has no use "
                f"for it; allowed: with {' or '.join(map(repr, takers))}"
            )
    for name, part in (("search", config.search), ("network", config.network)):
        if part.stem == "imagenet" and part.channels % 2:
            raise UserError(
                f"{name}.channels = {part.channels}; allowed: an even number, as {name}.stem = 'imagenet' halves it"
            )


def load(path: str | pathlib.Path) -> Config:
    """The configuration in a TOML file.

    Raises:
      UserError: if the file cannot be read, is not TOML (with the line number) or says something not allowed.
    """
    _, data = read_toml(path, "config")
    try:
        return from_dict(data)
    except UserError as error:
        raise UserError(f"config file {str(path)!r}: {error}") from error


def read_toml(path: str | pathlib.Path, kind: str) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and its tables; `kind` (config, experiment) is what messages call it.

    Raises:
      UserError: if the file cannot be read or is not TOML (with the line number).
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{kind} file {str(path)!r} cannot be read: {error.strerror}; allowed: a TOML file") from error
    except ValueError as error:
        raise UserError(f"{kind} file {str(path)!r} is not TOML: {error}; allowed: TOML in UTF-8") from error


def validated(config: Config) -> Config:
    """The same configuration, checked as if it were read from a file. Raises UserError."""
    return from_dict(dataclasses.asdict(config))


def flatten(config: Config) -> dict[str, Any]:
    """The value of every field by its dotted name."""

    def value(name: str) -> Any:
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        return found

    return {name: value(name) for name, _ in leaves()}


def to_toml(config: Config) -> str:
    """TOML text with every field; `load` of it gives an equal configuration."""
    return tomli_w.dumps(dataclasses.asdict(config))


def digest(config: Config) -> str:
    """8 hexadecimal digits that name the run's result: equal exactly if `differences` is empty (but for collisions)."""
    default = Config().runtime
    kept = {name.removeprefix("runtime."): getattr(default, name.removeprefix("runtime.")) for name in NOT_IN_RESULT}
    result = dataclasses.asdict(dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, **kept)))
    for name, value in LATER.items():
        section, _, field = name.rpartition(".")
        table = result[section] if section else result
        if table[field] == value:
            del table[field]
        if not table:
            del result[section]
    return hashlib.sha256(tomli_w.dumps(result).encode()).hexdigest()[:8]


def differences(folder: Config, asked: Config) -> list[str]:
    """One line for each field that differs: "search.epochs: 50 in the folder, 5 asked for"."""
    there, here = flatten(folder), flatten(asked)
    return [
        f"{name}: {short(there[name])} in the folder, {short(here[name])} asked for"
        for name in there
        if name not in NOT_IN_RESULT and there[name] != here[name]
    ]
