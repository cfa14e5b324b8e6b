"""Configurations made from others: another member of an axis, a control, fields set from tables.

Tags are settled first; what they choose says which fields there are. A value goes along to another member where that
has a field of the name which takes it.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from dass_jax import architectures
from dass_jax.config import old, plugins, rules
from dass_jax.config.axes import AXES, GIVEN, Chosen, is_published, owners, tag_hint
from dass_jax.config.run import Config, plain_hints, usual_controls
from dass_jax.errors import UserError, nearest
from dass_jax.methods import METHODS


def moved(axis: str, chosen: Chosen, name: str) -> Chosen:
    """Another member of an axis, with the values of the fields that both have and its own defaults else."""
    if chosen.name == name:
        return chosen
    schema = AXES[axis].schema(name)
    kept = {}
    for field, hint in rules.hints(schema).items():
        try:
            kept[field] = rules.conform(hint, getattr(chosen.fields, field))
        except (AttributeError, rules.Refused):
            continue
    return Chosen(name, schema(**kept))


def converted(chosen: Chosen, name: str) -> Chosen:
    """Another method at the same budget: its `epochs` are as many as make its whole search as long, if that can be."""
    new = moved("method", chosen, name)
    budget = METHODS[chosen.name].epochs(chosen.fields)
    if name == chosen.name or not budget or not hasattr(new.fields, "epochs"):
        return new
    beside = METHODS[name].epochs(new.fields) - new.fields.epochs
    epochs = budget - beside if beside < budget else budget
    return dataclasses.replace(new, fields=dataclasses.replace(new.fields, epochs=epochs))


def control(config: Config, name: str) -> Config:
    """The configuration of a control alone: that of its main run, with its method."""
    found = dataclasses.replace(config, method=converted(config.method, name), controls=(), architecture="")
    return found if uses_hypergradient(found) else dataclasses.replace(found, hypergradient=Config.hypergradient)


def uses_hypergradient(config: Config) -> bool:
    """Whether the method or a control has a use for `[hypergradient]`."""
    return any(METHODS[name].hypergradient for name in (config.method.name, *config.controls))


def changed(
    config: Config, data: Mapping[str, Any], place: str = "", folder: pathlib.Path | None = None, fresh: bool = False
) -> Config:
    """A configuration with what nested tables say, each field checked by its own rule; `checks` sees to the rest.

    Args:
      place: before the names of fields in messages.
      folder: where the paths of plugins start; None: the working folder.
      fresh: whether another member than the configuration's has its own defaults; else see `moved`, `converted`.

    Raises:
      UserError: for an unknown name, a wrong type or a value out of range, or a tag that contradicts another one.
    """
    plain, known = plain_hints(), rules.hints(Config)
    if "plugins" in data:
        named = plugins.imported(rules.conformed(f"{place}plugins", plain["plugins"], data["plugins"]), folder)
        config = dataclasses.replace(config, plugins=tuple(dict.fromkeys((*config.plugins, *named))))
    old.refuse(data, place)
    for key, value in data.items():
        if key not in known:
            raise UserError(rules.unknown(place + key, known))
        if key not in plain:
            rules.check_table(value, place + key)
    found = dataclasses.replace(config, **_plain(data, place))
    members = _members(found, data, place)
    chosen: dict[str, Any] = {axis: _member(getattr(found, axis), axis, name, fresh) for axis, name in members.items()}
    found = dataclasses.replace(found, **chosen)
    for key, value in data.items():
        if key not in plain:
            found = dataclasses.replace(found, **{key: _table(found, key, value, place)})
    if "controls" not in data and (fresh or config.controls == usual_controls(config)):
        found = dataclasses.replace(found, controls=usual_controls(found))
    if "hypergradient" not in data and not uses_hypergradient(found):
        found = dataclasses.replace(found, hypergradient=Config.hypergradient)
    return found


def _plain(data: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The fields outside of tables, `plugins` apart."""
    hints = {name: hint for name, hint in plain_hints().items() if name in data and name != "plugins"}
    found = {name: rules.conformed(place + name, hint, data[name]) for name, hint in hints.items()}
    if found.get("architecture"):
        found["architecture"] = architectures.to_text(architectures.load(found["architecture"]))
    return found


def _members(config: Config, data: Mapping[str, Any], place: str) -> dict[str, str]:
    """The member of every axis: what its tag says, else what other fields imply, else the configuration's own."""
    tags = {axis: data[axis][AXES[axis].tag] for axis in AXES if AXES[axis].tag in data.get(axis, {})}

    def said(axis: str, otherwise: str, space: str) -> str:
        value = tags.get(axis, otherwise)
        return str(rules.conformed(f"{place}{axis}.{AXES[axis].tag}", tag_hint(axis, space), value))

    home = architectures.family_of(architectures.load(config.architecture)).name if config.architecture else None
    space = said("space", home or config.space.name, "")
    if home not in (None, space):
        raise UserError(f"{place}space.name = {space!r} with an architecture of another space; allowed: {home!r}")
    own = config.network.name if is_published(config.network.name) and "network" not in tags else space
    if tags.get("network") == "":
        del tags["network"]
    network = said("network", own, space)
    implied = data.get("architecture") or ("network" in tags and is_published(network))
    found = {axis: said(axis, getattr(config, axis).name, space) for axis in AXES if axis not in ("space", "network")}
    if implied and "method" not in tags:
        found["method"] = GIVEN
    return {"space": space, "network": network, **found}


def _member(chosen: Chosen, axis: str, name: str, fresh: bool) -> Chosen:
    if fresh:
        return AXES[axis].chosen(name)
    return converted(chosen, name) if axis == "method" else moved(axis, chosen, name)


def _table(config: Config, name: str, data: Mapping[str, Any], place: str) -> Any:
    """A table of the configuration with its fields from `data`; the tag is settled."""
    now, path = getattr(config, name), f"{place}{name}."
    if not isinstance(now, Chosen):
        return rules.structured(data, type(now), path, now)
    inner = {key: value for key, value in data.items() if key != AXES[name].tag}
    explain = functools.partial(unknown_field, name, now.name, config.space.name)
    return dataclasses.replace(now, fields=rules.structured(inner, type(now.fields), path, now.fields, explain))


def unknown_field(axis: str, member: str, space: str, name: str, known: Iterable[str]) -> str:
    """What is said of the field `name` (dotted) that the chosen member of an axis has not."""
    known, field = list(known), name.rpartition(".")[2]
    has = f"what {axis} {member!r} has: {', '.join(known)}" if known else f"none, as {axis} {member!r} has no fields"
    hint = nearest(field, known) + elsewhere(axis, field, space)
    return f"unknown key {rules.short(name)}{hint}; allowed: {has}"


def elsewhere(axis: str, field: str, space: str) -> str:
    """`" ('dass' has it)"` for the members of an axis with that field, or the empty string."""
    found = owners(axis, field, space)
    return f" ({', '.join(map(repr, found))} {'has' if len(found) == 1 else 'have'} it)" if found else ""
