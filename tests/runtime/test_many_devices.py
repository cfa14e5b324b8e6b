"""1, 2, 4 and 8 devices, and two hosts with two each, give the same parameters after 20 steps: each in processes that
have as many. Of a search by toys, whose levels look at means over all devices as batch normalisation does, and of a
plugin's network in training: supernets and their networks are compared on two devices (test_parallel.py)."""

import os
import pathlib
import pickle
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import architectures, compose, config, runner
from dass_jax.runtime import hosts
from tests import devices, processes, toys
from tests.runs import SYSTEM

COUNTS = (1, 2, 4, 8)
STEPS = 20
CHAINS = ("search", "training")


def _phase(chain: str, count: int) -> tuple[Any, Any, Any]:
    """(setting, first phase, its first state)."""
    if chain == "training":
        given = {
            "seed": 3,
            "plugins": [str(SYSTEM)],
            "data": {"crop_padding": 1, "flip": True, "cutout": 2},
            "space": {"name": "ladder"},
            "train": {"batch_size": 32},
            "runtime": {"devices": count, "compilation_cache": ""},
        }
        s = compose.setting(config.from_dict(given))
        ladder = architectures.from_json({"space": "ladder", "rungs": ["wave", "fold", "wave"]})
        phase = compose.training(s, ladder).phases[0]
        return s, phase, devices.double(runner.begun(s, phase, compose.key(s, chain), None))
    s = toys.setting(devices=count)
    walk, _, dance = toys.phases(s)
    return s, dance, runner.begun(s, dance, compose.key(s, chain), runner.begun(s, walk, compose.key(s, chain), None))


def _parameters(counts: tuple[int, ...], process: int | None, port: int, path: pathlib.Path) -> None:
    """Writes {chain: (first variables, {devices of each process: those after the steps, of each own device})}; in a
    process that has not yet started JAX: one of two, or alone for `process` None."""
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={max(counts)}"
    if process is not None:
        hosts.join(hosts.Hosts(f"127.0.0.1:{port}", 2, process))
    found: dict[str, Any] = {}
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        devices.doubled(patch)
        for chain in CHAINS:
            ends = {}
            for count in counts:
                s, phase, state = _phase(chain, count)
                start = jax.tree.map(np.asarray, state)
                ends[count] = devices.after(s, phase, start, STEPS)[0].variables
            found[chain] = start.variables, ends
    path.write_bytes(pickle.dumps(found))


def test_devices_and_hosts_in_any_number_give_the_result_of_one(tmp_path: pathlib.Path) -> None:
    """One after another would do, but each compiles for itself."""
    port = processes.free_port()
    given = {"alone": (COUNTS, None), "first": ((2,), 0), "second": ((2,), 1)}
    started = {
        name: processes.SERVER.Process(target=_parameters, args=(*own, port, tmp_path / name))
        for name, own in given.items()
    }
    for process in started.values():
        process.start()
    assert [processes.ended(process) for process in started.values()] == [0, 0, 0]
    found = {name: pickle.loads((tmp_path / name).read_bytes()) for name in given}

    def same(one: Any, other: Any) -> None:
        assert one.dtype == np.float64
        for copy in other:
            np.testing.assert_allclose(copy, one[0], rtol=1e-9, atol=1e-11)

    for chain in CHAINS:
        start, alone = found["alone"][chain]
        hosted = [found[name][chain][1][2] for name in ("first", "second")]
        for count, other in [*alone.items(), *((2, own) for own in hosted)]:
            assert {len(x) for x in jax.tree.leaves(other)} == {count}
            jax.tree.map(same, alone[1], other)
        moved = jax.tree.map(lambda a, b: abs(a - b[0]).max(), start, alone[1])
        trained = moved["params"] if chain == "training" else (moved["pull"], moved["push"])
        assert min(jax.tree.leaves(trained)) > 1e-3, chain
