"""The words in which configurations are declared: a frozen dataclass for each table, whose annotations are the rules.

A range stands once, next to the field's type, and holds for TOML files and for the command line alike (`config` checks
it). The docstring of a field is its text in `--help`. A member of an axis (a space, a method, …) declares its own
table in its own file.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Annotated

from dass_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both allowed unless marked open; None means no bound on that side."""

    low: float
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below

    def __str__(self) -> str:
        if self.high is None:
            return f"greater than {self.low}" if self.open_low else f"of at least {self.low}"
        return f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"


@dataclasses.dataclass(frozen=True)
class Text:
    """Printable text; empty only if `empty`. `meaning` completes "allowed: …"."""

    meaning: str
    empty: bool = False

    def __contains__(self, value: str) -> bool:
        return value.isprintable() and (self.empty or bool(value.strip()))

    def __str__(self) -> str:
        return self.meaning


Count = Annotated[int, Range(1, 1_000_000)]
CountOrZero = Annotated[int, Range(0, 1_000_000)]
Rate = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 1, open_high=True)]


def check_arguments(given: argparse.Namespace, rules: Mapping[str, Range]) -> None:
    """Raises UserError if an argument that a command was given breaks its rule."""
    for name, rule in rules.items():
        value = getattr(given, name)
        if value is not None and value not in rule:
            raise UserError(f"--{name.replace('_', '-')} = {value}; allowed: a number {rule}")


@dataclasses.dataclass(frozen=True)
class Empty:
    """A table without fields of its own."""
