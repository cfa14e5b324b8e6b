"""1, 2, 4 and 8 devices give the same parameters after 20 steps, in a process that has as many."""

import functools
import os
import pathlib
import pickle
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.build import programs
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS
from tests import processes
from tests.runtime import test_parallel

COUNTS = (1, 2, 4, 8)
STEPS = 20


def _parameters(chain: str, path: pathlib.Path) -> None:
    """Writes [the variables after the steps, by the number of devices]; in a process that has not yet started JAX."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(COUNTS)}"
    jax.config.update("jax_disable_most_optimizations", True)
    programs.augment = functools.partial(programs.augment, dtype="float64")
    found, state = [], None
    with jax.enable_x64(True):
        for count in COUNTS:
            s = test_parallel.setting(count, 1, limit=0)
            stage = test_parallel.CHAINS[chain](s)[0]
            state = state or test_parallel.double(stage.start(None))
            after, _ = test_parallel.epoch(s, stage, state, STEPS)
            names = [name for name in (ALPHA, PARAMS, BATCH_STATS) if name in after.variables]
            found.append({name: after.variables[name] for name in names})
    path.write_bytes(pickle.dumps([state.variables[PARAMS], found]))


@pytest.mark.parametrize("chain", ["search", "training"])
def test_any_number_of_devices_gives_the_result_of_one(tmp_path: pathlib.Path, chain: str) -> None:
    process = processes.SERVER.Process(target=_parameters, args=(chain, tmp_path / "found"))
    process.start()
    assert processes.ended(process) == 0
    start, found = pickle.loads((tmp_path / "found").read_bytes())

    def same(one: Any, other: Any) -> None:
        assert one.dtype == np.float64
        for copy in other:
            np.testing.assert_allclose(copy, one[0], rtol=1e-9, atol=1e-11)

    for count, other in zip(COUNTS, found, strict=True):
        assert {len(x) for x in jax.tree.leaves(other)} == {count}
        jax.tree.map(same, found[0], other)
    moved = jax.tree.map(lambda a, b: abs(a - b[0]).max(), start, found[0][PARAMS])
    assert min(jax.tree.leaves(moved)) > 1e-3
