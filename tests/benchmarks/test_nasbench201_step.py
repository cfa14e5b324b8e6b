"""The benchmark of NAS-Bench-201's step, on a supernet of two channels: what it trains, times and writes."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import nasbench201_step as benchmark
from dass_jax.errors import UserError
from dass_jax.nn.skeletons import Sizes

SMALL = benchmark.Work(Sizes(3, 1, 2), 4, 4, frozen=False)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_call_is_some_steps_and_the_next_one_goes_on(frozen: bool) -> None:
    call = benchmark.ours(SMALL._replace(frozen=frozen))
    first, second = call(), call()
    assert list(first) == (["params"] if frozen else ["lower", "upper"])
    losses = np.concatenate([next(iter(infos.values())).loss for infos in (first, second)])
    assert losses.shape == (2 * benchmark.STEPS,)
    # Momentum, on one and the same batch, must lower its loss.
    assert losses[-1] < losses[benchmark.STEPS] < losses[0]


def test_it_prints_a_table_and_writes_every_repetition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "ours", lambda work: lambda: work)
    monkeypatch.setattr(benchmark, "peers", lambda work, case: lambda: case)
    file = tmp_path / "record.json"
    assert benchmark.main(["--repetitions", "2", "--frozen", "--output", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["work"] == [[10, 1, 16], 32, 64, True] and record["machine"]["jax"]
    assert {case: len(seconds) for case, seconds in record["seconds"].items()} == dict.fromkeys(
        (benchmark.OURS, *benchmark.PEERS), 2
    )
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(UserError, match="--repetitions = 0; allowed: at least 1"):
        benchmark.main(["--repetitions", "0"])
