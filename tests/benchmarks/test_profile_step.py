"""The profile of a step: kinds, names, and what it counts."""

import json
import pathlib

import pytest

from benchmarks import profile_step, search_step
from dass_jax.spaces.darts import SupernetConfig

SMALL = search_step.Size((12, 12, 1), 4, SupernetConfig(classes=3, cells=1, channels=2, nodes=1))
"""With more pixels than a window operation takes as a matrix, in which its two gradients are products alike."""


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("jvp(Supernet)/cell_0/edges_0/edges_0._separable/edges_0._depthwise/add", "depthwise, forward"),
        ("transpose(jvp(Supernet))/cell_0/edges_0._depthwise/jit(f)/mul", "depthwise, gradient of the input"),
        (
            "transpose(jvp(S))/cell_0/_depthwise/jit(sums_of_products)/reduce",
            "depthwise, gradient of the weights",
        ),
        ("jvp(Supernet)/cell_0/edges_0/edges_0._pointwise/dot_general", "pointwise products"),
        ("jvp(Supernet)/cell_0/edges_0/norm_1/mul", "normalisation and its gradient"),
        ("jvp(Supernet)/cell_0/edges_0/norm_1/jit(weighted_terms)/mul", "weighted sums of maps and their gradients"),
        ("adam/sqrt", "other"),
    ],
)
def test_the_kind_of_work_is_read_off_an_operations_name(operation: str, kind: str) -> None:
    assert profile_step.kind(operation) == kind


def test_seconds_are_summed_by_kind_and_loops_and_calls_do_not_count_twice() -> None:
    program = """
  %dot.1 = f32[2]{0} dot(), metadata={op_name="jit(f)/_pointwise/dot_general" id=1}
  %while.2 = (f32[2]{0}, s32[]) while(%tuple), metadata={op_name="jit(f)/_pointwise/while"}
  ROOT %jit__pointwise_.4 = f32[2]{0} call(), metadata={op_name="jit(f)/jit(_pointwise)"}
  copy.3 = f32[2] copy()
"""
    origin = profile_step.origins(program)
    assert origin == {"dot.1": "jit(f)/_pointwise/dot_general", "copy.3": ""}
    events = [
        {"ph": "X", "name": name, "dur": 1e6}
        for name in ("dot.1", "dot.1", "while.2", "jit__pointwise_.4", "copy.3", "something else")
    ]
    assert profile_step.spent(events, origin) == {"pointwise products": 2.0, "other": 1.0}


def test_a_profile_of_a_real_step(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    monkeypatch.setitem(search_step.SIZES, "tiny", SMALL)
    monkeypatch.setattr("sys.argv", ["profile_step.py", "--size", "tiny", "--output", str(tmp_path / "found.json")])
    assert profile_step.main() == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert 0 < sum(found["parts"].values()) < 60 and found["parts"]["pointwise products"] > 0
    # A kind that is not found has lost the names that its pattern looks for.
    assert {name for name, _ in profile_step.KINDS} <= set(found["parts"])
    assert found["flops"] > 10_000 and found["bytes"] > 10_000 and min(found["limits"].values()) > 1e8


def test_flops_of_the_peer_are_those_of_its_convolutions() -> None:
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    once, twice = (profile_step.flops(SMALL._replace(batch=batch)) for batch in (4, 8))
    assert twice == pytest.approx(2 * once, rel=1e-3)
