"""The benchmark of NAS-Bench-201's step, on a supernet of two channels: what it trains, times and writes."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import nasbench201_step as benchmark
from dass_jax.errors import UserError
from dass_jax.nn.skeletons import Sizes
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA

SMALL = benchmark.Work(Sizes(3, 1, 2), 4, 4, frozen=False)


def test_a_call_is_some_steps_and_the_next_one_goes_on() -> None:
    call = benchmark.ours(SMALL)
    first, second = call(), call()
    assert list(first) == ["lower", "upper"]
    losses = np.concatenate([infos["lower"].loss for infos in (first, second)])
    assert losses.shape == (2 * benchmark.STEPS,)
    # Momentum, on one and the same batch, must lower its loss.
    assert losses[-1] < losses[benchmark.STEPS] < losses[0]


def test_frozen_logits_are_no_level_and_stay() -> None:
    for frozen in (True, False):
        init, update = benchmark.step(SMALL._replace(frozen=frozen))
        state, infos = jax.eval_shape(update, jax.eval_shape(init), {"lower": batch()}, jax.random.key(0), **rates())
        assert (ALPHA in state.optimizers, len(infos)) == ((False, 1) if frozen else (True, 2))


def test_half_of_the_operations_leave_each_edge_some() -> None:
    (live,) = benchmark.half().values()
    assert live.sum() == live.size // 2 and live.any(1).all()
    init, _ = benchmark.step(SMALL, benchmark.half())
    whole, _ = benchmark.step(SMALL)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(f).variables)) for f in (init, whole)]
    assert sizes[0] < sizes[1]


def batch() -> Batch:
    return Batch(*benchmark.batch(SMALL))


def rates() -> dict[str, Any]:
    return {"learning_rate": {level: np.float32(0.1) for level in ("lower", "upper")}}


def test_it_prints_a_table_and_writes_every_repetition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "ours", lambda work, live=None: lambda: work)
    monkeypatch.setattr(benchmark, "peers", lambda work, case: lambda: case)
    file = tmp_path / "record.json"
    assert benchmark.main(["--repetitions", "2", "--frozen", "--output", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["work"] == [[10, 1, 16], 32, 64, True] and record["machine"]["jax"]
    assert {case: len(seconds) for case, seconds in record["seconds"].items()} == dict.fromkeys(
        (benchmark.OURS, benchmark.HALF, *benchmark.PEERS), 2
    )
    assert len(capsys.readouterr().out.splitlines()) == 5
    with pytest.raises(UserError, match="--repetitions = 0; allowed: at least 1"):
        benchmark.main(["--repetitions", "0"])
