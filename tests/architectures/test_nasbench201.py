"""Cells of NAS-Bench-201 as plain data: notation, JSON, reachability, graphs, and one clear line for every damage."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dass_jax.architectures import nasbench201
from dass_jax.architectures.family import Edge
from dass_jax.architectures.nasbench201 import EDGES, FAMILY, OPERATIONS, PUBLISHED, Cell
from dass_jax.errors import UserError

# As published with the benchmark.
TEXTS = {
    "nb201_best_cifar10": (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    ),
    "nb201_best_cifar100": (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    ),
    "nb201_best_imagenet16": (
        "|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    ),
    "nb201_resnet": "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|",
}
NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"

cells = st.builds(Cell, *[st.sampled_from(OPERATIONS)] * 6)


def test_operations_and_edges_are_the_benchmarks_in_its_order() -> None:
    assert OPERATIONS == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    assert EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert Cell._fields == tuple(f"to_{target}_from_{source}" for source, target in EDGES)


@pytest.mark.parametrize("name", TEXTS)
def test_published_cells_are_those_of_their_texts(name: str) -> None:
    assert PUBLISHED.keys() == TEXTS.keys()
    assert nasbench201.to_text(PUBLISHED[name]) == TEXTS[name]
    assert nasbench201.from_text(TEXTS[name]) == PUBLISHED[name]


@given(cells)
def test_a_cell_survives_its_text_its_key_and_json(cell: Cell) -> None:
    text = FAMILY.to_text(cell)
    assert FAMILY.is_text(text) and FAMILY.from_text(text, "here") == cell
    assert FAMILY.from_json(json.loads(json.dumps(FAMILY.to_json(cell))), "here") == cell
    assert list(FAMILY.to_json(cell)) == ["cell"]
    assert nasbench201.of_key(nasbench201.key(cell)) == cell
    assert isinstance(cell, FAMILY.kind) and len({cell, nasbench201.from_text(text)}) == 1


def test_there_are_15625_cells_in_the_order_of_their_keys() -> None:
    keys = [nasbench201.key(cell) for cell in nasbench201.cells()]
    assert len(keys) == len(set(keys)) == 15_625
    assert keys == sorted(keys) and (keys[0], keys[7], keys[-1]) == ("000000", "000012", "444444")


def test_exactly_341_cells_have_no_path_and_all_of_them_are_warned_of() -> None:
    dead = [cell for cell in nasbench201.cells() if not nasbench201.reaches(cell)]
    assert len(dead) == 341
    sentence = {"cell": "no path from input to output: it can only answer by chance"}
    assert all(FAMILY.warnings(cell) == sentence for cell in dead)
    assert sum(bool(FAMILY.warnings(cell)) for cell in nasbench201.cells()) == 341


@given(cells)
def test_a_cell_reaches_its_output_by_one_of_the_four_possible_paths(cell: Cell) -> None:
    paths = ("to_3_from_0",), ("to_1_from_0", "to_3_from_1"), ("to_2_from_0", "to_3_from_2")
    paths += (("to_1_from_0", "to_2_from_1", "to_3_from_2"),)
    open_paths = [path for path in paths if all(getattr(cell, edge) != "none" for edge in path)]
    assert nasbench201.reaches(cell) == bool(open_paths)


def test_the_graph_has_every_edge_that_is_not_none() -> None:
    (graph,) = FAMILY.graphs(PUBLISHED["nb201_resnet"])
    assert (graph.name, graph.nodes) == ("cell", ("input", "1", "2", "output"))
    assert graph.edges == (
        Edge("input", "1", "nor_conv_3x3"),
        Edge("1", "2", "nor_conv_3x3"),
        Edge("input", "output", "skip_connect"),
        Edge("2", "output", "skip_connect"),
    )
    assert FAMILY.graphs(nasbench201.of_key("000000"))[0].edges == ()


ALLOWED = ", ".join(OPERATIONS)
FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"f: nodes = 1 in ''; allowed: 3, as in {FORM}"),
        ("|none~0|+|none~0|none~1|", f"f: nodes = 2 in '|none~0|+|none~0|none~1|'; allowed: 3, as in {FORM}"),
        (NONE.replace("|none~0|+", "none~0|+", 1), "f: node 1 = 'none~0|'; allowed: |op~0|"),
        (NONE.replace("|none~0|none~1|+", "|none~0|+"), "f: node 2 = '|none~0|'; allowed: |op~0|op~1|"),
        (NONE + "none~3|", f"f: node 3 = '{NONE[-22:]}none~3|'; allowed: |op~0|op~1|op~2|"),
        (
            NONE.replace("none~2", "nor_conv_3×3~2"),
            f"f: edge 3←2: operation 'nor_conv_3×3' (did you mean 'nor_conv_3x3'?); allowed: {ALLOWED}",
        ),
        (NONE.replace("none~2", "~2"), f"f: edge 3←2: operation ''; allowed: {ALLOWED}"),
        (
            NONE.replace("none~2", "none\n~2"),
            f"f: edge 3←2: operation 'none\\n' (did you mean 'none'?); allowed: {ALLOWED}",
        ),
        (NONE.replace("none~1|+", "none~0|+"), f"f: edge 2←1: input '0'; allowed: 1, as in {FORM}"),
        (NONE.replace("none~1|+", "none|+"), f"f: edge 2←1: input ''; allowed: 1, as in {FORM}"),
    ],
)
def test_a_wrong_text_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        nasbench201.from_text(text, "f")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "f: list found; allowed: an object with 'cell'"),
        ({}, f"f: cell = None; allowed: a text like {FORM}"),
        ({"cell": ["none"]}, f"f: cell = ['none']; allowed: a text like {FORM}"),
        ({"cel": NONE}, "f: unknown key 'cel' (did you mean 'cell'?); allowed: cell"),
        ({"cell": NONE.replace("~2", "~1")}, f"f: cell: edge 3←2: input '1'; allowed: 2, as in {FORM}"),
    ],
)
def test_wrong_json_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        nasbench201.from_json(data, "f")
    assert str(error.value) == message


@given(st.one_of(st.text(), st.lists(st.sampled_from(["|", "+", "~", "0", "1", "2", *OPERATIONS])).map("".join)))
def test_any_text_is_a_cell_or_one_line(text: str) -> None:
    try:
        cell = nasbench201.from_text(text, "f")
    except UserError as error:
        assert str(error).startswith("f") and "; allowed: " in str(error) and len(str(error).splitlines()) == 1
        assert len(str(error)) < 400
    else:
        assert nasbench201.to_text(cell) == text.strip()


@given(cells, st.data())
def test_a_cell_with_one_character_less_or_another_is_one_line(cell: Cell, data: st.DataObject) -> None:
    text = nasbench201.to_text(cell)
    index = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from(["", "x", "~", "|", "+", "9"]))
    damaged = text[:index] + new + text[index + 1 :]
    if damaged != text:
        with pytest.raises(UserError):
            nasbench201.from_text(damaged)
