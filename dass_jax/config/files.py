"""Configurations as TOML text: read, checked, written, named and compared."""

import hashlib
import json
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

from dass_jax.config.changes import changed
from dass_jax.config.checks import check
from dass_jax.config.rules import short
from dass_jax.config.run import Config, flatten, tree
from dass_jax.errors import UserError, odd_space

NOT_IN_RESULT = frozenset(
    f"runtime.{name}"
    for name in (
        *("call_seconds", "checkpoint_minutes", "checkpoints_to_keep", "compilation_cache", "memory_check"),
        "nonfinite",
    )
) | {"plugins", "data.accept_changed"}
"""Fields that cannot change a run's numbers (`nonfinite` those of a run that has stopped, as they are; `plugins` says
where things are, not which are taken; changed data are recorded by themselves): left out of `digest` and
`differences`."""


def from_dict(data: Mapping[str, Any], folder: pathlib.Path | None = None) -> Config:
    """A checked configuration from nested tables; a field that is left out has its default, or what others imply.

    Args:
      folder: where the paths of plugins start; None: the working folder.

    Raises:
      UserError: for the first unknown name, wrong type, value out of range, or contradiction between fields.
    """
    return check(changed(Config(), data, folder=folder, fresh=True))


def load(path: str | pathlib.Path) -> Config:
    """The configuration in a TOML file.

    Raises:
      UserError: if the file cannot be read, is not TOML (with the line number) or says something not allowed.
    """
    _, data = read_toml(path, "config")
    try:
        return from_dict(data, pathlib.Path(path).parent)
    except UserError as error:
        raise UserError(f"config file {str(path)!r}: {error}") from error


def read_toml(path: str | pathlib.Path, kind: str) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and its tables; `kind` (config, experiment) is what messages call it.

    Raises:
      UserError: if the file cannot be read or is not TOML (with the line number).
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")  # some editors mark the order of the bytes
        return text, tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{kind} file {str(path)!r} cannot be read: {error.strerror}; allowed: a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        said = f"{error}{odd_space(text)}"
        raise UserError(f"{kind} file {str(path)!r} is not TOML: {said}; allowed: TOML in UTF-8") from error
    except ValueError as error:
        raise UserError(f"{kind} file {str(path)!r} is not TOML: {error}; allowed: TOML in UTF-8") from error


def validated(config: Config) -> Config:
    """The same configuration, checked as if it were read from a file. Raises UserError."""
    return from_dict(tree(config))


def to_toml(config: Config) -> str:
    """TOML text with every field; `load` of it gives an equal configuration."""
    return tomli_w.dumps(tree(config))


def digest(config: Config) -> str:
    """8 hexadecimal digits that name the run's result: equal exactly if `differences` is empty (but for collisions)."""
    fields = [(name, value) for name, value in flatten(config).items() if name not in NOT_IN_RESULT]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]


def differences(folder: Config, asked: Config) -> list[str]:
    """One line for each field that differs: "data.limit: 50 in the folder, 5 asked for". Fields that only one of two
    members has are not told: the members are."""
    there, here = flatten(folder), flatten(asked)
    return [
        f"{name}: {short(there[name])} in the folder, {short(here[name])} asked for"
        for name in there
        if name in here and name not in NOT_IN_RESULT and there[name] != here[name]
    ]
