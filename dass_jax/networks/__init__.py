"""Trainable networks, made of a found architecture or published: one file for each, a line in `NETWORKS`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.networks import baselines, derived, dso, enas_macro, enas_micro, mobile, nasbench201, smash
from dass_jax.networks.model import Model, check_auxiliary
from dass_jax.tasks import Outputs


class Entry(NamedTuple):
    """A network as configurations name it: `[network] name`."""

    schema: type
    """Of its fields."""
    make: Callable[..., Model]
    """(architecture or None, fields, outputs, whether with an auxiliary head, average over devices, dtype) → model."""
    check: Callable[[Any, tuple[int, int, int]], None] = lambda fields, image_shape: None
    """Raises `UserError` if the fields do not go with images [H, W, C]."""
    of_architecture: bool = True
    """Whether it is made of an architecture, of the space with its name."""
    drop_path: Callable[[Any], float] = lambda fields: 0.0
    """Fields → the probability, at the end of a phase, that a path is dropped."""
    auxiliary_weight: Callable[[Any], float] = lambda fields: 0.0
    """Fields → the weight of the auxiliary head's loss."""
    maps: Callable[..., Callable[..., tuple[Any, ...]]] | None = None
    """(architecture, fields, outputs, dtype) → (params, batch_stats, images) → what each part puts out, in order."""


def _of_cells(
    architecture: Any, c: derived.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any
) -> Model:
    return derived.derived(architecture, derived.sizes(c, outputs, auxiliary), average, dtype)


def _maps_of_cells(architecture: Any, c: derived.Fields, outputs: Outputs, dtype: Any) -> Any:
    return derived.cell_maps(architecture, derived.sizes(c, outputs, auxiliary=False), dtype)


def _of_equal_cells(
    cell: Any, c: nasbench201.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any
) -> Model:
    return nasbench201.nasbench201(cell, nasbench201.Sizes(outputs, c.cells, c.channels), average, dtype)


def _of_levels(a: Any, c: dso.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any) -> Model:
    return dso.dso(a, c, outputs, average, dtype, auxiliary and c.auxiliary)


def _of_residuals(a: Any, c: mobile.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any) -> Model:
    return mobile.mobile(a, c, outputs, average, dtype)


def _of_layers(arc: Any, c: enas_macro.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any) -> Model:
    return enas_macro.enas_macro(arc, c, outputs, average, dtype)


def _of_blocks(arc: Any, c: enas_micro.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any) -> Model:
    sizes = dataclasses.replace(c, auxiliary=auxiliary and c.auxiliary)
    check_auxiliary(outputs, sizes.auxiliary)
    return enas_micro.enas_micro(arc, sizes, outputs, average, dtype)


def _of_banks(a: Any, c: smash.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any) -> Model:
    return smash.smash(a, c, outputs, average, dtype)


def _baseline(
    name: str, architecture: None, c: baselines.Fields, outputs: Outputs, auxiliary: bool, average: Any, dtype: Any
) -> Model:
    return baselines.baseline(name, outputs, c.width, average, dtype)


NETWORKS: dict[str, Entry] = {
    "darts": Entry(
        derived.Fields,
        _of_cells,
        derived.check,
        drop_path=lambda c: c.drop_path,
        auxiliary_weight=lambda c: c.auxiliary_weight,
        maps=_maps_of_cells,
    ),
    "nasbench201": Entry(nasbench201.Fields, _of_equal_cells, nasbench201.check),
    "dso": Entry(
        dso.Fields,
        _of_levels,
        dso.check,
        drop_path=lambda c: c.drop_path,
        auxiliary_weight=lambda c: c.auxiliary_weight,
    ),
    "mobile": Entry(mobile.Fields, _of_residuals, mobile.check),
    "enas_macro": Entry(enas_macro.Fields, _of_layers, enas_macro.check),
    "enas_micro": Entry(
        enas_micro.Fields,
        _of_blocks,
        enas_micro.check,
        drop_path=lambda c: c.drop_path,
        auxiliary_weight=lambda c: c.auxiliary_weight,
    ),
    "smash": Entry(smash.Fields, _of_banks, smash.check),
    **{
        name: Entry(
            baselines.Fields,
            functools.partial(_baseline, name),
            of_architecture=False,
            drop_path=lambda c: c.drop_path,
        )
        for name in baselines.PLANS
    },
}

__all__ = ["NETWORKS", "Entry", "Model"]
