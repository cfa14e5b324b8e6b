"""`[sparsity] distribution` reaches the masks of searches and of recipes."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import compose, config, sparsity, variables
from dass_jax.architectures.nasbench201 import of_key
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from dass_jax.variables import MASKS, PARAMS, flatten
from tests import toys


def setting(distribution: str, method: str) -> compose.Setting:
    space: Any = {"name": "nasbench201", "cells": 1, "channels": 4}
    given = {"space": space, "method": {"name": method}, "network": {"cells": 1, "channels": 4}, "controls": []}
    return toys.setting()._replace(
        config=config.from_dict({**given, "sparsity": {"keep": 0.1, "distribution": distribution}})
    )


def check(masks: Any, params: Any, rules: Any, distribution: Any) -> None:
    """Per layer the counts of the distribution; they are not those of the others."""
    stacks = variables.prunable(params, rules)
    counts = {name: flatten(sparsity.kept_counts(params, stacks, 0.1, name)) for name in ("layer", "erk")}
    assert any((counts["layer"][path] != counts["erk"][path]).any() for path in counts["erk"])
    for path, mask in flatten(masks).items():
        rows = np.asarray(mask).reshape(len(counts["erk"][path]), -1).sum(1)
        np.testing.assert_array_equal(rows, counts[distribution][path])


@pytest.mark.parametrize("distribution", ["layer", "erk"])
def test_of_a_search_and_of_the_recipe(distribution: str) -> None:
    s = setting(distribution, "dass_op")
    (phase,) = compose.search(s, "dass_op").phases
    v = jax.jit(lambda key: phase.begin(key, None).variables)(jax.random.key(0))
    check(v[MASKS], v[PARAMS], compose.make_space(s).rules, distribution)
    pretrain, learning, finetune = compose.training(s, of_key("341032")).phases

    def to_the_end(key: jax.Array) -> Any:
        return finetune.begin(key, learning.begin(key, pretrain.begin(key, None))).variables

    v = jax.jit(to_the_end)(jax.random.key(0))
    check(v[MASKS], v[PARAMS], compose.model(s, of_key("341032"), False, lambda x: x).rules, distribution)


def test_scas_smash_has_but_one() -> None:
    problem: Any = type("Problem", (), {"distribution": "erk"})
    with pytest.raises(UserError, match=r"sparsity\.distribution = 'erk' with method\.name = 'scas_smash'.*: 'layer'"):
        METHODS["scas_smash"].search(None, problem)
