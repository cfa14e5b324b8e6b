"""Search spaces: one file for each, and a line in `SPACES`. Its architectures are plain data of the same name in
`architectures`, and networks made of them in `networks`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.spaces import darts, dso, dso_latency, enas_macro, enas_micro, mobile, nasbench201, smash
from dass_jax.spaces.latencies import Timed
from dass_jax.spaces.lookup import Lookup
from dass_jax.spaces.space import Choice, Space


class Entry(NamedTuple):
    """A space as configurations name it: `[space] name`."""

    schema: type
    """Of its fields."""
    make: Callable[..., Space]
    """(fields, outputs of the network, average over devices, dtype of activations) → space; with `live`, {matrix: bool
    [rows, columns]}, that of the living operations alone, where a space has such."""
    check: Callable[[Any], None] = lambda fields: None
    """Raises `UserError` for fields that do not go together."""
    lookup: Callable[[Any], Lookup | None] = lambda fields: None
    """Fields → what is known of its architectures without training them; raises `UserError` if that cannot be read."""
    sampled: bool | str = False
    """Whether architectures are drawn one at a time (`Space.sampled`) instead of being mixed; "written": with weights
    that a hyper-network writes (`Space.written`)."""
    fits: Callable[..., None] = lambda fields, outputs, image_shape: None
    """Raises `UserError` if the fields do not go with the network's outputs and images [H, W, C]."""
    timed: Callable[..., Timed] | None = None
    """(fields, outputs, image_shape [H, W, C]) → the parts whose latencies predict that of any of its networks."""


SPACES: dict[str, Entry] = {
    "darts": Entry(darts.Fields, darts.from_fields, darts.check),
    "nasbench201": Entry(nasbench201.Fields, nasbench201.from_fields, lookup=nasbench201.table),
    "dso": Entry(dso.Fields, dso.from_fields, dso.check, fits=dso.fits, timed=dso_latency.timed),
    "mobile": Entry(mobile.Fields, mobile.from_fields, mobile.check, fits=mobile.fits, timed=mobile.timed),
    "enas_macro": Entry(enas_macro.Fields, enas_macro.from_fields, enas_macro.check, sampled=True),
    "enas_micro": Entry(enas_micro.Fields, enas_micro.from_fields, enas_micro.check, sampled=True),
    "smash": Entry(smash.Fields, smash.from_fields, smash.check, sampled="written"),
}

__all__ = ["SPACES", "Choice", "Entry", "Space"]
