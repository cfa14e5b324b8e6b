"""1, 2, 4 and 8 devices, and two hosts with two each, give the same parameters after 20 steps: each in processes that
have as many."""

import functools
import os
import pathlib
import pickle
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.compose import programs
from dass_jax.runtime import hosts
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS
from tests import processes
from tests.runtime import test_parallel

COUNTS = (1, 2, 4, 8)
STEPS = 20


def _parameters(chain: str, counts: tuple[int, ...], process: int | None, port: int, path: pathlib.Path) -> None:
    """Writes (first state, {devices of each process: variables after the steps, with each own device's copy}); in a
    process that has not yet started JAX: one of two, or alone for `process` None."""
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={max(counts)}"
    if process is not None:
        hosts.join(hosts.Hosts(f"127.0.0.1:{port}", 2, process))
    programs.augment = functools.partial(programs.augment, dtype="float64")
    found, state = {}, None
    with jax.enable_x64(True):
        for count in counts:
            s = test_parallel.setting(count, 1, limit=0)
            stage = test_parallel.CHAINS[chain](s)[0]
            state = state or test_parallel.double(stage.start(None))
            after, _ = test_parallel.epoch(s, stage, state, STEPS)
            names = [name for name in (ALPHA, PARAMS, BATCH_STATS) if name in after.variables]
            found[count] = {name: after.variables[name] for name in names}
    path.write_bytes(pickle.dumps((state.variables, found)))


@pytest.mark.parametrize("chain", ["search", "training"])
def test_devices_and_hosts_in_any_number_give_the_result_of_one(tmp_path: pathlib.Path, chain: str) -> None:
    """One after another would do, but each compiles for itself."""
    port = processes.free_port()
    given = {"alone": (COUNTS, None), "first": ((2,), 0), "second": ((2,), 1)}
    started = {
        name: processes.SERVER.Process(target=_parameters, args=(chain, *own, port, tmp_path / name))
        for name, own in given.items()
    }
    for process in started.values():
        process.start()
    assert [processes.ended(process) for process in started.values()] == [0, 0, 0]
    (start, alone), (_, first), (_, second) = (pickle.loads((tmp_path / name).read_bytes()) for name in given)

    def same(one: Any, other: Any) -> None:
        assert one.dtype == np.float64
        for copy in other:
            np.testing.assert_allclose(copy, one[0], rtol=1e-9, atol=1e-11)

    for count, other in [*alone.items(), (2, first[2]), (2, second[2])]:
        assert {len(x) for x in jax.tree.leaves(other)} == {count}
        jax.tree.map(same, alone[1], other)
    moved = jax.tree.map(lambda a, b: abs(a - b[0]).max(), start[PARAMS], alone[1][PARAMS])
    assert min(jax.tree.leaves(moved)) > 1e-3
