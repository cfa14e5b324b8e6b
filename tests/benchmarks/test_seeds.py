"""The benchmark of several seeds, on a supernet of one cell: all ways take the same steps, and each is reported."""

import contextlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import search_step, seeds
from dass_jax.errors import UserError

WAYS = (seeds.ALONE, seeds.TURNS, seeds.TOGETHER)


def test_all_ways_take_the_same_steps_from_different_starts() -> None:
    """Of Step 2, which Step 1 is a part of."""
    record, step, count = dict[str, Any](), "step2", 3
    with seeds.devices("tiny", step, count, record) as run:
        made = seeds.cases(seeds.size_of("tiny"), step, count, record)
        for _ in range(2):
            states, turns, together = (made[way]() for way in WAYS)
            mean = run()
    assert sum(key.endswith("compile seconds") and value > 0 for key, value in record.items()) == 4
    assert mean == pytest.approx(seeds.mean_weight(turns, step), rel=1e-4)
    name = seeds.STEPS[step]
    for batch in (turns, together):
        parts = [jax.tree.map(lambda x, k=k: x[k], batch.variables[name]) for k in range(count)]
        for state, part in zip(states, parts, strict=True):
            own = state.variables[name]
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), own, part)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, parts[:2]), strict=True))


def test_it_prints_a_table_and_writes_every_repetition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cases(size: search_step.Size, step: str, count: int, record: dict[str, Any]) -> dict[str, Any]:
        record.update({f"{case}: compile seconds": 1.0 for case in (*WAYS, seeds.DEVICES)})
        return {case: lambda: count for case in WAYS}

    monkeypatch.setattr(seeds, "cases", cases)
    monkeypatch.setattr(seeds, "devices", lambda *_: contextlib.nullcontext(lambda: 0.0))
    file = tmp_path / "seeds.json"
    assert (
        seeds.main(["--sizes", "tiny", "config", "--seeds", "2", "3", "--repetitions", "2", "--output", str(file)]) == 0
    )
    found = json.loads(file.read_text(encoding="utf-8"))["sizes"]
    assert [(x["size"], x["step"], x["seeds"]) for x in found] == [
        (size, step, count) for size in ("tiny", "config") for step in ("step1", "step2") for count in (2, 3)
    ]
    assert all(len(times) == 2 for record in found for times in record["seconds"].values())
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4 * len(found)


def test_the_ratio_is_that_of_the_medians() -> None:
    record = {
        "size": "tiny",
        "step": "step1",
        "seeds": 2,
        "seconds": {seeds.ALONE: [4.0, 9.0, 6.0], seeds.TOGETHER: [3.0]},
    }
    record |= {f"{case}: compile seconds": 1.0 for case in record["seconds"]}
    assert [row["times as fast"] for row in seeds.rows(record)] == [1.0, 2.0]


@pytest.mark.parametrize(("argument", "allowed"), [("--seeds=1", "at least 2"), ("--repetitions=0", "at least 1")])
def test_impossible_numbers_are_one_line(argument: str, allowed: str) -> None:
    with pytest.raises(UserError, match=f"; allowed: {allowed}"):
        seeds.main([argument])
