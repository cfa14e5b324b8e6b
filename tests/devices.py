"""Phases of a small supernet and of a small network in 64 bits, on any number of devices.

In 64-bit floats another order of additions costs some 1e-16 a step: far below 1e-9, and far below what other random
numbers would do. In 32 bits a score near the cut could change places with the next and hide an error.
"""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import compose, config, feed, runner
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import Setting, batches
from dass_jax.phases import Phase

GENOTYPE = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),),
    reduce=((("dil_conv_3x3", 0), ("skip_connect", 1)),),
)
"""One cell that reduces: both its edges can be dropped."""


def setting(devices: int, accumulate: int = 1, limit: int = 64, seeds: int = 1, axis: str = "batch") -> Setting:
    """Random crops, mirrors, cutout and drop-path are on: they must not depend on the number of devices."""
    return compose.setting(
        config.from_dict(
            {
                "seed": 3,
                "seeds": seeds,
                "data": {"limit": limit, "crop_padding": 1, "flip": True, "cutout": 2},
                "space": {"cells": 1, "channels": 2, "nodes": 1},
                "method": {"name": "dass", "batch_size": 16, "accumulate": accumulate, "epochs": 2, "prune_epochs": 2},
                "sparsity": {"keep": 0.3},
                "network": {"cells": 1, "channels": 2, "auxiliary": False, "drop_path": 0.8},
                "train": {"batch_size": 32, "accumulate": accumulate, "pretrain_epochs": 2, "score_epochs": 2},
                "runtime": {"devices": devices, "compilation_cache": ""},
                "parallel": {"axis": axis},
            }
        )
    )


def doubled(patch: pytest.MonkeyPatch) -> None:
    """Images are of 64 bits."""
    for name in ("augment", "normalise"):
        patch.setattr(batches, name, functools.partial(getattr(batches, name), dtype="float64"))


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), tree)


def phases(s: Setting, chain: str) -> tuple[Phase, ...]:
    return compose.search(s, "dass").phases if chain == "search" else compose.training(s, GENOTYPE).phases


def begun(s: Setting, chain: str, number: int) -> Any:
    """The first state of a chain's phase, whose predecessors have had no epoch."""
    state = None
    for phase in phases(s, chain)[: number + 1]:
        state = double(runner.begun(s, phase, compose.key(s, chain), state))
    return state


def after(s: Setting, phase: Phase, state: Any, steps: int | None = None) -> tuple[Any, Any]:
    """(state, infos of the last epoch) after so many steps, or an epoch, of a phase from its second epoch on, in which
    paths are dropped with probability 0.4; with the copies of all devices of this process as leading axis."""
    given = feed.inputs(s, phase, 1)
    left = given.steps if steps is None else steps
    data = s.layout.put_everywhere(compose.examples(s)[0])
    state, none = s.layout.put(state), np.int32(0)
    function = s.layout.over(feed.epoch_of(s, phase), feed.IN_AXES)
    program = s.layout.program(function, (state, data, *given[:3], none, none), False)
    for epoch in range(1, 2 + (left - 1) // given.steps):
        given = feed.inputs(s, phase, epoch)
        last = min(left - (epoch - 1) * given.steps, given.steps)
        state, infos = program(state, data, *given[:3], none, np.int32(last))

    def copies(x: jax.Array) -> np.ndarray:
        return np.concatenate([np.asarray(shard.data) for shard in x.addressable_shards])

    return jax.tree.map(copies, (state, infos))
