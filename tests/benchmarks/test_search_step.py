"""The benchmark of the search step, on a supernet of one cell: what it times, reports and refuses."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import search_step
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.variables import ALPHA
from tests import supernets

SMALL = search_step.Size((4, 4, 1), 4, SupernetConfig(classes=3, cells=1, channels=2, nodes=1))


def test_our_step_goes_on_from_its_own_result(monkeypatch: pytest.MonkeyPatch) -> None:
    supernets.few_in_benchmarks(monkeypatch)
    record: dict[str, Any] = {}
    run = search_step.ours(SMALL, record)
    losses = []
    for _ in range(4):
        state, info = run()
        losses.append(float(info["lower"].loss))
    # Momentum at this rate, on one and the same batch, must lower its loss.
    assert losses[-1] < losses[0]
    assert [int(x) for x in jax.tree.leaves(state.optimizers[ALPHA]) if x.dtype == np.int32] == [4]
    assert min(record["trace_seconds"], record["compile_seconds"]) > 0 and record["estimated_bytes"] > 10_000


def test_a_step_that_does_not_fit_is_left_out_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_step.memory, "available", lambda devices: 1000)
    found = search_step.in_this_process(SMALL, [search_step.OURS], 1)
    assert found["skipped"].startswith("our step needs ") and found["skipped"].endswith("are available")
    assert "seconds" not in found and "\n" not in found["skipped"]


@pytest.mark.parametrize("case", search_step.PEERS)
def test_the_peers_step_moves_both_levels(case: str) -> None:
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from benchmarks import peer

    made, make = [], peer.supernet

    def supernet(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "supernet", supernet)
        run = search_step.peers(SMALL, case)
    (network,) = made
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    run()
    moved = {name for name, parameter in network.named_parameters() if not parameter.equal(before[name])}
    # The only cell reduces, so the normal cells' α stays.
    assert before.keys() - moved == {"alpha.normal"}
    depthwise = network.cells[0].edges[0].operations["sep_conv_3x3"][0].pointwise.weight
    assert depthwise.is_contiguous(memory_format=peer.torch.channels_last)


def record(seconds: dict[str, list[float]]) -> dict[str, Any]:
    facts = {"trace_seconds": 1.0, "compile_seconds": 20.0, "compiling_bytes": 3_000_000_000, "skipped": None}
    memory = dict.fromkeys(seconds, 2_000_000_000)
    return {"size": "tiny", "remat": False, "bytes": memory, "seconds": seconds, **facts}


def test_rows_compare_ours_with_each_peer() -> None:
    found = list(search_step.rows(record({"ours": [1.0, 9.0, 2.0], "peer NCHW": [8.0, 8.0, 1.0]})))
    assert [row["case"] for row in found] == ["ours", "peer NCHW"]
    assert [row["median s"] for row in found] == [2.0, 8.0]
    assert [row["ours/peer"] for row in found] == [None, 0.25]
    assert [row["compile s"] for row in found] == [20.0, None]
    assert [row["peak GB"] for row in found] == [2.0, 2.0]


def test_without_ours_there_is_no_ratio() -> None:
    found = list(search_step.rows(record({"peer NCHW": [8.0]})))
    assert [(row["ours/peer"], row["peak GB compiling"]) for row in found] == [(None, None)]


def test_an_impossible_number_of_repetitions_is_one_line() -> None:
    script = pathlib.Path(search_step.__file__)
    command = [sys.executable, str(script), "--repetitions", "0"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "error: --repetitions = 0; allowed: at least 1\n"


def test_the_paper_sizes_are_the_papers() -> None:
    paper = search_step.SIZES["paper"]
    assert (paper.config.channels, paper.config.cells, paper.config.nodes, paper.batch) == (16, 8, 4, 64)
    assert json.loads(json.dumps(search_step.SIZES["digits"].image)) == [8, 8, 1]
