"""Checked access to decoded JSON: every fault is a `UserError` that names the file, the field and what is allowed."""

import math
import numbers
from typing import Any

from dass_jax.errors import UserError


def section(data: Any, origin: str) -> dict[str, Any]:
    """`data`, which must be an object."""
    if not isinstance(data, dict):
        raise UserError(f"{origin} = {short(data)}; allowed: an object")
    return data


def field(data: dict[str, Any], key: str, origin: str) -> Any:
    """`data[key]`, which must be there."""
    if key not in data:
        raise UserError(f"{origin}: {key} is missing; present: {', '.join(data) or 'nothing'}")
    return data[key]


def number(data: dict[str, Any], key: str, origin: str) -> float:
    """`data[key]` as a float; null and ±∞ become NaN, which every table shows as a dash and every curve as a gap."""
    return as_number(field(data, key, origin), f"{origin}: {key}")


def as_number(value: Any, place: str) -> float:
    """`value` as a float; null and ±∞ become NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UserError(f"{place} = {short(value)}; allowed: a number or null")
    try:
        result = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.nan
    return result if math.isfinite(result) else math.nan


def count(data: dict[str, Any], key: str, origin: str) -> int:
    """`data[key]`, which must be a whole number, 1 or more."""
    value = field(data, key, origin)
    if type(value) is not int or value < 1:
        raise UserError(f"{origin}: {key} = {short(value)}; allowed: a whole number from 1")
    return value


def seed(data: dict[str, Any], origin: str) -> int:
    """`data["seed"]`, which must be a whole number, 0 or more."""
    value = field(data, "seed", origin)
    if type(value) is not int or value < 0:
        raise UserError(f"{origin}: seed = {short(value)}; allowed: a whole number from 0")
    return value


def name(data: dict[str, Any], key: str, origin: str) -> str:
    """`data[key]`, which must be a string that is not empty."""
    value = field(data, key, origin)
    if not isinstance(value, str) or not value:
        raise UserError(f"{origin}: {key} = {short(value)}; allowed: a name")
    return value


def text(data: dict[str, Any], key: str, origin: str, otherwise: str = "") -> str:
    """`data[key]`, which must be a string; `otherwise` if it is not there."""
    value = data.get(key, otherwise)
    if not isinstance(value, str):
        raise UserError(f"{origin}: {key} = {short(value)}; allowed: a text")
    return value


def listed(value: Any, place: str) -> list[Any]:
    """`value`, which must be a list."""
    if not isinstance(value, list):
        raise UserError(f"{place} = {short(value)}; allowed: a list")
    return value


def texts(value: Any, place: str) -> tuple[str, ...]:
    """`value`, which must be a list of strings."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UserError(f"{place} = {short(value)}; allowed: a list of texts")
    return tuple(value)


def pairs(value: Any, place: str) -> tuple[tuple[int, int], ...]:
    """`value`, which must be a list of pairs of whole numbers, 0 or more."""
    allowed = "allowed: a list of pairs of whole numbers from 0"
    if not isinstance(value, list):
        raise UserError(f"{place} = {short(value)}; {allowed}")
    for pair in value:
        if not isinstance(pair, list) or [type(each) for each in pair] != [int, int] or min(pair) < 0:
            raise UserError(f"{place}: {short(pair)}; {allowed}")
    return tuple((first, second) for first, second in value)


def short(value: Any) -> str:
    """`repr(value)` cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
