"""The configuration of a run: tables that every run has, and tagged unions of the axes' members.

`load`, `from_dict` and `parse` (a command line) give a checked `Config`; `config.method.name` and
`config.method.fields.epochs` are what a run asks for.
"""

from dass_jax.config.axes import AXES, GIVEN, Axis, Chosen, is_published
from dass_jax.config.changes import changed, control, converted, moved
from dass_jax.config.checks import check
from dass_jax.config.command import Invocation, parse
from dass_jax.config.files import (
    NOT_IN_RESULT,
    differences,
    digest,
    from_dict,
    load,
    read_toml,
    to_toml,
    validated,
)
from dass_jax.config.plugins import imported
from dass_jax.config.rules import Refused, allowed, conform, conformed, hints, nested, short, split_hint, structured
from dass_jax.config.run import Config, flatten, leaves, title, tree, usual_controls
from dass_jax.config.shipped import find
from dass_jax.config.tables import Data, Parallel, Runtime, Sparsity

__all__ = ["AXES", "GIVEN", "NOT_IN_RESULT", "Axis", "Chosen", "Config", "Data", "Invocation", "Parallel", "Refused"]
__all__ += ["Runtime", "Sparsity", "allowed", "changed", "check", "conform", "conformed", "control", "converted"]
__all__ += [
    "differences",
    "digest",
    "find",
    "flatten",
    "from_dict",
    "hints",
    "imported",
    "is_published",
    "leaves",
    "load",
]
__all__ += ["moved", "nested", "parse", "read_toml", "short", "split_hint", "structured", "title", "to_toml", "tree"]
__all__ += ["usual_controls", "validated"]
