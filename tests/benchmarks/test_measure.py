"""The measuring itself: order, memory, tables."""

import json
import pathlib
import resource
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import measure
from dass_jax.runtime import memory


def test_cases_take_turns_and_warm_up_turns_do_not_count() -> None:
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in "ABC"}
    seconds = measure.alternately(cases, repetitions=3, warmup=2)
    assert calls == list("ABC") * 5
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3, "C": 3}


def test_seconds_are_those_of_the_case_and_jax_results_are_waited_for() -> None:
    waited = []

    class Result:
        def block_until_ready(self) -> None:
            time.sleep(0.03)
            waited.append(True)

    seconds = measure.alternately({"slow": Result, "quick": lambda: None}, repetitions=2, warmup=0)
    assert len(waited) == 2
    assert min(seconds["slow"]) >= 0.03 > 10 * min(seconds["quick"]) >= 0


def test_a_rest_comes_before_every_call_and_is_not_measured() -> None:
    ends, starts = [], []

    def case() -> None:
        starts.append(time.perf_counter())
        ends.append(time.perf_counter())

    seconds = measure.alternately({"A": case, "B": case}, repetitions=2, warmup=0, rest=0.03)
    assert all(start - end >= 0.03 for end, start in zip(ends, starts[1:], strict=False))
    assert max(seconds["A"] + seconds["B"]) < 0.03


def test_calls_that_lead_are_not_measured() -> None:
    calls = []

    def case() -> None:
        calls.append("A")
        time.sleep(0.03 * (len(calls) % 3 > 0))  # of each three calls, the last is quick

    seconds = measure.alternately({"A": case}, repetitions=2, warmup=0, lead=2)
    assert len(calls) == 6 and len(seconds["A"]) == 2 and max(seconds["A"]) < 0.03


@pytest.mark.parametrize(("cases", "repetitions"), [({}, 1), ({"A": int}, 0)])
def test_nothing_to_measure_is_an_error(cases: dict, repetitions: int) -> None:
    with pytest.raises(ValueError, match="allowed: at least one of each"):
        measure.alternately(cases, repetitions)


def test_the_ratio_is_of_medians_not_of_means() -> None:
    assert measure.ratio_of_medians([1.0, 2.0, 300.0], [4.0, 3.0, 5.0]) == 0.5


def test_peak_memory_is_the_processes_own_however_large_its_parent_is() -> None:
    ballast = np.ones(25_000_000)  # 200 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > ballast.nbytes
    small, large = (
        measure.run_in_process([sys.executable, "-c", f"x = bytearray({size}); x[::4096] = x[::4096]; print(7)"])
        for size in (0, 150_000_000)
    )
    assert (small.code, small.output) == (0, "7\n")
    assert small.peak_bytes < 60_000_000
    assert 140_000_000 < large.peak_bytes - small.peak_bytes < 200_000_000


def test_a_process_that_fails_says_so() -> None:
    assert measure.run_in_process([sys.executable, "-c", "raise SystemExit(3)"]).code == 3


def test_the_machine_is_described_in_json() -> None:
    found = json.loads(json.dumps(measure.machine()))
    assert found["jax"] == jax.__version__
    assert found["cores"] >= 1 and found["memory_bytes"] >= memory.host_bytes() > 0
    assert found["processor"] and found["device"] == "cpu"


def test_a_record_is_written_with_its_folder(tmp_path: pathlib.Path) -> None:
    measure.write_json(tmp_path / "new" / "record.json", {"seconds": [0.5]})
    assert json.loads((tmp_path / "new" / "record.json").read_text(encoding="utf-8")) == {"seconds": [0.5]}


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    rows = [{"case": "ours", "seconds": 0.12345, "ratio": None}, {"case": "the peer", "seconds": 12.0, "ratio": 1}]
    assert measure.table(rows).splitlines() == [
        "case      seconds  ratio",
        "ours        0.123      -",
        "the peer       12      1",
    ]
    assert measure.table([]) == ""
