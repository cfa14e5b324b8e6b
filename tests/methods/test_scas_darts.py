"""SCAS on DARTS: Algorithm 2 in NumPy, DARTS where everything is kept, and exact masks of both spaces' supernets."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, methods, variables
from dass_jax.methods import darts, scas_darts
from dass_jax.methods.scas_darts import Fields
from dass_jax.nn.skeletons import Sizes
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.spaces.darts import darts as darts_space
from dass_jax.spaces.nasbench201 import nasbench201
from dass_jax.sparsity import ASIDE, PRUNING, Share, kept_in_layer, masked_weights, pruner
from dass_jax.variables import ALPHA, MASKS, PARAMS, RATES
from tests import supernets

KEY = jax.random.key(0)
RULES = ((r"layers/weight", 1),)
A = np.random.default_rng(0).normal(size=(3, 2, 4, 2))
"""By which two logits move what two layers of four weights are drawn to; a third index is for the upper loss."""


def drawn(v: Any, batch: Any, matrix: np.ndarray) -> Any:
    theta = masked_weights(v)["layers"]["weight"]
    return ((theta - matrix @ v[ALPHA]["logits"] - batch) ** 2).sum() / 2, ({}, {})


def loss(v: Any, batch: Any, key: Any) -> Any:
    """½|θ⊙m − A·α − batch|²: the batches of the two levels come with a matrix of their own."""
    return drawn(v, batch[0], batch[1])


def batches(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(10 + step)
    draw = {level: 3 * rng.normal(size=(2, 4)) for level in ("upper", "lower")}
    return {"upper": (draw["upper"], A[1]), "lower": (draw["lower"], A[0])}


def begin() -> Any:
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.normal(size=(2, 4)))
    return {
        PARAMS: {"layers": {"weight": weight}},
        MASKS: {"layers": {"weight": jnp.ones((2, 4))}},
        ALPHA: {"logits": jnp.asarray(rng.normal(size=2))},
    }


RATE = {"upper": 0.1, "lower": 0.2}
COUNTS = [4, 4, 3, 3, 2, 2, 1, 1]
C = Fields(clip=2.0, weight_decay=0.05)


def ours(c: Fields, hypergradient: Any, counts: list[int] = COUNTS, make: Any = None) -> list[bilevel.State]:
    problem = supernets.problem(None, 2, (1, 1, 1), hypergradient=hypergradient)
    algorithm = make(problem) if make else scas_darts.step(loss, c, problem, RULES)
    state, found = algorithm.init(begin()), []
    learning = {level: jnp.asarray(rate) for level, rate in RATE.items()}

    @jax.jit
    def update(state: bilevel.State, batch: Any, kept: Any) -> bilevel.State:
        rates = {PRUNING: {"renew": jnp.float32(1), "kept": {"4": Share(kept)}}}
        seeing = state._replace(variables={**state.variables, RATES: rates})
        after, _ = algorithm.update(seeing, batch, KEY, learning_rate=learning)
        return after._replace(variables={name: x for name, x in after.variables.items() if name != RATES})

    for step, kept in enumerate(counts):
        state = update(state, batches(step), jnp.float32(kept))
        found.append(state)
    return found


class Adam:
    """Coupled weight decay, as DARTS moves α."""

    def __init__(self) -> None:
        self.mean = self.square = np.zeros(2)
        self.steps = 0

    def moved(self, alpha: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        g = gradient + C.alpha_weight_decay * alpha
        self.steps += 1
        self.mean = C.alpha_beta1 * self.mean + (1 - C.alpha_beta1) * g
        self.square = C.alpha_beta2 * self.square + (1 - C.alpha_beta2) * g**2
        mean = self.mean / (1 - C.alpha_beta1**self.steps)
        square = self.square / (1 - C.alpha_beta2**self.steps)
        return alpha - RATE["upper"] * mean / (np.sqrt(square) + 1e-8)


def in_numpy(second_order: bool) -> list[tuple[np.ndarray, ...]]:
    """(θ, mask, α) after each iteration of Algorithm 2. The second order is exact, through one step of θ from where it
    is pruned; the gradient of θ is small enough there not to be clipped."""
    first = begin()
    theta, alpha = np.array(first[PARAMS]["layers"]["weight"]), np.array(first[ALPHA]["logits"])
    mask, momentum, adam, found = np.ones((2, 4)), np.zeros((2, 4)), Adam(), []
    clip = 1e9 if second_order else C.clip
    for step, kept in enumerate(COUNTS):
        (upper, above), (lower, below) = batches(step).values()
        gradient = mask * (theta - below @ alpha - lower)
        gradient *= min(1, clip / np.linalg.norm(gradient))
        momentum = C.momentum * momentum + gradient + C.weight_decay * theta
        theta = theta - RATE["lower"] * momentum
        for row in range(2):
            strength = np.where(mask[row] == 1, np.abs(theta[row]), -1)
            mask[row] = np.isin(np.arange(4), np.argsort(-strength)[:kept])
        theta, momentum = theta * mask, momentum * mask
        ahead, through = theta, np.zeros((2, 4, 2))
        if second_order:
            slope = mask * (theta - below @ alpha - lower) + C.weight_decay * theta
            ahead = theta - RATE["lower"] * (C.momentum * momentum + slope)
            through = RATE["lower"] * mask[..., None] * below  # dθ'/dα
        missed = ahead - above @ alpha - upper
        direct = np.einsum("rwa,rw->a", mask[..., None] * through - above, missed)
        alpha = adam.moved(alpha, direct)
        found.append((theta.copy(), mask.copy(), alpha.copy()))
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("second_order", [False, True])
def test_theta_is_pruned_after_its_step_and_alpha_follows_the_pruned_theta(second_order: bool) -> None:
    c = Fields(clip=1e9, weight_decay=0.05) if second_order else C
    states = ours(c, bilevel.unrolled(1) if second_order else bilevel.first_order())
    for state, (theta, mask, alpha) in zip(states, in_numpy(second_order), strict=True):
        np.testing.assert_array_equal(state.variables[MASKS]["layers"]["weight"], mask)
        np.testing.assert_allclose(state.variables[PARAMS]["layers"]["weight"], theta, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(state.variables[ALPHA]["logits"], alpha, rtol=1e-11)
    assert [int(state.variables[MASKS]["layers"]["weight"].sum()) for state in states] == [2 * k for k in COUNTS]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", bilevel.ESTIMATORS)
def test_where_everything_is_kept_it_is_darts_by_any_hypergradient(name: str) -> None:
    arguments: dict[str, Any] = {"neumann": {"terms": 2, "lr": 0.1}, "conjugate_gradient": {"iterations": 2}}
    found = bilevel.ESTIMATORS[name](**arguments.get(name, {"eta": 0.1} if name == "amended" else {}))
    dense = ours(C, found, make=lambda problem: darts.step(PARAMS, loss, C, problem))
    kept, pruned = (ours(C, found, counts) for counts in ([4] * len(COUNTS), COUNTS))
    chex.assert_trees_all_equal(kept, dense)
    assert not np.allclose(pruned[-1].variables[ALPHA]["logits"], dense[-1].variables[ALPHA]["logits"])


SPACES = {
    "darts": (darts_space(SupernetConfig(classes=3, cells=2, channels=2, nodes=2)), 20),
    "nasbench201": (nasbench201(Sizes(3, 1, 4)), 12),
}
"""Each with how many layers of a supernet there are at least."""


def problem_of(space: str, keep: float = 0.1) -> methods.Problem:
    return supernets.problem(SPACES[space][0], 3, (8, 8, 3), keep=keep)


@pytest.mark.parametrize("space", SPACES)
def test_every_slice_of_a_supernet_has_the_count_of_every_point_of_the_schedule(space: str) -> None:
    """A layer is one operation's kernel of one edge: the leading axes of a leaf, by their own definition in RULES."""
    c = Fields(epochs=5, prune_every=2)
    (phase,) = scas_darts.search(c, problem_of(space)).phases
    state = jax.jit(lambda: phase.begin(KEY, None))()
    stacks = variables.prunable(state.variables[PARAMS], SPACES[space][0].rules)
    project = jax.jit(pruner(SPACES[space][0].rules))
    masks, keep = variables.flatten(state.variables[MASKS]), 1.0
    assert all((mask == 1).all() for mask in masks.values())
    for epoch in range(c.epochs):
        rates = phase.rates((epoch + np.arange(3) / 3) / c.epochs)[PRUNING]
        for step in range(3):
            now = jax.tree.map(lambda x, n=step: np.float32(x[n]), rates)
            state = project(state._replace(variables={**state.variables, RATES: {PRUNING: now}}))
            if step > 0:  # the second and the last step of each epoch renew the masks
                keep = 0.1 + 0.9 * max(0.0, 1 - (3 * epoch + step + 1) / 7.5) ** 3
            check_counts(state.variables, stacks, keep, SPACES[space][1])
    final = phase.observe(state.variables).metrics["sparsity"]
    sizes = [(count, size) for _, count, size in variables.layers(state.variables[PARAMS], stacks)]
    kept = sum(count * kept_in_layer(size, 0.1) for count, size in sizes)
    assert final == pytest.approx(100 * (1 - kept / sum(count * size for count, size in sizes)))


def check_counts(v: Any, stacks: Any, keep: float, least: int) -> None:
    """Of every layer, θ itself being 0 elsewhere."""
    params, masks, layers = variables.flatten(v[PARAMS]), variables.flatten(v[MASKS]), 0
    for path, stack in variables.flatten(stacks).items():
        rows = np.asarray(masks[path]).reshape(-1, int(np.prod(masks[path].shape[stack:])))
        assert (rows.sum(1) == kept_in_layer(rows.shape[1], keep)).all(), path
        assert (np.asarray(params[path])[np.asarray(masks[path]) == 0] == 0).all()
        layers += len(rows)
    assert layers >= least


def test_the_search_is_dense_darts_phase_with_the_pruning_beside_it() -> None:
    problem, c = problem_of("nasbench201"), Fields(epochs=4)
    (phase,), (dense,) = scas_darts.search(c, problem).phases, darts.search(c, problem).phases
    assert (phase.epochs, phase.feeds, phase.draws) == (dense.epochs, dense.feeds, dense.draws)
    assert phase.unread == () and phase.program == ""
    progress = np.arange(6) / 6 / 4
    rates, usual = phase.rates(progress), dense.rates(progress)
    assert rates.keys() == {"learning_rate", PRUNING}
    chex.assert_trees_all_equal(rates["learning_rate"], usual["learning_rate"])
    assert rates[PRUNING]["renew"].all()  # Algorithm 2 prunes in every iteration
    assert [curve.metric for curve in phase.curves][-1] == "sparsity"
    assert phase.matrices == dense.matrices


def test_what_is_laid_aside_is_there_from_the_beginning_with_regrowth_alone() -> None:
    for regrow in (False, True):
        (phase,) = scas_darts.search(Fields(regrow=regrow), problem_of("nasbench201")).phases
        v = jax.eval_shape(lambda phase=phase: phase.begin(KEY, None)).variables
        assert (ASIDE in v) == regrow


def test_the_options_of_the_schedule_change_it() -> None:
    def schedule(**changed: Any) -> Any:
        (phase,) = scas_darts.search(Fields(epochs=4, **changed), problem_of("nasbench201")).phases
        return phase.rates((1 + np.arange(6) / 6) / 4)[PRUNING]

    usual = schedule()
    for changed in ({"ramp": 1.0}, {"prune_every": 4}):
        found = schedule(**changed)
        assert any((x != y).any() for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(usual), strict=True))
    assert Fields().order == "lower_first" and Fields().prune_every == 1
