"""Names that a configuration once had: each is answered with one line that says its place now."""

from collections.abc import Iterator, Mapping
from typing import Any

from dass_jax.config.axes import AXES
from dass_jax.config.rules import short
from dass_jax.errors import UserError

SIZES = ("cells", "channels", "nodes", "stem", "none", "remat")
SEARCH = (
    *("epochs", "prune_epochs", "stop_at_skips", "batch_size", "accumulate", "order", "theta_lr", "scores_lr"),
    *("final_lr", "momentum", "weight_decay", "clip"),
    *("alpha_lr", "alpha_beta1", "alpha_beta2", "alpha_weight_decay"),
)
KEYS = {
    **{f"search.{name}": f"space.{name}" for name in SIZES},
    **{f"search.{name}": f"method.{name}" for name in SEARCH},
    "search.hypergradient": "hypergradient.name",
    "search": "[space] for the supernet's sizes and [method] for all else",
    "hypergradient.cosine": "method.cosine",
    "genotype": "architecture",
    "runtime.epochs_per_call": "nothing; runtime.call_seconds says how long a call is",
}
"""Old key → what stands in its place."""

VALUES = {
    ("method.name", "darts_sparse"): "darts",
    ("controls", "darts_sparse"): "darts",
    ("network.name", "cells"): "",
}
"""(key, old value) → the new one, which may be left out if it is empty."""


def refuse(data: Mapping[str, Any], place: str = "") -> None:
    """Raises UserError for the first old name in a configuration's tables; `place` goes before it in the message."""
    for name, value in _dotted(data):
        if name in KEYS:
            raise UserError(f"unknown key {short(place + name)}; allowed: in its place {KEYS[name]}")
        if name in AXES and isinstance(value, str):
            tag = AXES[name].tag
            new = VALUES.get((f"{name}.{tag}", value), value)
            raise UserError(f"{place}{name} = {short(value)}; allowed: a table, [{name}] with {tag} = {new!r}")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, str) and (name, one) in VALUES:
                left_out = "" if VALUES[name, one] else ", or nothing"
                raise UserError(f"{place}{name} = {one!r}; allowed: in its place {VALUES[name, one]!r}{left_out}")


def _dotted(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested tables by dotted name, the innermost first."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{key}.")
        yield before + key, value
