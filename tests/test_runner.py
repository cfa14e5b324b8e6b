"""Phases one after another, by toys: stopped or killed anywhere they end with the same bits; all that they declare
counts."""

import collections
import itertools
import json
import pathlib
import re
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, compose, config, runner
from dass_jax.compose import Setting
from dass_jax.errors import Stopped, UserError
from dass_jax.phases import TRAINING, Curve, Feed, Matrix, Phase, single
from dass_jax.runtime import keeping, memory, parallel
from dass_jax.runtime.signals import Signals
from tests import devices, toys
from tests.config_files import one_line
from tests.runs import scalars

EPOCHS = ["walk"] * 2 + ["nap"] * 2 + ["dance"] * 3
CALLS = 6 + 2 + 6 + 3 * 3
"""One for each step and, after each epoch of "dance", for each batch of the test images."""


class Killed(BaseException):
    """As good as SIGKILL, as far as files go: nothing of the run is asked any more."""


class Counting(Signals):
    """Counts the looks at the note; at the nth there is a signal, or the process is killed."""

    def __init__(self, nth: int, kills: bool = False) -> None:
        super().__init__()
        self.left, self.kills = nth, kills

    def agreed(self, due: bool = False) -> tuple[int, bool]:
        self.left -= 1
        if self.left == 0 and self.kills:
            raise Killed
        if self.left == 0:
            self.asked = signal.SIGTERM
        return super().agreed(due)


def same(one: toys.Ran, other: toys.Ran) -> None:
    """The same lines, and the same bits of the state and of the last checkpoint."""
    assert one.lines == other.lines
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert list(one.leaves) == list(other.leaves)
    for path, leaf in one.leaves.items():
        there = other.leaves[path]
        assert (there.dtype, there.shape, there.tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes()), path
    assert one.facts["at"] == other.facts["at"] and one.facts["epochs"] == other.facts["epochs"]


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    """For all runs of one seed on one device."""
    return {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, programs: dict[str, Any]) -> toys.Ran:
    return toys.run(tmp_path_factory.mktemp("whole"), toys.setting(), programs)


def test_every_epoch_has_a_line_and_a_checkpoint(whole: toys.Ran) -> None:
    assert [line["phase"] for line in whole.lines] == EPOCHS
    assert [(line["epoch"], line["epochs"]) for line in whole.lines[2:]] == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    assert {(line["method"], line["chain"]) for line in whole.lines} == {("toy", "training")}
    assert all("seed" not in line for line in whole.lines)
    assert {"loss", "left", "gradient_norm", "shift", "learning_rate", "height"} <= set(whole.lines[0])
    own = {"low_loss", "high_loss", "low_left", "learning_rate_low", "learning_rate_high", "test_accuracy", "test_loss"}
    assert own <= set(whole.lines[-1])
    assert [line["learning_rate"] for line in whole.lines[:2]] == [0.1, 0.05]
    assert whole.facts["saved"] == len(EPOCHS) and whole.facts["epochs"] == {"toy": len(EPOCHS)}
    at = {"method": "toy", "chain": "training", "seeds": [3], "phase": "dance", "epoch": 3}
    assert whole.facts["at"] == {**at, "built": {"dance": [0, 1]}, "stopped": False}


def test_a_phase_goes_on_with_what_the_one_before_has_left_and_changes_its_own_alone(whole: toys.Ran) -> None:
    parts = [jax.tree.map(lambda x: x[0], v) for _, v in whole.seen]
    for before, after in itertools.pairwise(parts[:4]):
        kept = ("push",) if after is parts[1] else ("pull", "means")
        jax.tree.map(np.testing.assert_array_equal, *([v[name] for name in kept] for v in (before, after)))
    # By hand: gradients 2 and 0.6, momentum 0.9, rates 0.1 and 0.05; halved after each epoch.
    np.testing.assert_allclose([v["push"] for v in parts[:4]], [[0.5] * 2] * 2 + [[0.15] * 2, [0.015] * 2], rtol=1e-5)
    assert [len(v["pull"]["parts"]) for v in parts] == [4] * 5 + [3, 2]
    assert whole.said.count("a smaller program after epoch") == 2


AFTER_STEPS = {
    *(("walk", epoch, step) for epoch in (0, 1) for step in (1, 2, 3)),
    *(("nap", epoch, 1) for epoch in (0, 1)),
    *(("dance", epoch, step) for epoch in (0, 1, 2) for step in (1, 2, 3)),
}
AFTER_EPOCHS = {("walk", 1, None), ("walk", 2, None), ("nap", 1, None), ("nap", 2, None), ("dance", 1, None)}
STOPS = {
    "signals": (False, 0.0, AFTER_STEPS),
    "kills": (True, 0.0, AFTER_EPOCHS),
    "kills, with pauses": (True, 1e-9, {place for place in AFTER_STEPS if place[2] < 3 and place[0] != "nap"}),
}


@pytest.mark.parametrize(("kills", "minutes", "expected"), STOPS.values(), ids=STOPS)
def test_stopped_at_every_call_a_run_ends_with_the_same_bits(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path, kills: bool, minutes: float, expected: Any
) -> None:
    """Each time a call later than the last time at that place, so that steps and evaluations all get their turn. A
    signal leaves a pause; after a kill there is the newest one or, without any, the checkpoint of an epoch."""
    s, end = toys.setting(checkpoint_minutes=minutes), None
    place: tuple[Any, ...] = ()
    places = collections.Counter([place])
    while end is None:
        try:
            end = toys.run(tmp_path, s, programs, Counting(places[place], kills))
        except (Stopped, Killed) as error:
            assert isinstance(error, Killed) or error.code == 143
            stopped = toys.left(tmp_path)
            assert stopped.lines == whole.lines[: len(stopped.lines)]
            place = tuple(stopped.facts.get("at", {}).get(name) for name in ("phase", "epoch", "step"))
            places[place] += 1
    assert expected <= set(places)
    same(end, whole)


def test_events_are_those_of_every_epoch_once_however_often_it_was_begun(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    s = toys.setting()
    for nth in (5, 2, 9, 5):
        with pytest.raises(Killed):
            toys.run(tmp_path, s, programs, Counting(nth, kills=True))
    toys.run(tmp_path, s, programs)
    found = scalars(tmp_path / "events" / "toy")
    for epoch, line in enumerate(whole.lines, 1):
        own = {name: value for name, value in line.items() if isinstance(value, float)}
        there = {tag: steps[epoch] for tag, steps in found.items() if epoch in steps}
        assert there.pop(f"{line['phase']}/seconds") > 0
        assert there == pytest.approx({f"{line['phase']}/{name}": value for name, value in own.items()}, rel=1e-6)
    assert list(found["dance/learning_rate_low"]) == [5, 6, 7]


def test_the_checkpoint_before_a_damaged_one_is_used_and_said(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """The newest is a pause, the one before it another, and before that there is an epoch's."""
    s = toys.setting(checkpoint_minutes=1e-9)
    with pytest.raises(Stopped):
        toys.run(tmp_path, s, programs, Counting(5))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]
    for number, before, at in ((5, 4, ("walk", 1, 1)), (4, 3, ("walk", 1, None))):
        damage(tmp_path / "checkpoints" / str(number))
        (line,) = said(tmp_path)
        assert re.fullmatch(rf"checkpoint {number} is damaged \(.+\): going back to checkpoint {before}", line)
        found = toys.left(tmp_path)
        assert tuple(found.facts["at"].get(name) for name in ("phase", "epoch", "step")) == at
    same(toys.run(tmp_path, s, programs), whole)


def test_nothing_but_damaged_checkpoints_is_an_error_that_leaves_all_as_it_is(
    programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    s = toys.setting()
    with pytest.raises(Stopped):
        toys.run(tmp_path, s, programs, Counting(5))
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"checkpoints in .*: none of 2 can be read, .* allowed: an intact one"):
        toys.run(tmp_path, s, programs)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def damage(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def said(folder: pathlib.Path) -> list[str]:
    with keeping.opened(folder, 3) as (_, found):
        return found.said


def wild(average: Any, bad: tuple[int, ...]) -> Phase:
    """Two epochs of three steps, of which those are not finite in the gradient of one leaf."""

    def loss(v: Any, batch: Any, key: jax.Array) -> Any:
        value, more = toys.pull(average)(v, batch, key)
        return value + jnp.where(v["rates"]["bad"] > 0, jnp.inf, 0.0) * v["pull"]["w"].sum(), more

    steps = single(bilevel.descend(bilevel.Level("pull", loss, toys.moved("low")), average), "low")

    def rates(progress: np.ndarray) -> dict[str, Any]:
        return {**toys.rates("low")(progress), "bad": np.isin(np.rint(progress * 6), bad).astype(float)}

    return Phase("wild", "", 2, steps, lambda key, _: steps.init(toys.fresh(key)), {"low": Feed(TRAINING, 16)}, rates)


def test_a_step_that_is_not_finite_stops_the_run_with_the_state_before_it_kept(tmp_path: pathlib.Path) -> None:
    s = toys.setting()
    chosen, programs = (wild(s.layout.over_devices(parallel.mean), (4,)),), dict[str, Any]()
    kept = []
    for _ in range(2):  # the second time it goes on from what the first has kept
        with pytest.raises(UserError) as caught:
            toys.run(tmp_path, s, programs, chosen=chosen)
        message = one_line(caught)
        assert re.match(r"toy · wild, epoch 2, step 2: loss = -?(inf|nan), .*gradient_norm = (inf|nan), ", message)
        assert "first in the gradient of pull['w']; allowed: finite numbers" in message
        kept.append(toys.left(tmp_path))
        assert (kept[-1].facts["at"]["epoch"], kept[-1].facts["at"]["step"]) == (1, 1)
    assert [line["epoch"] for line in kept[-1].lines] == [1]
    assert all(np.isfinite(leaf).all() for leaf in kept[0].leaves.values())
    assert all(leaf.tobytes() == kept[1].leaves[path].tobytes() for path, leaf in kept[0].leaves.items())


def test_of_several_seeds_none_keeps_a_pause_and_the_one_that_went_wrong_is_named(tmp_path: pathlib.Path) -> None:
    s = toys.setting(2)
    with pytest.raises(UserError) as caught:
        toys.run(tmp_path, s, {}, chosen=(wild(s.layout.over_devices(parallel.mean), (4,)),))
    assert one_line(caught).startswith("toy · wild · seeds 3, 4, seed 3, epoch 2, step 2: loss = ")
    assert "step" not in toys.left(tmp_path).facts["at"]


def test_steps_that_are_not_finite_are_left_out_where_that_is_asked_for(tmp_path: pathlib.Path) -> None:
    s = toys.setting(nonfinite="skip")
    average = s.layout.over_devices(parallel.mean)
    end = toys.run(tmp_path / "some", s, {}, chosen=(wild(average, (1, 4, 5)),))
    assert [line.get("skipped_steps") for line in end.lines] == [1, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end.state))
    with pytest.raises(UserError, match=r"^toy · wild, epoch 1: loss = nan; allowed: a finite number"):
        toys.run(tmp_path / "all", s, {}, chosen=(wild(average, (0, 1, 2)),))


def test_a_phase_may_end_before_its_time_and_is_measured_then(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    s = toys.setting()
    walk, nap, dance = toys.phases(s)
    chosen = (
        walk._replace(stop=lambda line: line["epoch"] == 1),
        nap,
        dance._replace(stop=lambda line: line["epoch"] > 1),
    )
    end = toys.run(tmp_path / "whole", s, programs, chosen=chosen)
    assert [line["phase"] for line in end.lines] == ["walk", "nap", "nap", "dance", "dance"]
    assert [line.get("stopped", False) for line in end.lines] == [True, False, False, False, True]
    assert "toy · walk: ended by its stop rule after epoch 1" in end.said
    assert end.lines[0] == {**whole.lines[0], "stopped": True}
    assert [epochs for epochs, _ in end.seen] == [1, 2, 1, 2, 1, 2, 3], "the end is looked at as the end"
    for nth in (4, 1, 9):  # with the first phase over, within the next ones
        with pytest.raises(Stopped):
            toys.run(tmp_path / "stopped", s, programs, Counting(nth), chosen)
    same(toys.run(tmp_path / "stopped", s, programs, chosen=chosen), end)


def test_of_several_seeds_all_must_want_to_end(tmp_path: pathlib.Path) -> None:
    s = toys.setting(2)
    walk = toys.phases(s)[0]
    chosen = (walk._replace(stop=lambda line: line["seed"] == 3),)
    assert len(toys.run(tmp_path, s, {}, chosen=chosen).lines) == 4


def as_they_are(s: Setting) -> tuple[Phase, ...]:
    return tuple(phase._replace(rebuild=None) for phase in toys.phases(s))


def test_a_batch_of_seeds_on_any_devices_is_each_seed_alone_on_one(
    x64: None, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """In 64 bits, where another order of additions stays far below 1e-9. A signal stops all of them."""
    devices.doubled(monkeypatch)
    s = toys.setting()
    alone = toys.run(tmp_path / "alone", s, {}, chosen=as_they_are(s))
    assert {x.dtype for x in jax.tree.leaves(alone.state)} == {np.dtype("float64")}
    for count, axis in ((1, "batch"), (2, "batch"), (2, "seeds")):
        s, programs, place = toys.setting(4, count, axis), dict[str, Any](), tmp_path / f"{count} {axis}"
        assert s.layout.sharing == (2 if (count, axis) == (2, "batch") else 1)
        with pytest.raises(Stopped):
            toys.run(place, s, programs, Counting(2), as_they_are(s))
        assert toys.left(place).facts["at"]["seeds"] == [3, 4, 5, 6]
        found = toys.run(place, s, programs, chosen=as_they_are(s))
        assert [line["seed"] for line in found.lines] == [3, 4, 5, 6] * len(EPOCHS)
        for line, own in zip(found.lines[::4], alone.lines, strict=True):
            numbers = {name: value for name, value in own.items() if isinstance(value, float)}
            assert {name: line[name] for name in numbers} == pytest.approx(numbers, rel=1e-6, abs=2e-6)  # rounded
        jax.tree.map(near, found.state, alone.state)
        assert all((x[0] != x[1]).any() for x in jax.tree.leaves(found.state.variables["pull"]["w"]))
        assert {path.name for path in (place / "events").iterdir()} == {f"toy-seed{seed}" for seed in s.seeds}


def near(several: Any, one: Any) -> None:
    np.testing.assert_allclose(several[:1], one, rtol=1e-9, atol=1e-11)


def test_each_program_is_compiled_once_and_seconds_are_entered_by_phase(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    names = ["walk", "nap", "dance None", "evaluation", "dance [0, 1, 2]", "dance [0, 1]"]
    assert list(programs) == [f"{name}, 1 seeds" for name in names]
    s, own = toys.setting(), dict[str, Any]()
    walk, nap, _ = toys.phases(s)
    again = walk._replace(name="stroll", program="walk", begin=lambda key, state: walk.algorithm.init(state.variables))
    found = toys.run(tmp_path, s, own, chosen=(walk, again, nap))
    assert list(own) == ["walk, 1 seeds", "nap, 1 seeds"]
    (current,) = found.facts["current"].values()
    assert list(current["seconds"]) == ["compile", "walk", "stroll", "nap"]
    assert all(seconds > 0 for seconds in current["seconds"].values())


def test_phases_of_equal_draws_see_the_same_and_others_do_not(tmp_path: pathlib.Path) -> None:
    s, ends = toys.setting(), []
    (walk, *_), programs = toys.phases(s), dict[str, Any]()
    for number, own in enumerate(({}, {"draws": "walk"}, {"draws": "other"})):
        chosen = (walk._replace(name="other" if own else "walk", program="walk", **own),)
        ends.append(toys.run(tmp_path / str(number), s, programs, chosen=chosen).state)
    jax.tree.map(np.testing.assert_array_equal, ends[0], ends[1])
    assert (ends[0].variables["pull"]["w"] != ends[2].variables["pull"]["w"]).all()


def test_the_end_of_a_first_phase_is_taken_over_from_another_run(
    whole: toys.Ran, programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    s, shelf = toys.setting(), tmp_path / "shelf" / "walk"
    shelf.parent.mkdir()
    same(toys.run(tmp_path / "first", s, programs, shared=shelf), whole)
    second = toys.run(tmp_path / "second", s, programs, shared=shelf)
    assert [line.pop("shared", False) for line in second.lines] == [True] * 2 + [False] * 5
    assert "toy · walk: taken over from first" in second.said and [n for n, _ in second.seen] == [1, 2, 1, 2, 3]
    clocks = [found.facts["current"]["3"]["seconds"]["walk"] for found in (second, toys.left(tmp_path / "first"))]
    assert clocks[0] == pytest.approx(clocks[1], abs=1e-3)
    same(second, whole)
    damage(shelf / "1")
    same(toys.run(tmp_path / "third", s, programs, shared=shelf), whole)


def test_a_run_says_what_its_phases_are_and_how_they_are_drawn(
    programs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    s = toys.setting()
    walk, *others = toys.phases(s)
    matrix = Matrix("pushes", ("all",), ("left", "right"), "much")
    walk = walk._replace(curves=(Curve("height", "heights", "sum", "m", "dashed"),), matrices={"push": matrix})
    toys.run(tmp_path, s, programs, chosen=(walk, *others))
    found = json.loads((tmp_path / "phases.json").read_text(encoding="utf-8"))["methods"]["toy"]
    assert [(phase["chain"], phase["name"], phase["title"], phase["epochs"]) for phase in found] == [
        ("training", "walk", "One level", 2),
        ("training", "nap", "Without images", 2),
        ("training", "dance", "Two levels", 3),
    ]
    own = {"metric": "height", "group": "heights", "line": "sum", "unit": "m", "style": "dashed", "gap": False}
    assert [phase["curves"][:1] for phase in found[:2]] == [[own], []]
    assert [phase["hidden"] for phase in found] == [
        ["learning_rate", "shift", "gradient_norm"],
        ["learning_rate", "shift", "gradient_norm"],
        ["learning_rate_high", "learning_rate_low", "shift", "high_gradient_norm", "low_gradient_norm"],
    ]
    labels = {"title": "pushes", "rows": ["all"], "columns": ["left", "right"], "value": "much"}
    assert found[0]["matrices"] == {"push": labels} and found[1]["matrices"] == {}


def test_a_phase_that_does_not_fit_into_memory_is_refused_with_its_own_batch(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda devices: 0)
    with pytest.raises(UserError) as caught:
        toys.run(tmp_path, toys.setting(), {})
    assert one_line(caught).startswith("toy · walk: train.batch_size = 16 needs ")
    assert not toys.left(tmp_path).facts and not toys.left(tmp_path).lines
    s = toys.setting(memory_check=False)
    toys.run(tmp_path, s, {}, chosen=toys.phases(s)[:1])


def test_the_batch_of_a_control_is_its_own() -> None:
    """The main method has none."""
    s = toys.setting()
    s = s._replace(config=config.from_dict({"method": {"name": "random"}, "controls": ["darts"]}))
    (phase, *_) = compose.search(
        s._replace(config=config.from_dict({"space": {"cells": 1, "channels": 2}})), "darts"
    ).phases
    chain = runner.Chain("darts", runner.SEARCH, (phase,), lambda *_: [])
    assert runner.batch_of(s, chain, phase) == memory.Batch("method", 64, 1, "space.remat")
    other = runner.Chain("darts", runner.TRAINING, (), lambda *_: [])
    assert runner.batch_of(s, other, toys.phases(s)[1]) == memory.Batch("train", 0, 1, None)
