"""Architectures as plain data: one file for each space's family, and what all of them have in common."""

import json
import pathlib
from typing import Any

from dass_jax.architectures import darts, dso, enas_macro, enas_micro, mobile, nasbench201, smash
from dass_jax.architectures.family import Edge, Family, Graph, Json
from dass_jax.errors import UserError, nearest, odd_space

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        darts.FAMILY,
        nasbench201.FAMILY,
        dso.FAMILY,
        mobile.FAMILY,
        enas_macro.FAMILY,
        enas_micro.FAMILY,
        smash.FAMILY,
    )
}
"""By the name of the space."""

SPACE = "space"


def family_of(architecture: Any) -> Family:
    """The family whose architecture this is."""
    return next(family for family in FAMILIES.values() if type(architecture) is family.kind)


def published() -> dict[str, Any]:
    """Every architecture that has a name of its own."""
    return {name: found for family in FAMILIES.values() for name, found in family.published.items()}


def to_json(architecture: Any) -> Json:
    """`{"space": …, …}`."""
    family = family_of(architecture)
    return {SPACE: family.name, **family.to_json(architecture)}


def from_json(data: Any, origin: str = "architecture") -> Any:
    """Inverse of `to_json`. Without "space" it is DARTS' JSON, which is older than the key.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    if not isinstance(data, dict):
        raise UserError(f"{origin}: {type(data).__name__} found; allowed: an object with 'space'")
    name = data.get(SPACE, darts.FAMILY.name)
    if not isinstance(name, str) or name not in FAMILIES:
        hint = nearest(name, FAMILIES) if isinstance(name, str) else ""
        raise UserError(f"{origin}: space = {name!r}{hint}; allowed: {', '.join(FAMILIES)}")
    return FAMILIES[name].from_json({key: value for key, value in data.items() if key != SPACE}, origin)


def to_text(architecture: Any) -> str:
    """What `load` reads without any file: the published name, the space's usual notation or, on one line, the JSON."""
    family = family_of(architecture)
    names = {found: name for name, found in family.published.items()}
    if architecture in names:
        return names[architecture]
    return family.to_text(architecture) if family.to_text else json.dumps(to_json(architecture))


def load(text: str) -> Any:
    """An architecture by its published name, from a JSON file, or from the text itself: JSON or a usual notation.

    Raises:
      UserError: if it is none of these, or damaged.
    """
    known = published()
    if text in known:
        return known[text]
    if text.startswith("{"):
        return _parsed(text, "architecture")
    for family in FAMILIES.values():
        if family.from_text is not None and family.is_text(text):
            return family.from_text(text, "architecture")
    path = pathlib.Path(text)
    if path.suffix != ".json" and not path.exists():
        raise UserError(
            f"architecture {text!r} is unknown{nearest(text, known)}; allowed: {', '.join(known)}, a JSON file, or "
            "what such a file holds"
        )
    origin = f"architecture file {text!r}"
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{origin} cannot be read: {error.strerror}; allowed: a file") from error
    except ValueError as error:
        raise UserError(f"{origin} is damaged: {error}; allowed: JSON text") from error
    return _parsed(content, origin)


def _parsed(text: str, origin: str) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is damaged: {error}{odd_space(text)}; allowed: JSON text") from error
    # A run's file holds the architecture beside its drawing.
    inner = data.get("architecture") if isinstance(data, dict) else None
    return from_json(data if inner is None else inner, origin)


def described(architecture: Any) -> Json:
    """What a run's files say of it: the architecture, its graphs as they are drawn, and what it warns of."""
    family = family_of(architecture)
    return {
        "architecture": to_json(architecture),
        "graphs": [
            {"name": graph.name, "nodes": list(graph.nodes), "edges": [list(edge) for edge in graph.edges]}
            for graph in family.graphs(architecture)
        ],
        "warnings": family.warnings(architecture),
    }


__all__ = ["FAMILIES", "Edge", "Family", "Graph", "described", "family_of", "from_json", "load", "published"]
__all__ += ["to_json", "to_text"]
