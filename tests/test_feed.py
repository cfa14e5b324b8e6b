"""Streamed examples against the same in memory: the same steps, the same sums, the same bits; and bounded memory."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from dass_jax import compose, config_io, feed
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import Setting
from dass_jax.runtime import calls, loop, parallel, steps
from dass_jax.runtime.calls import Done
from dass_jax.runtime.signals import Signals
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

GENOTYPE = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),), reduce=((("dil_conv_3x3", 0), ("skip_connect", 1)),)
)
SMALL = 2 * 16 * 64
"""Bytes: two steps of a training batch of digits."""


def setting(streaming: bool, devices: int, seeds: int) -> Setting:
    """All that is random is on: crops, mirrors, cutout and drop-path."""
    return compose.setting(
        config_io.from_dict(
            {
                "seeds": seeds,
                "data": {"limit": 64, "crop_padding": 1, "cutout": 2, "streaming": streaming},
                "search": {"cells": 1, "channels": 2, "nodes": 1, "batch_size": 8},
                "sparsity": {"keep": 0.3},
                "network": {"cells": 1, "channels": 2, "auxiliary": False, "drop_path": 0.2},
                "train": {"batch_size": 16},
                "runtime": {"devices": devices, "compilation_cache": ""},
            }
        )
    )


def of(s: Setting) -> feed.Feed:
    return feed.streamed(s, SMALL) if s.config.data.streaming else feed.of(s)


def compiler(s: Setting, names: list[str] | None = None) -> feed.Compile:
    def compile(name: str, function: Any, arguments: tuple[Any, ...], donate: bool) -> Any:
        if names is not None:
            names.append(name)
        return parallel.program(function, s.devices, arguments, donate)

    return compile


def nothing(*_: Any) -> None:
    """Between two calls."""


class After(NamedTuple):
    state: Any
    infos: list[Any]
    names: list[str]
    """Of the programs."""


def after_epochs(s: Setting, chain: str, epochs: range, seconds: float) -> After:
    """After some epochs of the first stage of a chain, by calls of so many seconds."""
    stages = compose.search_stages(s, "dass")[0] if chain == "search" else compose.training_stages(s, GENOTYPE)[0]
    found = After(None, [], [])
    state = parallel.replicate(stages[0].start(None), s.devices)
    advance = of(s).advance(s, stages[0], state, 1, compiler(s, found.names))
    for epoch in epochs:
        state, infos, _ = calls.in_calls(advance(epoch), state, seconds, nothing, Done())
        found.infos.append(infos)
    return found._replace(state=parallel.unreplicate(state))


@pytest.mark.parametrize(("chain", "devices", "seeds"), [("search", 2, 1), ("training", 1, 2), ("training", 2, 1)])
def test_streamed_epochs_are_those_in_memory_to_the_bit(chain: str, devices: int, seeds: int) -> None:
    one, other = (
        after_epochs(setting(streaming, devices, seeds), chain, range(2), 0.0 if streaming else 1e9)
        for streaming in (False, True)
    )
    per_call = {("search", 1): 2, ("training", 1): 2, ("training", 2): 1}[chain, seeds]
    assert [name.rpartition(", ")[2] for name in other.names] == [f"{per_call} steps a call"]  # of 4: there are parts
    moved = [np.abs(x).max() for x in jax.tree.leaves(one.state.variables[PARAMS])]
    assert max(moved) > 0
    jax.tree.map(np.testing.assert_array_equal, other.state, one.state)
    jax.tree.map(np.testing.assert_array_equal, other.infos, one.infos)


def test_an_epoch_in_parts_goes_on_from_any_step() -> None:
    s = setting(True, 1, 1)
    stage = compose.training_stages(s, GENOTYPE)[0][0]
    start = stage.start(None)
    advance = of(s).advance(s, stage, parallel.replicate(start, s.devices), 1, compiler(s))
    series = advance(0)
    assert (series.total, series.part) == (4, 2)
    kept: list[tuple[Any, Done]] = []

    def keep(state: Any, done: Done, infos: Any) -> None:
        kept.append((parallel.unreplicate(state), done))

    _, infos, _ = calls.in_calls(series, parallel.replicate(start, s.devices), 0.0, keep, Done())
    assert [done.steps for _, done in kept] == [1, 2, 3, 4]
    for state, done in kept:  # the last one is that of an evaluation after the epoch
        state, again, _ = calls.in_calls(advance(0), parallel.replicate(state, s.devices), 1e9, nothing, done)
        jax.tree.map(np.testing.assert_array_equal, parallel.unreplicate(state), kept[-1][0])
        jax.tree.map(np.testing.assert_array_equal, again, infos)


def test_an_evaluation_streams_every_test_image_once() -> None:
    sums = []
    for streaming in (False, True):
        s = setting(streaming, 2, 1)
        stages, evaluate = compose.training_stages(s, GENOTYPE)
        v = stages[0].start(None).variables
        network = parallel.replicate({PARAMS: v[PARAMS], BATCH_STATS: v[BATCH_STATS], MASKS: v[MASKS]}, s.devices)
        batches = of(s).evaluate(s, "evaluation", evaluate, network, 14, compiler(s))
        sums.append(steps.evaluate(batches, network, Signals(), 0.0 if streaming else 1e9))
    assert sums[0]["images"] == sums[1]["images"] == 360
    assert sums[0]["correct"] == sums[1]["correct"]
    np.testing.assert_allclose(sums[1]["loss"], sums[0]["loss"], rtol=1e-6)


def test_an_epoch_of_any_size_holds_two_parts_on_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is a stand-in that counts, at each call, the images on the devices; an epoch is 60 parts of them."""
    s = setting(True, 1, 1)
    stage = compose.training_stages(s, GENOTYPE)[0][0]._replace(
        indices=lambda epoch: np.random.default_rng(epoch).integers(0, 64, (600, 16)).astype(np.int32)
    )
    held: list[int] = []

    def compile(name: str, function: Any, arguments: tuple[Any, ...], donate: bool) -> Any:
        def program(state: Any, examples: loop.Examples, *rest: Any) -> Any:
            held.append(sum(x.nbytes for x in jax.live_arrays() if x.dtype == np.uint8))
            return state, {"loss": parallel.replicate(np.ones(10, np.float32), s.devices)}

        return program

    advance = feed.streamed(s, 10 * 16 * 64).advance(s, stage, None, 1, compile)
    _, infos, _ = calls.in_calls(advance(0), None, 1e9, nothing, Done())
    assert 60 <= len(held) < 70 and max(held) <= 2 * 10 * 16 * 64 + sum(held[:1]) - 10 * 16 * 64
    assert infos["loss"].shape == (1, 600) and infos["loss"].all()


def test_random_boxes_depend_on_seed_stage_epoch_and_place_alone() -> None:
    def view(seeds: int, seed: int, name: str, epoch: int) -> Any:
        data = {"streaming": True, "image_size": 6, "crop_scale": 0.2, "crop_padding": 0}
        config = {"seed": seed, "seeds": seeds, "data": data, "network": {"auxiliary": False}}
        return compose.view(compose.setting(config_io.from_dict(config)), name, epoch, 10 * seeds)

    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    first = view(1, 3, "step1", 5)
    np.testing.assert_array_equal(first(image, 4), view(1, 3, "step1", 5)(image, 4))
    np.testing.assert_array_equal(first(image, 4), view(2, 2, "step1", 5)(image, 14))  # the second of two seeds
    assert first(image, 4).shape == (6, 6, 3)
    for other in (view(1, 4, "step1", 5), view(1, 3, "step2", 5), view(1, 3, "step1", 6)):
        assert (first(image, 4) != other(image, 4)).any()
    assert (first(image, 4) != first(image, 5)).any()
