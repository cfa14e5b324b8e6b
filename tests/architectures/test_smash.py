"""SMASH's architectures: JSON, one-line errors, and drawings that show the banks."""

import json
from typing import Any

import pytest

from dass_jax import architectures
from dass_jax.architectures.smash import Architecture, Block, Op, from_json, graphs, warnings
from dass_jax.architectures.smash_sizes import Sizes, bank_sizes, check_fits, memories
from dass_jax.errors import UserError

DATA = {
    "blocks": [
        {
            "bank_size": 8,
            "ops": [
                {"read": [0], "write": [1], "filters": 64, "kernel": [3, 5], "dilation": [1, 2], "groups": 4},
                {"read": [0, 1], "write": [0, 1], "filters": 64, "kernel": [3, 3], "dilation": [1, 1], "groups": 1},
            ],
        },
        {"bank_size": 4, "ops": []},
        {"bank_size": 3, "ops": []},
    ]
}


def changed(place: list[Any], value: Any) -> Any:
    """The data with one value replaced."""
    data = json.loads(json.dumps(DATA))
    part = data
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return data


def test_json_and_back() -> None:
    found = from_json(DATA)
    assert found.blocks[0].ops[0] == Op((0,), (1,), 64, (3, 5), (1, 2), 4)
    assert architectures.to_json(found) == {"space": "smash", **DATA}


OP = ["blocks", 0, "ops", 1]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["blocks"], [], r"blocks = \[\]; allowed: a list of 3 blocks"),
        (["blocks", 1, "bank_size"], 0, "block 2: bank_size = 0; allowed: a positive integer"),
        (["blocks", 1, "banksize"], 1, r"block 2: unknown key 'banksize' \(did you mean 'bank_size'\?\); allowed"),
        ([*OP, "read"], [1, 0], r"block 1, op 1: read = \[1, 0\]; allowed: a list of different banks, ascending"),
        ([*OP, "write"], [], r"op 1: write = \[\]; allowed: at least one bank"),
        ([*OP, "kernel"], [3, 4], r"op 1: kernel = \[3, 4\]; allowed: odd height and width"),
        ([*OP, "dilation"], 2, "op 1: dilation = 2; allowed: a list of height and width"),
        ([*OP, "groups"], True, "op 1: groups = True; allowed: a positive integer"),
    ],
)
def test_damage_is_named_in_one_line(place: list[Any], value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_json(changed(place, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["blocks", 0, "bank_size"], 7, "block 1: bank_size = 7; allowed: 1, 2, 3, 4, 6, 8"),
        ([*OP, "read"], [2], r"op 1: read = \[2\]; allowed: banks that were written, \[0, 1\]"),
        ([*OP, "write"], [3], r"op 1: write = \[3\]; allowed: banks 0 to 2"),
        ([*OP, "filters"], 32, "op 1: filters = 32; allowed: a multiple of 64 up to 64"),
        ([*OP, "groups"], 3, "op 1: groups = 3; allowed: a divisor of 8"),
    ],
)
def test_what_does_not_fit_into_the_sizes(place: list[Any], value: Any, message: str) -> None:
    check_fits(Sizes(), from_json(DATA))
    with pytest.raises(UserError, match=message):
        check_fits(Sizes(), from_json(changed(place, value)))


def test_sizes_are_the_published_codes() -> None:
    found = memories(Sizes())
    assert [memory.inputs for memory in found] == [64, 96, 112]
    assert [memory.width for memory in found] == [192, 224, 256]
    assert [memory.slices for memory in found] == [52, 102, 199]
    assert [bank_sizes(Sizes(), memory) for memory in found] == [
        (1, 2, 3, 4, 6, 8),
        (1, 2, 3, 4, 5, 6, 8),
        (1, 2, 3, 4, 5, 6, 7, 8),
    ]


def test_the_drawing_shows_what_a_bank_holds_when() -> None:
    first, second, _ = graphs(from_json(DATA))
    assert first.nodes == (
        *("bank 0", "op 0", "bank 1 after op 0"),
        *("op 1", "bank 0 after op 1", "bank 1 after op 1"),
    )
    label = "64 3×5, dilated 1×2, 4 groups"
    assert first.edges[:2] == (("bank 0", "op 0", ""), ("op 0", "bank 1 after op 0", label))
    assert ("bank 1 after op 0", "op 1", "") in first.edges, "it reads what was written"
    assert ("bank 1 after op 0", "bank 1 after op 1", "add") in first.edges
    assert second.nodes == ("input",)
    assert warnings(Architecture((Block(1, ()), *from_json(DATA).blocks[:2]))) == {
        "block 1": "it has no operation",
        "block 3": "it has no operation",
    }
