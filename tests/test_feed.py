"""What levels see, and streamed examples against the same in memory: the same steps, the same sums, the same bits; and
bounded memory."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from dass_jax import compose, config, feed, runner, schedules
from dass_jax.compose import Setting, prepare_evaluation
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Feed, Phase
from dass_jax.runtime import calls, epoch, parallel
from dass_jax.runtime.calls import Done
from dass_jax.runtime.signals import Signals
from tests import toys

PARTS = 2 * 16 * 16
"""Bytes: two steps of 16 images of one seed."""


def setting(streaming: bool, devices: int = 1, seeds: int = 1) -> Setting:
    """Four steps in an epoch; crops, mirrors and cutout are on."""
    return toys.setting(seeds, devices, images=128, data={"crop_padding": 1, "cutout": 2, "streaming": streaming})


def phase_of(s: Setting, name: str) -> Phase:
    """A toy phase, with drop-path and cutout where it sees the training images."""
    (phase,) = (phase for phase in toys.phases(s) if phase.name == name)
    feeds = {
        level: feed and feed._replace(cutout=True, paths=(2, 3)) if level == "low" else feed
        for level, feed in phase.feeds.items()
    }
    rates = phase.rates
    return phase._replace(feeds=feeds, rates=lambda p: {**rates(p), "drop_path": schedules.linear(0.3, 0.5)(p)})


def of(s: Setting) -> feed.Feed:
    return feed.streamed(s, PARTS) if s.config.data.streaming else feed.of(s)


def begun(s: Setting, name: str) -> Any:
    state = None
    for phase in toys.phases(s):
        state = runner.begun(s, phase, compose.key(s, "toy"), state)
        if phase.name == name:
            return jax.tree.map(np.asarray, state)
    raise ValueError(name)


def compiler(s: Setting, names: list[str] | None = None) -> feed.Compile:
    def compile(name: str, function: Any, arguments: tuple[Any, ...], donate: bool) -> Any:
        if names is not None:
            names.append(name)
        return s.layout.program(function, arguments, donate)

    return compile


def nothing(*_: Any) -> None:
    """Between two calls."""


class After(NamedTuple):
    state: Any
    infos: list[Any]
    names: list[str]
    """Of the programs."""


def after_epochs(s: Setting, name: str, epochs: range, seconds: float) -> After:
    """After some epochs of a phase, by calls of so many seconds."""
    found, phase = After(None, [], []), phase_of(s, name)
    state = s.layout.put(begun(s, name))
    advance = of(s).advance(s, phase, state, compiler(s, found.names))
    for number in epochs:
        state, infos, _ = calls.in_calls(advance(number), state, seconds, nothing, Done())
        found.infos.append(infos)
    return found._replace(state=s.layout.get(state))


@pytest.mark.parametrize(
    ("name", "devices", "seeds", "steps"), [("dance", 2, 1, 1), ("walk", 1, 2, 1), ("walk", 2, 1, 2), ("nap", 1, 2, 1)]
)
def test_streamed_epochs_are_those_in_memory_to_the_bit(name: str, devices: int, seeds: int, steps: int) -> None:
    """In parts of so many steps, of four; without images an epoch is one step."""
    one, other = (
        after_epochs(setting(streaming, devices, seeds), name, range(2), 0.0 if streaming else 1e9)
        for streaming in (False, True)
    )
    assert [own.rpartition(", ")[2] for own in other.names] == [f"{steps} steps a call"]
    assert {x.shape[-1] for x in jax.tree.leaves(one.infos)} == {1 if name == "nap" else 4}
    before = begun(setting(False, devices, seeds), name)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, one.state)), strict=True))
    jax.tree.map(np.testing.assert_array_equal, other.state, one.state)
    jax.tree.map(np.testing.assert_array_equal, other.infos, one.infos)


def test_an_epoch_in_parts_goes_on_from_any_step() -> None:
    s = setting(True)
    start = begun(s, "walk")
    advance = of(s).advance(s, phase_of(s, "walk"), s.layout.put(start), compiler(s))
    series = advance(0)
    assert (series.total, series.part) == (4, 2)
    kept: list[tuple[Any, Done]] = []

    def keep(state: Any, done: Done, infos: Any) -> None:
        kept.append((s.layout.get(state), done))

    _, infos, _ = calls.in_calls(series, s.layout.put(start), 0.0, keep, Done())
    assert [done.steps for _, done in kept] == [1, 2, 3, 4]
    for state, done in kept:  # the last one is that of an evaluation after the epoch
        state, again, _ = calls.in_calls(advance(0), s.layout.put(state), 1e9, nothing, done)
        jax.tree.map(np.testing.assert_array_equal, s.layout.get(state), kept[-1][0])
        jax.tree.map(np.testing.assert_array_equal, again, infos)


def test_an_evaluation_streams_every_test_image_once() -> None:
    sums = []
    for streaming in (False, True):
        s = setting(streaming, 2)
        function = epoch.evaluation(toys.outputs, s.task.sums, prepare_evaluation(s))
        network = s.layout.put(jax.tree.map(np.asarray, begun(s, "dance")).variables)
        batches = of(s).evaluate(s, "evaluation", function, network, 4, compiler(s))
        sums.append(calls.evaluate(batches, network, Signals(), 0.0 if streaming else 1e9))
    assert sums[0]["examples"] == sums[1]["examples"] == 10
    assert sums[0]["right"] == sums[1]["right"]
    np.testing.assert_allclose(sums[1]["loss"], sums[0]["loss"], rtol=1e-6)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_is_the_same_for_data_of_other_brightness(streaming: bool) -> None:
    """So that with `data.limit`, where every seed has images of its own, all seeds share a program."""
    texts: list[str] = []

    def compile(name: str, function: Any, arguments: tuple[Any, ...], donate: bool) -> Any:
        axes = tuple(0 if number < 2 else None for number in range(len(arguments)))
        texts.append(jax.pmap(function, axis_name=parallel.AXIS, in_axes=axes).lower(*arguments).as_text())

    for shift in (0.0, 0.1):
        s = setting(streaming)
        data = s.dataset._replace(mean=s.dataset.mean + np.float32(shift), std=s.dataset.std + np.float32(shift))
        s = s._replace(dataset=data)
        state = s.layout.put(begun(s, "walk"))
        of(s).advance(s, phase_of(s, "walk"), state, compile)
        function = epoch.evaluation(toys.outputs, s.task.sums, prepare_evaluation(s))
        of(s).evaluate(s, "evaluation", function, s.layout.put(begun(s, "dance").variables), 4, compile)
    assert texts[:2] == texts[2:]


def test_an_epoch_of_any_size_holds_two_parts_on_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is a stand-in that counts, at each call, the images on the devices; an epoch is 60 parts of them."""
    s = setting(True)

    def rows(s: Setting, split: str, seed: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 128, 600 * 16)

    monkeypatch.setattr(compose, "split_rows", rows)
    held: list[int] = []

    def compile(name: str, function: Any, arguments: tuple[Any, ...], donate: bool) -> Any:
        def program(state: Any, examples: epoch.Examples, *rest: Any) -> Any:
            held.append(sum(x.nbytes for x in jax.live_arrays() if x.dtype == np.uint8))
            return state, {"loss": parallel.replicate(np.ones((1, 10), np.float32), s.devices)}

        return program

    advance = feed.streamed(s, 10 * 16 * 16).advance(s, phase_of(s, "walk"), None, compile)
    _, infos, _ = calls.in_calls(advance(0), None, 1e9, nothing, Done())
    part = 10 * 16 * 16
    assert 60 <= len(held) < 70 and max(held) <= 2 * part + held[0] - part
    assert infos["loss"].shape == (1, 600) and infos["loss"].all()


def test_random_boxes_depend_on_seed_draws_epoch_and_place_alone() -> None:
    def view(seeds: int, seed: int, name: str, epoch: int) -> Any:
        data = {"streaming": True, "image_size": 6, "crop_scale": 0.2, "crop_padding": 0}
        s = setting(True)._replace(config=config.from_dict({"data": data}), seeds=tuple(range(seed, seed + seeds)))
        return compose.view(s, name, epoch, 10 * seeds)

    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    first = view(1, 3, "step1", 5)
    np.testing.assert_array_equal(first(image, 4), view(1, 3, "step1", 5)(image, 4))
    np.testing.assert_array_equal(first(image, 4), view(2, 2, "step1", 5)(image, 14))  # the second of two seeds
    assert first(image, 4).shape == (6, 6, 3)
    for other in (view(1, 4, "step1", 5), view(1, 3, "step2", 5), view(1, 3, "step1", 6)):
        assert (first(image, 4) != other(image, 4)).any()
    assert (first(image, 4) != first(image, 5)).any()


def fed(name: str = "walk", number: int = 0, seeds: int = 1, **feeds: Feed | None) -> feed.Inputs:
    s = setting(False, seeds=seeds)
    return feed.inputs(s, toys.phases(s)[0]._replace(name=name, feeds=feeds), number)


def test_levels_see_the_split_the_batch_and_as_many_batches_as_they_ask_for() -> None:
    given = fed(low=Feed(TRAINING, 8, batches=3), high=Feed(VALIDATION, 8), all=Feed(WHOLE, 16), none=None)
    shapes = {level: rows.shape for level, rows in given.indices.items()}
    assert shapes == {"low": (1, 2, 3, 8), "high": (1, 2, 8), "all": (1, 2, 16)} and given.steps == 2
    assert {rows.dtype for rows in given.indices.values()} == {np.dtype("int32")}
    s = setting(False)
    for level, split in (("low", TRAINING), ("high", VALIDATION)):
        assert set(given.indices[level].ravel()) <= set(compose.split_rows(s, split, 3)), level
    assert not set(given.indices["low"].ravel()) & set(given.indices["high"].ravel()), "never the same image"
    assert fed(none=None).steps == 1 and fed(none=None).indices == {}


def test_epochs_draws_levels_and_seeds_have_an_order_of_their_own() -> None:
    one = Feed(WHOLE, 16)
    first = fed(low=one)
    np.testing.assert_array_equal(first.indices["low"], fed(low=one).indices["low"])
    for other in (fed(number=1, low=one), fed("stroll", low=one)):
        assert (first.indices["low"] != other.indices["low"]).any()
        assert (jax.random.key_data(first.keys) != jax.random.key_data(other.keys)).any()
    several = fed(low=one, high=one)
    assert (several.indices["low"] != several.indices["high"]).any()
    both = fed(seeds=2, low=one)
    np.testing.assert_array_equal(both.indices["low"][0], first.indices["low"][0])
    assert (both.indices["low"][0] != both.indices["low"][1]).any()
    assert (jax.random.key_data(both.keys)[0] != jax.random.key_data(both.keys)[1]).any()


def test_rates_are_of_the_progress_of_each_step() -> None:
    s = setting(False)
    walk = toys.phases(s)[0]._replace(epochs=5, rates=lambda p: {"learning_rate": {"low": 0.5}, "square": p**2})
    rates = feed.inputs(s, walk, 2).rates
    np.testing.assert_allclose(rates["progress"], (2 + np.arange(4) / 4) / 5, rtol=1e-6)
    np.testing.assert_allclose(rates["square"], ((2 + np.arange(4) / 4) / 5) ** 2, rtol=1e-6)
    np.testing.assert_array_equal(rates["learning_rate"]["low"], np.full(4, 0.5, np.float32))
    assert {rate.dtype for rate in jax.tree.leaves(rates)} == {np.dtype("float32")}
