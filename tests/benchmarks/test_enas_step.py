"""The benchmark of ENAS' steps, on networks of two channels: what it trains, times and writes."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import enas_step as benchmark
from dass_jax.errors import UserError
from dass_jax.tasks import Batch
from dass_jax.variables import PARAMS


@pytest.mark.parametrize("space", benchmark.DEFAULTS)
def test_alone_a_child_is_a_program_without_a_choice(space: str) -> None:
    work = benchmark.Work(space, 3, 2, 4, 4, 2)
    (child,) = benchmark.children(work, 1)
    batches, rates = {benchmark.CHILD: Batch(*benchmark.examples(work)[:2])}, {benchmark.CHILD: np.float32(0.1)}
    programs = {}
    for alone in (False, True):
        init, update = benchmark.step(work, child, alone)
        state = jax.eval_shape(init)

        def step(state: Any, key: Any, update: Any = update) -> Any:
            return update(state, batches, key, learning_rate=rates)

        key = jax.eval_shape(lambda: jax.random.key(0))
        program, (after, infos) = jax.make_jaxpr(step, return_shape=True)(state, key)
        assert list(infos) == [PARAMS] and PARAMS in after.optimizers
        assert jax.tree.structure(after) == jax.tree.structure(state)
        programs[alone] = str(program)
    assert " cond[" in programs[False] and " cond[" not in programs[True]


def test_it_prints_what_is_asked_for_and_writes_every_repetition(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ours", "peers", "controller", "forward"):
        monkeypatch.setattr(benchmark, name, lambda work, *given: lambda: work.layers)
    file = tmp_path / "record.json"
    assert benchmark.main(["--repetitions", "2", "--children", "2", "--output", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["work"] == ["enas_macro", 12, 36, 32, 32, 20] and record["machine"]["jax"]
    cases = [f"{case}, child {n}" for n in (1, 2) for case in (benchmark.SHARED, benchmark.ALONE, *benchmark.PEERS)]
    assert {case: len(own) for case, own in record["seconds"].items()} == dict.fromkeys(
        [*cases, benchmark.SAMPLES, benchmark.FORWARD], 2
    )
    said = capsys.readouterr().out
    assert "shared over alone" in said and "at most 1.3" in said and "at most 1.5" in said and "aim 1.5" in said
    with pytest.raises(UserError, match="--children = 0; allowed"):
        benchmark.main(["--children", "0"])


def test_ratios_of_children_are_geometric_means() -> None:
    seconds = {f"{case}, child {n}": [1.0] for n in (1, 2) for case in (benchmark.ALONE, *benchmark.PEERS)}
    seconds |= {"shared, child 1": [1.0, 2.0, 9.0], "shared, child 2": [8.0], "forward passes": [2.0]}
    found = benchmark.claims({**seconds, "samples with rewards": [3.0]}, 2)
    assert [row["is"] for row in found] == pytest.approx([4.0, 0.25, 0.25, 1.5])
