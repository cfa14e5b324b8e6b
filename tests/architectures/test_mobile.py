"""Mobile blocks: JSON, its errors, and how blocks are drawn."""

from typing import Any

import pytest

from dass_jax import architectures
from dass_jax.architectures.mobile import Mobile, graphs
from dass_jax.errors import UserError

KNOWN = "k3e3, k3e6, k5e3, k5e6, k7e3, k7e6"


def test_json_is_that_of_the_docstring_and_orders_operations() -> None:
    data = {"space": "mobile", "blocks": [["k5e6", "k3e3"], ["k7e3"]]}
    found = architectures.from_json(data)
    assert found == Mobile((("k3e3", "k5e6"), ("k7e3",)))
    assert architectures.to_json(found) == {"space": "mobile", "blocks": [["k3e3", "k5e6"], ["k7e3"]]}
    (drawn,) = graphs(found)
    assert drawn.nodes == ("in", "1", "2")
    assert [tuple(edge) for edge in drawn.edges] == [("in", "1", "k3e3"), ("in", "1", "k5e6"), ("1", "2", "k7e3")]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "blocks = []; allowed: a list of at least one block"),
        (7, "blocks = 7; allowed: a list of at least one block"),
        ([["k3e3"], []], f"blocks[1] = []; allowed: a list of at least one of {KNOWN}"),
        ([["k3e4"]], f"blocks[0]: 'k3e4' (did you mean 'k3e6'?); allowed: {KNOWN}"),
        ([[3]], f"blocks[0]: 3; allowed: {KNOWN}"),
        ([["k3e3", "k3e3"]], "blocks[0] = ['k3e3', 'k3e3']; allowed: each operation once"),
    ],
)
def test_json_of_no_block_is_one_line(blocks: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        architectures.from_json({"space": "mobile", "blocks": blocks}, "f")
    assert str(caught.value) == f"f: {message}"
