"""A table of a space's parts adds up what its networks are made of, on a clock that shows multiply-accumulates."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dass_jax import compose, config, spaces
from dass_jax.deploy import graph
from dass_jax.errors import UserError
from dass_jax.latency import clock, dense, parts
from dass_jax.nn.layers import one_device

MOBILE = ["--space", "mobile", "--dataset", "digits", "--stages", "2", "1", "--width", "0.2", "--stem", "cifar"]
DSO = ["--space", "dso", "--dataset", "digits", "--stages", "2", "1", "--channels", "4", "--levels", "2"]
DSO += ["--operations", "sep3", "max3"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A call takes as many milliseconds as its graph has multiply-accumulates; what was asked for is kept."""
    asked: list[Any] = []

    def in_turns(calls: Mapping[str, Callable[[], Any]], warm_up: int, repetitions: int) -> dict[str, clock.Times]:
        asked.append((len(calls), warm_up, repetitions))
        return {name: clock.Times(call(), call()) for name, call in calls.items()}

    def runner(runtime: str | None, batch: int) -> Callable[[graph.Graph], Callable[[], float]]:
        asked.append((runtime, batch))
        return lambda found: lambda: float(graph.size(found).macs)

    monkeypatch.setattr(clock, "in_turns", in_turns)
    monkeypatch.setattr(dense, "runner", runner)
    return asked


def test_what_adds_up_exactly_is_predicted_exactly(
    fake: list[Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.json"
    flags = ["--warm-up", "3", "--repetitions", "7", "--batch", "8"]
    assert parts.main([*MOBILE, *flags, "--out", str(file)]) == 0
    assert fake == [("xla", 8), (2 * 18, 3, 7), (parts.REFERENCES + 20, 3, 7)]
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["image"], found["batch"], found["space"], found["runtime"]) == ([8, 8, 1], 8, "mobile", "xla")
    check = found["check"]
    assert len(check["measured_ms"]) == 20 and len(set(check["measured_ms"])) > 15
    assert check["predicted_ms"] == check["measured_ms"] and check["mean_relative_error"] == 0
    # 8 channels to 24 and back, 3×3 for each of them, on 4×4 pixels.
    assert found["entries"]["k3e3, 8→8 channels, 4×4, stride 1"] == (2 * 8 * 24 + 9 * 24) * 16
    said = capsys.readouterr().out
    assert "20 random networks: mean relative error 0.0 %" in said and all(name in said for name in found["entries"])
    with pytest.raises(UserError, match="exists; allowed: a new file"):
        parts.parse([*MOBILE, "--out", str(file)])


def test_blocks_of_levels_lose_what_their_parts_take(fake: list[Any], tmp_path: pathlib.Path) -> None:
    """And what is measured is what a search of these sizes reads."""
    file = tmp_path / "table.json"
    assert parts.main([*DSO, "--check", "5", "--out", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found["entries"]) == [
        "sep3, 4 channels, 8×8", "max3, 4 channels, 8×8", "output, 4 channels, 8×8",
        "sep3, 8 channels, 4×4", "max3, 8 channels, 4×4", "output, 8 channels, 4×4",
    ]  # fmt: skip
    assert found["entries"]["output, 8 channels, 4×4"] == 8 * 8 * 16
    assert found["check"]["predicted_ms"] == found["check"]["measured_ms"] and found["image"] == [8, 8, 1]
    fields = dataclasses.replace(spaces.SPACES["dso"].schema(**found["fields"]), latency=str(file))
    fields = dataclasses.replace(fields, stages=tuple(fields.stages), operations=tuple(fields.operations))
    spaces.SPACES["dso"].fits(fields, 10, (8, 8, 1))
    assert "latency" in spaces.SPACES["dso"].make(fields, 10, one_device, None).costs
    compose.setting(
        config.from_dict(
            {
                "controls": [],
                "space": {"name": "dso", **{**found["fields"], "latency": str(file)}},
                "method": {"name": "dso", "epochs": 2, "batch_size": 8, "budget": "latency"},
                "network": {"stages": [2, 1], "channels": 4},
                "train": {"recipe": "dense", "batch_size": 8},
            }
        )
    )


def test_images_may_be_smaller_than_the_data_sets(fake: list[Any], tmp_path: pathlib.Path) -> None:
    colour, file = [value if value != "digits" else "cifar10" for value in DSO], tmp_path / "table.json"
    assert parts.main([*colour, "--image-size", "12", "--check", "0", "--out", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["image"] == [12, 12, 3] and "max3, 8 channels, 6×6" in found["entries"]


@pytest.mark.parametrize(("lost", "said"), [(0.0, ""), (1e6, "2 of 6 parts measured as less than nothing")])
def test_differences_below_zero_are_said_and_kept(
    fake: list[Any],
    lost: float,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    """As a machine that is at other work while the shorter chains of pools are timed."""
    usual, file = clock.in_turns, tmp_path / "table.json"

    def disturbed(*given: Any) -> dict[str, clock.Times]:
        found = usual(*given)
        slow = {name for name in found if name.startswith("max3") and name.endswith("/1")}
        return {name: each._replace(median=each.median + lost * (name in slow)) for name, each in found.items()}

    monkeypatch.setattr(clock, "in_turns", disturbed)
    parts.main([*DSO, "--check", "0", "--out", str(file)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "nothing" in line]
    assert [line.partition(":")[0] for line in lines] == ([said] if said else [])
    assert all("quiet machine or more --repetitions" in line for line in lines)
    entries = json.loads(file.read_text(encoding="utf-8"))["entries"]
    assert {name for name, value in entries.items() if value < 0} == {
        name for name in entries if lost and name.startswith("max3")
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "darts"], "--space = 'darts'; allowed: dso, mobile"),
        (["--space", "moble"], "--space = 'moble' (did you mean 'mobile'?); allowed: darts, "),
        ([*MOBILE, "--batch", "0"], "--batch = 0; allowed: a number in [1, 65536]"),
        ([*MOBILE, "--image-size", "0"], "--image-size = 0; allowed: a number in [1, 4096]"),
        ([*MOBILE, "--cells", "3"], "unknown flag '--cells'"),
        ([*MOBILE, "--stages", *"1111111"], "space.stages = (1, 1, 1, 1, 1, 1, 1); allowed: 1 to 6 numbers of blocks"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parts.main(flags)
    assert str(caught.value).startswith(message)


def test_a_batch_runs_by_xla() -> None:
    """For real, once."""
    from dass_jax.nn.level_blocks import Operation

    found = dense.chain(lambda name: Operation("sep3", parts_norm(), name=name), 1, (4, 4, 2))
    assert dense.runner("xla", 3)(found)().shape == (3, 2)


def parts_norm() -> Any:
    from dass_jax.nn import layers

    return layers.batch_norm(False, affine=True)
