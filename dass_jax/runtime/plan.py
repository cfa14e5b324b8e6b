"""How the examples of an epoch are parted, for those that do not lie on the devices: into parts of a few steps, and
each part into the slices of the devices.

A part is a small data set of its own: `loop.epoch` works on it with indices that point into it.
"""

from typing import NamedTuple

import numpy as np


class Plan(NamedTuple):
    """The parts of an epoch whose indices are [seeds, steps, levels, B], with or without the first and third axis."""

    places: np.ndarray
    """int64 [parts, devices, images]: where in the flat indices each image of a part is named."""
    indices: np.ndarray
    """int32, shaped as the indices of one part: where its images lie on their device. The slice of the global batch
    that a device takes names images of its own, so these are the same on all devices and for all parts."""


def parted(indices: np.ndarray, seeds: int, steps: int, devices: int) -> Plan:
    """Parts of `steps` steps, a divisor of the epoch's. B divides over the devices."""
    total = indices.shape[0] if seeds == 1 else indices.shape[1]
    batch = indices.shape[-1]
    own = batch // devices
    shape = seeds, total // steps, steps, indices.size // (seeds * total * batch), devices, own
    places = np.arange(indices.size).reshape(shape).transpose(1, 4, 0, 2, 3, 5).reshape(shape[1], devices, -1)
    there = np.arange(places.shape[-1], dtype=np.int32).reshape(seeds, steps, shape[3], own)
    there = np.tile(there, (1, 1, 1, devices))
    leading = (steps,) if seeds == 1 else (seeds, steps)
    return Plan(places, there.reshape(*leading, *indices.shape[len(leading) :]))
