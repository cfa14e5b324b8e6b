"""Parts of an epoch: every device finds, at the indices it is given, the images that the whole epoch names for it."""

import numpy as np
import pytest

from dass_jax.runtime import plan


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("levels", [None, 2])
def test_parts_name_the_images_of_the_epoch(devices: int, seeds: int, levels: int | None) -> None:
    total, steps, batch = 6, 2, 8
    shape = (*((seeds,) if seeds > 1 else ()), total, *((levels,) if levels else ()), batch)
    indices = np.random.default_rng(0).integers(0, 1000, shape)
    found = plan.parted(indices, seeds, steps, devices)
    assert found.places.shape == (total // steps, devices, seeds * steps * (levels or 1) * batch // devices)
    np.testing.assert_array_equal(np.sort(found.places.ravel()), np.arange(indices.size))
    axis = 0 if seeds == 1 else 1
    for part, places in enumerate(found.places):
        wanted = np.split(np.take(indices, range(part * steps, (part + 1) * steps), axis), devices, -1)
        own = np.split(found.indices, devices, -1)
        for device in range(devices):
            there = indices.ravel()[places[device]]
            np.testing.assert_array_equal(there[own[device]], wanted[device])
