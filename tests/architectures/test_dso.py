"""Blocks of levels: their connections, what sweeping leaves of them, and the errors of JSON that is no such block."""

import json
from typing import Any

import numpy as np
import pytest

from dass_jax import architectures
from dass_jax.architectures import dso
from dass_jax.architectures.dso import Blocks
from dass_jax.errors import UserError

FIGURE = [("in", "2.0"), ("1.1", "2.0"), ("1.1", "2.1"), ("1.1", "out"), ("2.0", "out"), ("2.1", "out")]
"""The paper's Figure 5, after pruning; its edges into the first level are none here."""
SMALL = Blocks("share", 2, ("sep3", "max3"), (dso.swept(FIGURE, 2, 2),), (("1x1", "3x3"), ("3x3",)))


@pytest.mark.parametrize(
    ("levels", "operations", "number"),
    [(4, 4, 124), (2, 2, 10), (2, 4, 28), (3, 4, 68), (5, 4, 196), (4, 2, 38), (4, 3, 75), (4, 5, 185), (1, 3, 3)],
)
def test_a_block_has_as_many_connections_as_the_formula_says(levels: int, operations: int, number: int) -> None:
    found = dso.connections(levels, operations)
    assert len(set(found)) == len(found) == number
    assert number == (levels**2 - levels) * operations**2 // 2 + 2 * levels * operations - operations


def test_of_the_papers_block_twelve_connections_come_from_the_input_and_sixteen_go_to_the_output() -> None:
    found = dso.connections(4, 4)
    assert sum(source == "in" for source, _ in found) == 12
    assert sum(target == "out" for _, target in found) == 16
    assert ("in", "out") not in found and not any(target.startswith("1.") for _, target in found)


def brute(left: set[tuple[str, str]], levels: int, operations: int) -> set[tuple[str, str]]:
    """Takes operations without an input or without a reader out, one at a time, until there is none."""
    left = set(left)
    while True:
        for node in dso.nodes(levels, operations)[1:-1]:
            own = {pair for pair in left if node in pair}
            fed = node.startswith("1.") or any(target == node for _, target in own)
            read = any(source == node for source, _ in own)
            if own and not (fed and read):
                left -= own
                break
        else:
            return left


def test_sweeping_is_taking_dead_operations_out_one_at_a_time() -> None:
    rng, changed = np.random.default_rng(0), 0
    for _ in range(2000):
        levels, operations = (int(n) for n in rng.integers(1, 5, 2))
        every = dso.connections(levels, operations)
        left = [pair for pair in every if rng.random() < rng.choice([0.1, 0.3, 0.6])]
        found = dso.swept(left, levels, operations)
        assert set(found) == brute(set(left), levels, operations)
        assert list(found) == [pair for pair in every if pair in set(found)]
        assert dso.swept(found, levels, operations) == found
        assert set(dso.living(found)) == {node for pair in found for node in pair} - {"in", "out"}
        changed += len(found) < len(left)
    assert changed > 500


def test_of_the_papers_figure_the_operation_without_a_reader_is_not_there() -> None:
    assert dso.swept(FIGURE, 2, 2) == tuple(FIGURE)
    assert dso.living(SMALL.blocks[0]) == ("1.1", "2.0", "2.1")
    drawn = dso.graphs(SMALL)[0]
    assert drawn.nodes == ("in", "1.1 max3", "2.0 sep3", "2.1 max3", "out")
    assert {(edge.source, edge.target) for edge in drawn.edges} == {
        ("in", "1.1 max3"), ("in", "2.0 sep3"), ("1.1 max3", "2.0 sep3"), ("1.1 max3", "2.1 max3"),
        ("1.1 max3", "out"), ("2.0 sep3", "out"), ("2.1 max3", "out"), ("in", "out"),
    }  # fmt: skip
    assert [graph.name for graph in dso.graphs(SMALL)] == ["block", "reduction 0", "reduction 1"]


def test_json_is_that_of_the_docstring() -> None:
    assert json.loads(json.dumps(architectures.to_json(SMALL))) == {
        "space": "dso",
        "scope": "share",
        "levels": 2,
        "operations": ["sep3", "max3"],
        "blocks": [[["in", "2.0"], ["1.1", "2.0"], ["1.1", "2.1"], ["1.1", "out"], ["2.0", "out"], ["2.1", "out"]]],
        "reductions": [["1x1", "3x3"], ["3x3"]],
    }


def test_a_block_without_connections_is_warned_of() -> None:
    full = Blocks("full", 1, ("sep3",), ((("1.0", "out"),), ()), ())
    assert dso.warnings(full) == {"block 1": "no connection is left: the block is its shortcut"}
    assert architectures.from_json(architectures.to_json(full)) == full
    assert dso.warnings(dso.whole("share", 4, ("sep3",), 24, 2)) == {}
    assert len(dso.whole("full", 4, ("sep3",), 24, 2).blocks) == 24


PAIR = (
    "allowed: [source, target], in → level 2 and more, level.operation → a later level or out; levels 1 to 2, "
    "operations 0 to 1"
)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cell": 1}, "unknown key 'cell'; allowed: scope, levels, operations, blocks, reductions"),
        ({"scope": "all"}, "scope = 'all'; allowed: share, full"),
        ({"levels": True}, "levels = True; allowed: an integer in [1, 8]"),
        ({"levels": 9}, "levels = 9; allowed: an integer in [1, 8]"),
        (
            {"operations": ["sep4"]},
            "operations: 'sep4' (did you mean 'sep7'?); allowed: sep3, sep5, sep7, max3, avg3",
        ),
        ({"operations": []}, "operations = []; allowed: at least one of sep3, sep5, sep7, max3, avg3"),
        ({"operations": ["sep3"] * 9}, "operations = 9; allowed: at most 8"),
        ({"blocks": {}}, "blocks = {}; allowed: a list"),
        ({"blocks": [[], []]}, "blocks = 2; allowed: 1 in scope 'share'"),
        ({"blocks": []}, "blocks = 0; allowed: 1 in scope 'share'"),
        ({"blocks": [7]}, "blocks[0] = 7; allowed: a list"),
        ({"blocks": [[["in", "out"]]]}, f"blocks[0][0] = ['in', 'out']; {PAIR}"),
        ({"blocks": [[["2.0", "1.0"]]]}, f"blocks[0][0] = ['2.0', '1.0']; {PAIR}"),
        ({"blocks": [["in"]]}, f"blocks[0][0] = 'in'; {PAIR}"),
        (
            {"blocks": [[["in", "2.0"], ["1.0", "out"]]]},
            "blocks[0]: in → 2.0; allowed: each connection once, on a way from in to out",
        ),
        (
            {"blocks": [[["1.0", "out"], ["1.0", "out"]]]},
            "blocks[0]: 1.0 → out; allowed: each connection once, on a way from in to out",
        ),
        ({"reductions": [[]]}, "reductions[0] = []; allowed: at least one of 1x1, 3x3"),
        ({"reductions": [["1x1", "1x1"]]}, "reductions[0] = ['1x1', '1x1']; allowed: at least one of 1x1, 3x3"),
        ({"reductions": None}, "reductions = None; allowed: a list"),
    ],
)
def test_json_of_no_block_is_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        architectures.from_json({**architectures.to_json(SMALL), **changed}, "f")
    assert str(caught.value) == f"f: {message}"
