"""What DSO-NAS' space says of architectures: names, decoding, random blocks, and what connections cost."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from dass_jax.architectures.dso import BRANCHES, connections, swept, targets
from dass_jax.errors import UserError
from dass_jax.nn.level_blocks import columns
from dass_jax.spaces import dso as space_of
from dass_jax.spaces.dso import Fields, dso
from tests.spaces.dso_blocks import FULL, SMALL, drawn


def test_choices_name_every_target_and_source() -> None:
    labels = dso(SMALL, 3).choices
    assert labels["block"].rows == ("2.0", "2.1", "2.2", "out")
    assert labels["block"].columns == ("in", "1.0", "1.1", "1.2", "2.0", "2.1", "2.2")
    assert (labels["reductions"].rows, labels["reductions"].columns) == (("reduction 0",), ("1x1", "3x3"))
    assert list(dso(FULL, 3).choices) == ["block 0", "block 1", "block 2", "reductions"]
    assert list(dso(Fields(stages=(3,)), 3).choices) == ["block"]


@pytest.mark.parametrize("c", [SMALL, FULL], ids=["share", "full"])
def test_decode_sweeps_and_inverts_encode(c: Fields) -> None:
    for seed in range(20):
        a = drawn(c, seed)
        assert space_of.decode(c, space_of.encode(c, a)) == a
    dead = {name: np.zeros(choice.shape) for name, choice in space_of.choices(c).items()}
    found = space_of.decode(c, dead)
    assert found.blocks == ((),) * len(space_of.names(c)) and found.reductions == (("3x3",),)
    # A factor without a connection has no meaning, one that is negative no connection.
    odd = {
        **dead,
        "reductions": np.array([[-1.0, -2.0]]),
        space_of.names(c)[0]: np.full((len(targets(2, len(c.operations))), 1 + 2 * len(c.operations)), 1e-30),
    }
    found = space_of.decode(c, odd)
    assert found.blocks[0] == connections(2, len(c.operations)) and found.reductions == (("1x1",),)
    assert space_of.decode(c, {name: -matrix for name, matrix in odd.items()}).blocks[0] == ()


def test_the_total_number_of_factors_is_the_papers() -> None:
    def number(**fields: Any) -> int:
        c = Fields(**fields)
        return int(sum(matrix.sum() for matrix in space_of.encode(c, space_of.everything(c)).values()))

    imagenet = (2, 2, 13, 6)
    assert [number(), number(stages=imagenet), number(scope="full"), number(scope="full", stages=imagenet)] == [
        128, 130, 2980, 2858,
    ]  # fmt: skip


def test_one_shared_architecture_encodes_as_equal_blocks() -> None:
    c = dataclasses.replace(FULL, scope="share")
    a = drawn(c, 3)
    equal = space_of.encode(FULL, a)
    assert all((equal[name] == space_of.encode(c, a)["block"]).all() for name in space_of.names(FULL))


def test_a_shared_architecture_of_other_stages_encodes_with_both_branches_where_it_has_no_reduction() -> None:
    c = dataclasses.replace(FULL, scope="share")
    a = space_of.everything(c)._replace(reductions=(("3x3",),))
    longer = space_of.encode(dataclasses.replace(c, stages=(1, 1, 2)), a)
    np.testing.assert_array_equal(longer["reductions"], [[0, 1], [1, 1]])
    np.testing.assert_array_equal(longer["block"], space_of.encode(c, a)["block"])
    assert "reductions" not in space_of.encode(dataclasses.replace(c, stages=(3,)), a)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": 3}, "levels = 2; allowed: 3"),
        ({"operations": ("sep3",)}, "operations = ('max3', 'sep3'); allowed: ('sep3',)"),
        ({"stages": (1, 1)}, "blocks = 3; allowed: 2"),
        ({"stages": (3,)}, "reductions = 1; allowed: 0"),
        ({"scope": "share"}, "blocks = 3; allowed: 1"),
    ],
)
def test_an_architecture_of_another_size_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        space_of.encode(dataclasses.replace(FULL, **fields), space_of.everything(FULL))
    assert str(caught.value) == f"architecture: {message}, as the space's fields say"


@pytest.mark.parametrize(("scope", "wanted"), [("share", 0), ("full", 30), ("share", 6)])
def test_random_blocks_have_the_number_of_connections_asked_for(scope: str, wanted: int) -> None:
    c = Fields(scope=scope, levels=3, operations=("sep3", "max3", "avg3"), stages=(2, 1), random_connections=wanted)
    every, generator = connections(3, 3), np.random.default_rng(0)
    number = wanted or len(every) // 2
    drawn = [space_of.sample(c, generator) for _ in range(20)]
    assert len(set(drawn)) == 20 and drawn[0] == space_of.sample(c, np.random.default_rng(0))
    for a in drawn:
        assert len(a.blocks) == (1 if scope == "share" else 3) == len(set(a.blocks))
        assert a.reductions == (BRANCHES,)
        for block in a.blocks:
            assert abs(len(block) - number) <= 0.1 * number and block == swept(block, 3, 3)
    if wanted == 30:
        seen = np.mean([[pair in set(block) for pair in every] for a in drawn for block in a.blocks], axis=0)
        assert (seen > 0.4).all() and seen[:12].max() < 0.95


def test_a_number_of_connections_that_no_draw_has_gives_the_nearest() -> None:
    c = Fields(levels=4, random_connections=3)
    found = space_of.sample(c, np.random.default_rng(0)).blocks[0]
    assert 0 < len(found) <= 3


CODE = Fields(scope="full", stages=(1, 1))


def factors(name: str, choice: Any, c: Fields = CODE) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in dso(c, 10).costs[name](choice).items()}


def test_units_are_those_of_the_published_code() -> None:
    """n = 2 + separable operations of levels 2 to 4 with an input + connections to the output; (n + 1)/25."""
    space = dso(CODE, 10)
    full = space.encode(space.whole)
    rows, named = targets(4, 4), columns(4, 4)
    choice = {name: matrix.copy() for name, matrix in full.items()}
    choice["block 0"][:] = 0
    choice["block 1"][rows.index("2.0")] = choice["block 1"][rows.index("3.1")] = choice["block 1"][
        rows.index("4.2")
    ] = 0
    choice["block 1"][rows.index("out"), named.index("1.0")] = 0
    found = factors("units", choice)
    assert [float(np.unique(found[name])[0]) for name in ("block 0", "block 1")] == pytest.approx([3 / 25, 22 / 25])
    assert all((matrix == 1).all() for matrix in factors("units", full).values())
    assert (found["reductions"] == 1).all()
    last = {**full, "reductions": np.array([[0.0, 0.7]], np.float32)}
    assert all((factors(name, last)["reductions"] == 0).all() for name in space.costs)


def test_flops_are_the_share_of_the_full_block() -> None:
    space = dso(CODE, 10)
    full = space.encode(space.whole)
    rows = targets(4, 4)
    choice = {name: matrix.copy() for name, matrix in full.items()}
    choice["block 1"][rows.index("2.1")] = choice["block 1"][rows.index("3.2")] = 0
    choice["block 1"][rows.index("out"), :5] = 0  # all of level 1, as `in` has none
    found, c = factors("flops", choice), 48
    block = 4 * (9 * c + 25 * c + 2 * c * c) + 16 * c * c
    assert 1024 * block == 63_307_776
    assert np.unique(found["block 0"]) == 1
    np.testing.assert_allclose(found["block 1"], (block - 25 * c - c * c - 4 * c * c) / block, rtol=1e-6)


def test_memory_accesses_are_the_published_constants() -> None:
    found = factors("macs", space_of.encode(CODE, space_of.everything(CODE)))["block 0"]
    assert found[[0, 1, 2, 3, -1], 0].round(3).tolist() == pytest.approx([0.986, 1, 0.447, 0.447, 0.448])
    assert (found == found[:, :1]).all()
    assert all(
        (matrix == 1).all() for matrix in factors("uniform", space_of.encode(CODE, space_of.everything(CODE))).values()
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operations": ()}, "space.operations = (); allowed: at least one"),
        ({"stages": ()}, "space.stages = (); allowed: at least one"),
        ({"operations": ("sep3",) * 9}, "space.operations = 9 of them; allowed: at most 8"),
        (
            {"stem": "imagenet", "channels": 7},
            "space.channels = 7; allowed: an even number, as the imagenet stem halves it",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        space_of.check(Fields(**fields))
    assert str(caught.value) == message
