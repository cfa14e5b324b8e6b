"""The rules of fields: nested tables as an instance of a schema, each value as its annotated type allows it.

A schema is a frozen dataclass whose fields have defaults. The check is strict: no text for a number, no 5.7 for an
integer, no true for 1.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dass_jax.errors import UserError, nearest
from dass_jax.schema import Range, Text

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

    def __init__(self, value: Any, allowed: str, hint: str = ""):
        super().__init__(f"{short(value)}{hint}; allowed: {allowed}")


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


def hints(schema: type) -> dict[str, Any]:
    """The annotated type of each field of a schema."""
    return get_type_hints(schema, include_extras=True)


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as nested tables."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        *tables, last = name.split(".")
        part = found
        for table in tables:
            part = part.setdefault(table, {})
        part[last] = value
    return found


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
        names = get_args(base)
        if not isinstance(value, str) or value not in names:
            raise Refused(value, allowed(hint), nearest(value, names) if isinstance(value, str) else "")
        return value
    if base is float:
        # Beyond 2^1023 an integer has no float; a float is refused when it is not finite.
        fits = type(value) in (int, float) and abs(value) < 2**1023 and math.isfinite(value)
    else:
        fits = type(value) is base
    if not fits or (rule is not None and value not in rule):
        raise Refused(value, allowed(hint))
    return float(value) if base is float else value


def conformed(name: str, hint: Any, value: Any) -> Any:
    """`conform` of the field of that dotted name. Raises UserError."""
    try:
        return conform(hint, value)
    except Refused as error:
        raise UserError(f"{name} = {error}") from error


def unknown(name: str, known: Iterable[str]) -> str:
    """What is said of the key `name` (dotted) that its table has not."""
    known = list(known)
    return f"unknown key {short(name)}{nearest(name.rpartition('.')[2], known)}; allowed: {', '.join(known)}"


def structured(
    data: Any,
    schema: type[T],
    path: str = "",
    base: T | None = None,
    explain: Callable[[str, Iterable[str]], str] = unknown,
) -> T:
    """Nested tables as an instance of a schema, each field checked.

    Args:
      path: before the names of fields in messages, as in "search.".
      base: has the values of the fields that `data` leaves out; None: the schema's defaults.
      explain: (dotted name, names of the fields) → message for an unknown key.

    Raises:
      UserError: for the first unknown name, wrong type or value out of range.
    """
    check_table(data, path)
    known = hints(schema)
    for key in data:
        if key not in known:
            raise UserError(explain(path + key, known))
    base = schema() if base is None else base
    found = {}
    for key, value in data.items():
        hint = known[key]
        if dataclasses.is_dataclass(hint):
            # A hint is a class here, which mypy does not see.
            found[key] = structured(value, hint, f"{path}{key}.", getattr(base, key))  # type: ignore[arg-type]
        else:
            found[key] = conformed(path + key, hint, value)
    # `Any`: of whatever dataclass the schema is.
    return dataclasses.replace(base, **found)  # type: ignore[type-var]


def check_table(data: Any, path: str) -> None:
    """Raises UserError if what is to be a table is none."""
    if not isinstance(data, Mapping):
        raise UserError(f"{path.rstrip('.')} = {Refused(data, 'a table')}")
