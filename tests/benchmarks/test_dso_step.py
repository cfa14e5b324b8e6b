"""The benchmark of DSO-NAS' turn, on a supernet of two channels: what it trains, times and writes."""

import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from benchmarks import dso_step as benchmark
from dass_jax.errors import UserError
from dass_jax.methods.dso import CONNECTIONS
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA, PARAMS

SMALL = benchmark.Work((1,), 2, 4, 4, 0.3)


def test_a_part_of_the_connections_is_a_smaller_program() -> None:
    live, shapes = benchmark.part_of(SMALL), {}
    assert 30 <= sum(int(mask.sum()) for mask in live.values()) <= 42
    for name, own in (("all", None), ("part", live)):
        init, update = benchmark.step(SMALL, own)
        state = jax.eval_shape(init)
        batches = dict.fromkeys(("lower", "upper"), Batch(*benchmark.examples(SMALL)))
        rates = dict.fromkeys(("lower", "upper"), np.float32(0.1))
        after, infos = jax.eval_shape(update, state, batches, jax.random.key(0), learning_rate=rates)
        assert list(infos) == ["lower", "upper"] and set(after.optimizers) == {PARAMS, ALPHA}
        assert jax.tree.structure(after) == jax.tree.structure(state) and CONNECTIONS in after.variables
        shapes[name] = sum(leaf.size for leaf in jax.tree.leaves(state.variables[PARAMS]))
    assert shapes["part"] < shapes["all"]


def test_it_prints_a_table_and_writes_every_repetition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ours(work: benchmark.Work, live: object, remat: bool, planned: Callable[[int], object]) -> Callable[[], object]:
        planned(10**9 // (1 + remat))
        return lambda: work

    monkeypatch.setattr(benchmark, "ours", ours)
    monkeypatch.setattr(benchmark, "peers", lambda work, case: lambda: case)
    file = tmp_path / "record.json"
    assert benchmark.main(["--repetitions", "2", "--remat", "--output", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["work"] == [[2, 2, 2], 16, 32, 64, 0.5, True] and record["machine"]["jax"]
    assert {case: len(seconds) for case, seconds in record["seconds"].items()} == dict.fromkeys(
        (benchmark.OURS, benchmark.PART, benchmark.REMAT, *benchmark.PEERS), 2
    )
    assert record["planned_bytes"] == {benchmark.OURS: 10**9, benchmark.PART: 10**9, benchmark.REMAT: 5 * 10**8}
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 6 + 3 and "at least 1, aim 1.5" in said
    assert "ours over 50 % of the connections" in said and "at least 1.4" in said
    with pytest.raises(UserError, match="--repetitions = 0; allowed: at least 1"):
        benchmark.main(["--repetitions", "0"])
