"""Paths, rules, layers: which leaves of a network may be pruned, and in which units."""

import math
import re

import chex
import jax.numpy as jnp
import pytest

from dass_jax import variables

PARAMS = {
    "stem": {"conv": {"weight": jnp.ones((6, 3, 3, 3))}, "norm": {"scale": jnp.ones(6), "bias": jnp.ones(6)}},
    "edges": {"weight": jnp.ones((2, 3, 4, 5))},
    "head": {"weight": jnp.ones((10, 4)), "bias": jnp.ones(10)},
}
RULES = ((r"edges/weight", 2), (r".*/weight", 0), (r".*/(scale|bias)", None))


def test_paths_are_joined_with_slashes_and_unflatten_inverts_flatten() -> None:
    flat = variables.flatten(PARAMS)
    assert list(flat)[:2] == ["stem/conv/weight", "stem/norm/scale"]
    chex.assert_trees_all_equal(variables.unflatten(flat), PARAMS)


def test_prunable_gives_the_stack_of_the_first_rule_that_matches_and_omits_what_is_never_pruned() -> None:
    assert variables.prunable(PARAMS, RULES) == {
        "stem": {"conv": {"weight": 0}},
        "edges": {"weight": 2},
        "head": {"weight": 0},
    }
    assert variables.prunable(PARAMS, (RULES[1], RULES[0], RULES[2]))["edges"] == {"weight": 0}


def test_a_rule_must_match_the_whole_path() -> None:
    with pytest.raises(
        ValueError, match=re.escape("no rule says whether 'head/weight' is prunable; rules: ['weight']")
    ):
        variables.prunable({"head": {"weight": jnp.ones(2)}}, (("weight", 0),))


def test_a_leaf_without_a_rule_is_named() -> None:
    with pytest.raises(ValueError, match=re.escape("'stem/norm/scale'")):
        variables.prunable(PARAMS, RULES[:2])


def test_select_and_merge_move_the_named_leaves_only() -> None:
    stacks = variables.prunable(PARAMS, RULES)
    chosen = variables.select(PARAMS, stacks)
    assert chosen.keys() == {"stem", "edges", "head"}
    assert chosen["edges"]["weight"] is PARAMS["edges"]["weight"]
    assert "norm" not in chosen["stem"] and "bias" not in chosen["head"]
    replaced = variables.merge(PARAMS, {"head": {"weight": jnp.zeros((10, 4))}})
    assert not replaced["head"]["weight"].any()
    chex.assert_trees_all_equal_structs(replaced, PARAMS)
    before, after = variables.flatten(PARAMS), variables.flatten(replaced)
    assert all(after[path] is before[path] for path in before if path != "head/weight")
    chex.assert_trees_all_equal(variables.merge(PARAMS, chosen), PARAMS)


def test_merge_does_not_change_its_argument() -> None:
    before = {"a": {"weight": 1}, "b": {"weight": 2}}
    variables.merge(before, {"a": {"weight": 3}})
    assert before == {"a": {"weight": 1}, "b": {"weight": 2}}


@pytest.mark.parametrize(
    ("shape", "stack", "layers", "layer", "fan_in"),
    [
        ((6, 3, 3), 0, 1, (6, 3, 3), 9),
        ((10, 4), 0, 1, (10, 4), 4),
        ((6, 3, 3, 3), 0, 1, (6, 3, 3, 3), 27),
        ((2, 5, 16, 5, 5), 2, 10, (16, 5, 5), 25),
        ((2, 5, 2, 8, 16), 3, 20, (8, 16), 16),
    ],
)
def test_a_leaf_is_split_into_layers_and_fan_in_is_what_one_output_sees(
    shape: tuple[int, ...], stack: int, layers: int, layer: tuple[int, ...], fan_in: int
) -> None:
    assert variables.layer_shape(shape, stack) == (layers, layer)
    assert variables.fan_in(shape, stack) == fan_in
    assert layers * math.prod(layer) == math.prod(shape)


def test_layers_lists_every_prunable_leaf_with_count_and_size() -> None:
    stacks = variables.prunable(PARAMS, RULES)
    assert sorted(variables.layers(PARAMS, stacks)) == [
        ("edges/weight", 6, 20),
        ("head/weight", 1, 40),
        ("stem/conv/weight", 1, 162),
    ]
