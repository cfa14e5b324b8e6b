"""Genotypes as plain data: the published cells, the JSON form, and one clear line for every damage."""

import json
import re
from typing import Any

import pytest

from dass_jax import architectures
from dass_jax.architectures import darts as genotype
from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES, PUBLISHED, Cell, Genotype
from dass_jax.errors import UserError

# Written out from the papers, as released with their code.
DARTS_V2 = Genotype(
    normal=(
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    reduce=(
        (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
        (("max_pool_3x3", 0), ("skip_connect", 2)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
)
DASS_99 = Genotype(
    normal=(
        (("avg_pool_3x3", 0), ("skip_connect", 1)),
        (("dil_conv_5x5", 1), ("skip_connect", 2)),
        (("avg_pool_3x3", 2), ("skip_connect", 1)),
        (("skip_connect", 4), ("skip_connect", 3)),
    ),
    reduce=(
        (("max_pool_3x3", 1), ("sep_conv_3x3", 0)),
        (("max_pool_3x3", 1), ("dil_conv_3x3", 2)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
        (("max_pool_3x3", 1), ("skip_connect", 4)),
    ),
)
SEP5, DIL3, DIL5, SKIP, SEP3, AVG3 = (
    *("sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "skip_connect", "sep_conv_3x3", "avg_pool_3x3"),
)
REMAINING = {
    "dass_95": (
        (((SEP5, 0), (SKIP, 1)), ((DIL5, 1), (SEP3, 2)), ((DIL3, 2), (SEP3, 0)), ((SEP3, 2), (SEP3, 0))),
        (((SEP3, 0), (AVG3, 1)), ((SEP3, 0), (SEP5, 2)), ((SEP5, 1), (SEP5, 2)), ((DIL3, 1), (DIL3, 2))),
    ),
    "dass_90": (
        (((DIL3, 1), (DIL5, 0)), ((SEP5, 0), (DIL5, 1)), ((SEP5, 0), (SEP3, 3)), ((SEP3, 2), (DIL5, 0))),
        (((SKIP, 1), (SKIP, 0)), ((DIL5, 1), (DIL5, 2)), ((DIL5, 2), (DIL5, 3)), ((DIL5, 3), (SKIP, 0))),
    ),
    "darts_sparse": (
        (((SEP3, 0), (SEP3, 1)), ((SKIP, 0), (SKIP, 1)), ((SKIP, 0), (SKIP, 2)), ((SKIP, 0), (SKIP, 1))),
        (((AVG3, 0), (DIL3, 1)), ((SKIP, 2), (AVG3, 0)), ((SKIP, 2), (AVG3, 0)), ((AVG3, 0), (SKIP, 2))),
    ),
}


def test_primitives_are_those_of_the_papers_in_their_order() -> None:
    assert PRIMITIVES == ("none", "max_pool_3x3", "avg_pool_3x3", SKIP, SEP3, SEP5, DIL3, DIL5)
    assert set(PRIMITIVES) - set(OPERATIONS) == {"none"}


def test_edges_are_all_earlier_inputs_of_every_node_in_order() -> None:
    assert genotype.edges(2) == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert len(genotype.edges(4)) == 14


def test_published_cells_are_those_of_the_papers() -> None:
    assert PUBLISHED.keys() == {"dass_99", "dass_95", "dass_90", "darts_sparse", "darts_v1", "darts_v2"}
    assert PUBLISHED["darts_v2"] == DARTS_V2
    assert PUBLISHED["dass_99"] == DASS_99
    for name, cells in REMAINING.items():
        assert PUBLISHED[name] == Genotype(*cells)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_survive_json(name: str) -> None:
    text = json.dumps(genotype.to_json(PUBLISHED[name]))
    assert genotype.from_json(json.loads(text)) == PUBLISHED[name]


def test_json_is_lists_of_pairs() -> None:
    data = genotype.to_json(DASS_99)
    assert data["normal"][1] == [["dil_conv_5x5", 1], ["skip_connect", 2]]
    assert list(data) == ["normal", "reduce"]


GOOD = {"normal": [[["skip_connect", 0], ["sep_conv_3x3", 1]]], "reduce": [[["max_pool_3x3", 0], ["skip_connect", 1]]]}
OPERATIONS_TEXT = ", ".join(OPERATIONS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "g.json: list found; allowed: an object with 'normal' and 'reduce'"),
        (None, "g.json: NoneType found; allowed: an object with 'normal' and 'reduce'"),
        (
            {**GOOD, "normall": []},
            "g.json: unknown key 'normall' (did you mean 'normal'?); allowed: normal, reduce",
        ),
        ({**GOOD, "xyz": 1}, "g.json: unknown key 'xyz'; allowed: normal, reduce"),
        (
            {"normal": GOOD["normal"]},
            "g.json: reduce = None; allowed: a list of nodes, each a list of [operation, input] pairs",
        ),
        (
            {**GOOD, "normal": []},
            "g.json: normal = []; allowed: a list of nodes, each a list of [operation, input] pairs",
        ),
        (
            {**GOOD, "reduce": "skip_connect"},
            "g.json: reduce = 'skip_connect'; allowed: a list of nodes, each a list of [operation, input] pairs",
        ),
        (
            {**GOOD, "normal": GOOD["normal"] * 2},
            "g.json: normal has 2 nodes and reduce 1; allowed: equally many",
        ),
        (
            {**GOOD, "normal": [[], [["skip_connect", 2]]]},
            "g.json: normal, node 3: input 2; allowed: 0, 1",
        ),
        (
            {**GOOD, "normal": [*GOOD["normal"], 7]},
            "g.json: normal, node 3 = 7; allowed: a list of [operation, input] pairs",
        ),
        (
            {**GOOD, "reduce": [[["skip_connect", 0, 1]]]},
            "g.json: reduce, node 2: ['skip_connect', 0, 1]; allowed: a pair [operation, input]",
        ),
        (
            {**GOOD, "reduce": [["skip_connect", 0]]},
            "g.json: reduce, node 2: 'skip_connect'; allowed: a pair [operation, input]",
        ),
        (
            {**GOOD, "reduce": [[["skip_conect", 0]]]},
            "g.json: reduce, node 2: operation 'skip_conect' (did you mean 'skip_connect'?); "
            f"allowed: {OPERATIONS_TEXT}",
        ),
        (
            {**GOOD, "reduce": [[["none", 0]]]},
            "g.json: reduce, node 2: operation 'none'",
        ),
        (
            {**GOOD, "reduce": [[[["skip_connect"], 0]]]},
            f"g.json: reduce, node 2: operation ['skip_connect']; allowed: {OPERATIONS_TEXT}",
        ),
        ({**GOOD, "normal": [[["skip_connect", 2]]]}, "g.json: normal, node 2: input 2; allowed: 0, 1"),
        ({**GOOD, "normal": [[["skip_connect", -1]]]}, "g.json: normal, node 2: input -1; allowed: 0, 1"),
        ({**GOOD, "normal": [[["skip_connect", 1.0]]]}, "g.json: normal, node 2: input 1.0; allowed: 0, 1"),
        ({**GOOD, "normal": [[["skip_connect", True]]]}, "g.json: normal, node 2: input True; allowed: 0, 1"),
        ({**GOOD, "normal": [[["skip_connect", "1"]]]}, "g.json: normal, node 2: input '1'; allowed: 0, 1"),
        (
            {**GOOD, "normal": [GOOD["normal"][0], [["skip_connect", 3]]]},
            "g.json: normal, node 3: input 3; allowed: 0, 1, 2",
        ),
    ],
)
def test_damaged_json_is_named_by_place_value_and_what_is_allowed(data: Any, message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(message)):
        genotype.from_json(data, "g.json")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        genotype.from_json({**GOOD, "normal": "x" * 1000})
    assert "xxx...; allowed: a list of nodes" in str(caught.value)
    assert len(str(caught.value)) < 150


ANY: Cell = (
    ((SKIP, 1),),
    (),
    ((DIL3, 0), (SKIP, 1), (SEP5, 2)),
    ((AVG3, 2),),
    ((SEP3, 0), (AVG3, 1), (SKIP, 2), (DIL5, 4), (DIL3, 5)),
)
"""Nodes with 0, 1, 3 and 5 edges."""
EMPTY: Cell = ((), (), (), (), ())


def test_nodes_may_have_any_number_of_edges() -> None:
    for found in (Genotype(ANY, EMPTY), Genotype(EMPTY, ANY)):
        assert architectures.load(json.dumps(architectures.to_json(found))) == found
        assert architectures.load(architectures.to_text(found)) == found
    assert genotype.to_json(Genotype(ANY, EMPTY))["normal"][:2] == [[["skip_connect", 1]], []]
    assert (genotype.connected(ANY), genotype.connected(EMPTY)) == ((2, 4, 5, 6), ())


def test_an_edge_from_a_node_that_is_not_connected_is_refused() -> None:
    cell = [[], [["skip_connect", 0]], [["sep_conv_3x3", 3], ["sep_conv_3x3", 2]]]
    with pytest.raises(UserError, match="^" + re.escape("g.json: reduce, node 4: input 2; allowed: 0, 1, 3")):
        genotype.from_json({"normal": cell, "reduce": cell} | {"normal": [[], [], []]}, "g.json")


def test_nodes_that_are_not_connected_are_not_drawn() -> None:
    normal, reduction = genotype.graphs(Genotype(ANY, EMPTY))
    assert normal.nodes == ("c_{k-2}", "c_{k-1}", "2", "4", "5", "6", "c_k")
    assert normal.edges[:3] == (("c_{k-1}", "2", SKIP), ("c_{k-2}", "4", DIL3), ("c_{k-1}", "4", SKIP))
    assert normal.edges[-4:] == tuple((node, "c_k", "") for node in ("2", "4", "5", "6"))
    assert len(normal.edges) == 10 + 4
    assert (reduction.nodes, reduction.edges) == (("c_{k-2}", "c_{k-1}", "c_k"), ())


@pytest.mark.parametrize(
    ("cell", "normal", "reduction"),
    [
        (EMPTY, *["no node is connected: the cell puts out zeros"] * 2),
        (((), ((SKIP, 0), (SEP3, 1))), *["1 of 2 operations are skip connections"] * 2),
        (((), ((AVG3, 0),)), "no operation is a convolution", None),
        (((), ((SEP3, 0),)), None, None),
        (ANY, None, None),
    ],
)
def test_signs_of_collapse(cell: Cell, normal: str | None, reduction: str | None) -> None:
    wanted = {name: sign for name, sign in (("normal", normal), ("reduce", reduction)) if sign}
    assert genotype.collapsed(Genotype(cell, cell)) == wanted
