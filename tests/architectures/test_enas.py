"""Arcs of ENAS: the published ones and their figures, messages, graphs, and which maps something still reads."""

import re
from typing import Any

import numpy as np
import pytest

from dass_jax import architectures
from dass_jax.architectures import Edge, enas_macro, enas_micro
from dass_jax.errors import UserError

MACRO, MICRO = enas_macro.PUBLISHED["enas_macro"], enas_micro.PUBLISHED["enas_micro"]


def test_the_published_network_has_its_figures() -> None:
    assert len(enas_macro.flat(MACRO)) == enas_macro.length(24) == 300
    assert sum(map(sum, MACRO.skips)) == 98 and [MACRO.operations.count(n) for n in range(6)] == [8, 2, 9, 5, 0, 0]
    twelve = enas_macro.first_layers(MACRO, 12)
    assert enas_macro.flat(twelve) == enas_macro.flat(MACRO)[:78]
    assert enas_macro.to_text(twelve).startswith("0: 3:0 0:10 2:001 2:0000 3:11010 ")
    assert (
        enas_macro.from_text("0 3:0 0:10") == enas_macro.first_layers(MACRO, 3) == enas_macro.from_text("0: 3:0 0:10")
    )
    assert (enas_macro.pools(12), enas_macro.pools(24), enas_macro.pools(2)) == ((3, 7), (7, 15), (0,))
    assert enas_macro.halved(twelve) == ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5, 7, 8))


def test_the_published_cells_have_their_figures() -> None:
    assert enas_micro.unused(MICRO.normal) == (2, 3, 4, 5, 6) and enas_micro.unused(MICRO.reduce) == (2, 4, 5, 6)
    assert (enas_micro.reductions(6), enas_micro.reductions(15)) == ((2, 5), (5, 11))
    assert enas_micro.blocks(MICRO.normal)[0] == ((0, 2), (0, 0))


def test_maps_that_are_read_later_are_those_of_a_search_backwards() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        arc = enas_macro.Arc(
            (0,) * 9, tuple(tuple((generator.random(n) < 0.15).astype(int).tolist()) for n in range(9))
        )
        reads = {layer: {layer, *np.flatnonzero(arc.skips[layer]).tolist()} for layer in range(9)}
        second = set().union(*(reads[layer] for layer in (6, 7, 8))) & set(range(7))
        first = (second | set().union(*(reads[layer] for layer in (3, 4, 5)))) & set(range(4))
        assert enas_macro.halved(arc) == (tuple(sorted(first)), tuple(sorted(second)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"arc": []}, "f: arc = []; allowed: a list of integers: for layer l"),
        ({"arc": "0 1 0"}, "f: arc = '0 1 0'; allowed: a list of integers"),
        ({"arc": [0, 1]}, "f: arc: 2 integers; allowed: 1 or 3, a list of integers"),
        ({"arc": [0, 6, 0]}, "f: arc: operation of layer 1 = 6; allowed: 0 to 5"),
        ({"arc": [0, True, 0]}, "f: arc: operation of layer 1 = True; allowed: 0 to 5"),
        ({"arc": [0, 1, 2]}, "f: arc: bit 0 of layer 1 = 2; allowed: 0 to 1"),
        ({"ark": [0]}, "f: unknown key 'ark' (did you mean 'arc'?); allowed: arc"),
        ({}, "f: arc = None; allowed: a list of integers"),
    ],
)
def test_a_wrong_network_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        architectures.from_json({"space": "enas_macro", **data}, "f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: 1:00", "architecture: layer 1 = '1:00'; allowed: OPERATION:BITS with 1 bits"),
        ("0: 1:2", "architecture: layer 1 = '1:2'; allowed: OPERATION:BITS with 1 bits"),
        ("0: 7:1", "architecture: operation of layer 1 = 7; allowed: 0 to 5"),
    ],
)
def test_a_wrong_text_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        architectures.load(text)
    assert str(caught.value) == message


RIGHT = list(MICRO.reduce)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"normal": RIGHT}, "f: reduce = None; allowed: 20 integers, (input, operation) twice a block"),
        (
            {"normal": RIGHT, "reduce": RIGHT[:-1]},
            "f: reduce = [1, 0, 1, 0, 0, 3, 0, 2, 1, 1, 3, 1, ...; allowed: 20 ",
        ),
        ({"normal": [2, *RIGHT[1:]], "reduce": RIGHT}, "f: normal: input of block 0 = 2; allowed: 0 to 1"),
        ({"normal": [*RIGHT[:-1], 5], "reduce": RIGHT}, "f: normal: operation of block 4 = 5; allowed: 0 to 4"),
        ({"normal": RIGHT, "redu": RIGHT}, "f: unknown key 'redu' (did you mean 'reduce'?); allowed: normal, reduce"),
    ],
)
def test_wrong_cells_are_one_line(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        architectures.from_json({"space": "enas_micro", **data}, "f")
    assert "\n" not in str(caught.value)


def test_graphs_are_layered() -> None:
    [network] = enas_macro.graphs(enas_macro.from_text("0 3:1 5:01"))
    assert network.nodes == ("stem", "layer 0", "layer 1", "layer 2")
    assert network.edges == (
        Edge("stem", "layer 0", "conv_3x3"),
        Edge("layer 0", "layer 1", "sep_conv_5x5"),
        Edge("stem", "layer 1", ""),
        Edge("layer 1", "layer 2", "max_pool_3x3"),
        Edge("layer 0", "layer 2", ""),
    )
    normal, reduction = enas_micro.graphs(MICRO)
    assert (normal.name, reduction.name) == ("normal cell", "reduction cell")
    assert len(reduction.edges) == 10 + 4 and Edge("c_{k-1}", "2", "sep_conv_3x3") in reduction.edges
    for graph in (network, normal, reduction):
        assert all(graph.nodes.index(edge.source) < graph.nodes.index(edge.target) for edge in graph.edges)


def test_what_has_no_convolution_is_warned_of() -> None:
    assert enas_macro.warnings(MACRO) == enas_micro.warnings(MICRO) == {}
    assert list(enas_macro.warnings(enas_macro.from_text("4 5:1"))) == ["network"]
    assert list(enas_micro.warnings(MICRO._replace(reduce=(0, 4) * 10))) == ["reduce"]
