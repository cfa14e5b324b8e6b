"""The unions of a configuration: tables whose tag names a member of an axis, and whose other fields are the member's.

`[method] name = "dass"` has the fields of `METHODS["dass"].schema`; a plugin that adds an entry to `METHODS` adds a
name here. What the members are is known to their own tables alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dass_jax.bilevel.hypergradients.fields import FIELDS
from dass_jax.methods import METHODS
from dass_jax.networks import NETWORKS
from dass_jax.recipes import RECIPES
from dass_jax.spaces import SPACES
from dass_jax.tasks import TASKS

GIVEN = "given"
"""The method that searches nothing: `architecture` or a published network says what is trained."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A member of an axis, and its fields (an instance of the member's schema)."""

    name: str
    fields: Any


class Axis(NamedTuple):
    """An axis of choice."""

    members: Mapping[str, Any]
    meaning: str
    """Of the tag, for people."""
    short: str
    """The tag's flag without a table, and its name in experiments."""
    tag: str = "name"

    def schema(self, name: str) -> type:
        """Of the fields of a member."""
        entry = self.members[name]
        return entry if isinstance(entry, type) else entry.schema

    @property
    def help(self) -> str:
        """Of the tag: its meaning, and of each member what it says about itself."""
        said = [f"`{name}` ({entry.about})" for name, entry in self.members.items() if hasattr(entry, "about")]
        return " ".join([self.meaning, ", ".join(said)]).strip()

    def chosen(self, name: str) -> Chosen:
        """A member with its defaults."""
        return Chosen(name, self.schema(name)())


AXES: dict[str, Axis] = {
    "space": Axis(
        SPACES, "The search space, from which architectures come; that of `architecture`, if one is given.", "space"
    ),
    "method": Axis(
        METHODS,
        "How an architecture is found.",
        "method",
    ),
    "hypergradient": Axis(
        FIELDS,
        "How a bi-level method estimates α's gradient: `first_order` (DASS; weights as if they did not depend on α), "
        "`unrolled` (exact, through steps of the weights), `finite_difference` (DARTS' second order), `neumann` or "
        "`conjugate_gradient` (implicit), `amended` (Bi et al. 2019). docs/bilevel.md says when to use which.",
        "hypergradient",
    ),
    "task": Axis(TASKS, "What the networks are trained for.", "task"),
    "network": Axis(
        NETWORKS,
        "The network that is trained and pruned; it inherits nothing from the supernet. The space's own, made of the "
        "architecture, or a published one, for which nothing is searched.",
        "network",
    ),
    "train": Axis(
        RECIPES,
        "How the network is trained.",
        "recipe",
        tag="recipe",
    ),
}
"""By the table's name."""

DEFAULTS: dict[str, Chosen] = {
    axis: AXES[axis].chosen(name)
    for axis, name in {
        "space": "darts",
        "method": "dass",
        "hypergradient": "first_order",
        "task": "classification",
        "network": "darts",
        "train": "prune",
    }.items()
}
"""The members of a run that names none."""


def is_published(network: str) -> bool:
    """Whether a network is a published one, which no architecture is asked for."""
    return not NETWORKS[network].of_architecture


def names(axis: str, space: str) -> tuple[str, ...]:
    """What the tag of an axis may say in a run of that space."""
    if axis != "network":
        return tuple(AXES[axis].members)
    return tuple(name for name in NETWORKS if name == space or is_published(name))


def tag_hint(axis: str, space: str) -> Any:
    """The type of a tag."""
    return Literal[names(axis, space)]


def owners(axis: str, field: str, space: str) -> list[str]:
    """The members of an axis that have a field of that name."""
    return [name for name in names(axis, space) if field in field_names(AXES[axis].schema(name))]


def field_names(schema: type) -> tuple[str, ...]:
    """Of a dataclass."""
    return tuple(field.name for field in dataclasses.fields(schema))
