"""The benchmark of what less memory costs, on a supernet of one cell: its cases differ as they say."""

import pytest

from benchmarks import less_memory, search_step
from dass_jax.spaces.darts import SupernetConfig
from tests import supernets

SMALL = search_step.Size((8, 8, 1), 64, SupernetConfig(classes=3, cells=1, channels=2, nodes=1))


def test_parts_need_less_than_the_whole_and_every_case_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    supernets.few_in_benchmarks(monkeypatch)
    monkeypatch.setitem(search_step.SIZES, "tiny", SMALL)
    found = less_memory.in_this_process("tiny", ["plain", "accumulate 4"], 2)
    planned = {case: record["estimated_bytes"] for case, record in found["records"].items()}
    assert planned["accumulate 4"] < planned["plain"]
    assert {case: len(seconds) for case, seconds in found["seconds"].items()} == {"plain": 2, "accumulate 4": 2}
    whole = {"size": "tiny", "compiling": found["records"], "bytes": planned, "seconds": found["seconds"]}
    rows = {row["case"]: row for row in less_memory.rows(whole)}
    assert rows["plain"]["time/plain"] == 1 and rows["plain"]["peak GB"] == planned["plain"] / 1e9
