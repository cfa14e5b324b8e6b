"""The benchmark of the hypergradients, on a perceptron of eight units."""

import json
import pathlib

import pytest

from benchmarks import hypergradients
from dass_jax import bilevel


def test_it_measures_against_first_order(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.json"
    options = ["--problems", "8", "--steps", "2", "--only", "remat|amended", "--repetitions", "2"]
    hypergradients.main([*options, "--output", str(file)])
    record = json.loads(file.read_text(encoding="utf-8"))
    names = [row["estimator"] for row in record["rows"]]
    assert names == ["first_order()", "unrolled(2, remat)", "amended(0.1)"]
    assert record["rows"][0]["turn"] == record["rows"][0]["estimate"] == "1.0 ×"
    assert all(row["memory in MB"] > 0 and row["turn in ms"] > 0 for row in record["rows"])
    assert all(len(seconds) == 2 for kind in record["seconds"]["8"].values() for seconds in kind.values())
    assert record["machine"]["jax"]
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_every_estimator_has_a_row() -> None:
    names = {name.partition("(")[0] for name in hypergradients.estimators([1], "")}
    assert names == set(bilevel.ESTIMATORS)


@pytest.mark.parametrize("problem", ["0", "wide", "-3"])
def test_a_wrong_problem_is_named(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hypergradients.main([f"--problems={problem}"])
    assert f"--problems {problem}; allowed: widths of at least 1, or 'supernet'" in capsys.readouterr().err
