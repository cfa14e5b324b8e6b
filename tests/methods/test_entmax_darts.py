"""α-entmax in the space of DARTS: removal changes no output, and a smaller program takes the step of the whole one. All
else of the method is the same for all spaces (test_entmax.py)."""

import functools
from typing import Any

import chex
import jax
import numpy as np

from dass_jax import bilevel
from dass_jax.methods import entmax
from dass_jax.methods.entmax import RELAXATION, Fields
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS
from tests import supernets
from tests.methods.test_entmax import IMAGE, KEY, program, seeds, weights_of, wide

SPACE = functools.partial(darts, SupernetConfig(classes=3, cells=1, channels=2, nodes=1))
PROBLEM = supernets.problem(None, 3, IMAGE, space=lambda live=None: SPACE(live=live), macs=weights_of)


def test_removal_changes_no_step_and_the_smaller_program_takes_the_same(x64: None) -> None:
    phase = entmax.search(Fields(entmax=1.5, entmax_end=4.0, warmup_epochs=0), PROBLEM).phases[0]
    whole, state, rng = program(phase), wide(jax.jit(phase.begin)(KEY, None)), np.random.default_rng(3)
    logits = {name: 0.4 * rng.normal(size=choice.shape) for name, choice in SPACE().choices.items()}
    state = state._replace(variables={**state.variables, ALPHA: logits})
    for alpha in (2.5, 3.0):  # so that momentum and moments are not zero
        state, _ = whole.step(state, alpha)
    removed = entmax.remove(state)
    alive = removed.variables[RELAXATION]["alive"]
    assert all(mask.any(-1).all() and not mask.all() for mask in alive.values())

    (wanted, infos), (found, seen) = (whole.step(at, 3.0) for at in (state, removed))
    chex.assert_trees_all_equal(seen, infos)
    chex.assert_trees_all_equal(found.optimizers, wanted.optimizers)
    for name in (PARAMS, BATCH_STATS):
        chex.assert_trees_all_equal(found.variables[name], wanted.variables[name])
    for name, mask in alive.items():
        chex.assert_trees_all_equal(found.variables[ALPHA][name][mask], wanted.variables[ALPHA][name][mask])

    live = phase.rebuild.wanted(seeds(removed), None)
    assert live == {name: mask.tolist() for name, mask in alive.items()}
    smaller = program(phase.rebuild.phase(None, live))
    start = smaller.phase.begin(KEY, removed)
    assert weights_of(SPACE(live=live)) == sum(leaf.size for leaf in jax.tree.leaves(start.variables[PARAMS]))
    assert weights_of(SPACE(live=live)) < weights_of(SPACE())
    (found, seen), (wanted, infos) = smaller.step(start, 3.25), whole.step(removed, 3.25)

    def carried(tree: Any) -> Any:
        return SPACE().carried(tree, live)

    v = {**wanted.variables, **{name: carried(wanted.variables[name]) for name in (PARAMS, BATCH_STATS)}}
    momentum = jax.tree.map(
        lambda x: carried(x) if isinstance(x, dict) else x,
        wanted.optimizers[PARAMS],
        is_leaf=lambda x: isinstance(x, dict),
    )
    whole_step = bilevel.State(v, {**wanted.optimizers, PARAMS: momentum})
    chex.assert_trees_all_close((seen, found), (infos, whole_step), rtol=1e-9, atol=1e-12)
