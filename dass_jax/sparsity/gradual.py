"""Magnitude pruning while the weights are trained. Source: SCAS (Yeshwanth et al. 2020), with the schedule of Zhu and
Gupta (arXiv 1710.01878) Eq. 1:

    s_t = s_f + (s_i − s_f)(1 − (t − t0)/(n Δt))³        s_i = 0, t0 = 0

After t steps each layer keeps its kept(1 − s_t) weights of largest |θ|. It is a projection of the state that follows
each step of θ and knows nothing of what moves it: zeros are written into θ and into what the optimizer remembers of a
pruned weight. A loss that sees θ⊙m gives a pruned weight no gradient, and a weight of 0 does not decay; so with any
optimizer that moves nothing without gradient and memory it stays 0, and the masks are monotone.

With regrowth the values of pruned weights are laid aside, untouched, and compete with the kept ones at every renewal: a
weight returns with the value that it had, and without momentum.

How many weights a layer keeps is found on the host, as for all other masks, and travels with the numbers of a step: one
program serves the whole schedule, and every other one. With another `distribution` "each layer" is "all layers".
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.schema import Count, Range
from dass_jax.sparsity.distribution import Distribution, Group, Share, counts, groups, shares
from dass_jax.sparsity.masks import Kept, dense_masks, magnitude_masks
from dass_jax.variables import MASKS, PARAMS, RATES, Rules, Variables

PRUNING = "pruning"
"""Among the rates of a step: {"renew": 0 or 1, "kept": {group of layers: `Share`}}."""
ASIDE = "aside"
"""The collection of the values of pruned weights, where they may return; kept weights are 0 in it."""


@dataclasses.dataclass(frozen=True)
class Gradual:
    """Fields of all that prunes gradually."""

    ramp: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps after which the final sparsity is reached, along the cubic curve of Zhu and Gupta; then the
    masks stay."""
    prune_every: Count = 10
    """Steps of an epoch between renewals of the masks; its last step always renews them."""
    regrow: bool = False
    """Let pruned weights return when they are among the largest again; false: what is pruned stays so."""


def keep_after(done: np.ndarray, keep: float, ramp: float) -> np.ndarray:
    """1 − s_t: the kept fraction once the share `done` of all steps is done, from 1 to `keep` at `ramp`, float64."""
    left = np.clip(1 - np.asarray(done) / ramp, 0, 1)
    left = np.where(left < 1e-9, 0, left)  # the shares are quotients: a hair before the end is the end
    return keep + (1 - keep) * left**3


def prunable_groups(params: Any, rules: Rules) -> tuple[Group, ...]:
    """The prunable layers of `params` (arrays or shapes), by shape."""
    return groups(params, variables.prunable(params, rules))


def pruning_rates(
    c: Gradual, keep: float, found: tuple[Group, ...], epochs: int, distribution: Distribution = "layer"
) -> Callable[[np.ndarray], dict[str, dict[str, Any]]]:
    """The entry `PRUNING` of a phase's rates, as a function of the progress of all steps of one epoch.

    Args:
      keep: what is left at the end.
      found: see `prunable_groups`; layers of up to 2^24 weights, as rates are float32.
      epochs: of the phase.
    """

    def at(progress: np.ndarray) -> dict[str, dict[str, Any]]:
        steps = len(progress)
        kept = keep_after(progress + 1 / (steps * epochs), keep, c.ramp)
        number = np.arange(1, steps + 1)
        renew = (number % c.prune_every == 0) | (number == steps)
        different, place = np.unique(kept, return_inverse=True)
        shared = [shares(found, float(k), distribution) for k in different]
        columns = {
            name: Share(*(np.array(part)[place] for part in zip(*(each[name] for each in shared), strict=True)))
            for name in shared[0]
        }
        return {PRUNING: {"renew": renew, "kept": columns}}

    return at


def unpruned(v: Variables, rules: Rules, regrow: bool = False) -> Variables:
    """The variables with masks that keep everything."""
    masks = dense_masks(v[PARAMS], variables.prunable(v[PARAMS], rules))
    return {**v, MASKS: masks, **({ASIDE: jax.tree.map(jnp.zeros_like, masks)} if regrow else {})}


def pruned(v: Variables, stacks: Any, kept: Kept, regrow: bool = False) -> Variables:
    """θ, masks and what is laid aside once so many weights are kept; see `magnitude_masks`."""
    return under(v, renewed(v, stacks, kept, regrow), regrow)


def renewed(v: Variables, stacks: Any, kept: Kept, regrow: bool = False) -> Any:
    """The masks that follow those of `v`: with regrowth of all weights, else of those that are kept."""
    weights = variables.select(v[PARAMS], stacks)
    if not regrow:
        return magnitude_masks(weights, v[MASKS], stacks, kept)
    return magnitude_masks(jax.tree.map(jnp.add, weights, v[ASIDE]), dense_masks(weights, stacks), stacks, kept)


def under(v: Variables, masks: Any, regrow: bool = False) -> Variables:
    """`v` under new masks: θ is 0 where they are, and with regrowth its values there are laid aside."""
    if not regrow:
        return {**v, PARAMS: zeroed(v[PARAMS], masks), MASKS: masks}
    # Of θ and what is aside one is 0 at each place.
    weights = jax.tree.map(jnp.add, variables.select(v[PARAMS], masks), v[ASIDE])
    aside = zeroed(weights, jax.tree.map(lambda m: 1 - m, masks))
    return {**v, PARAMS: zeroed(variables.merge(v[PARAMS], weights), masks), MASKS: masks, ASIDE: aside}


def zeroed(params: Any, masks: Any) -> Any:
    """`params` with 0 wherever a mask is 0."""
    weights = variables.select(params, masks)
    kept = jax.tree.map(lambda w, m: jax.lax.select(m != 0, w, jax.lax.full_like(w, 0)), weights, masks)
    return variables.merge(params, kept)


def pruner(rules: Rules, regrow: bool = False) -> Callable[[Any], Any]:
    """What follows each step of θ (`bilevel.Level.project`): state → state, by `variables["rates"]["pruning"]`.

    The variables are first those of `unpruned`. Whatever the optimizer of θ holds in the structure of θ (momenta of any
    kind) is 0 where θ is pruned.
    """

    def project(state: Any) -> Any:
        v, rates = state.variables, state.variables[RATES][PRUNING]
        stacks = variables.prunable(v[PARAMS], rules)
        shared = jax.tree.map(lambda x: jnp.asarray(x, "int32"), rates["kept"])
        kept = counts(v[PARAMS], stacks, shared)
        masks = jax.lax.cond(rates["renew"] != 0, lambda: renewed(v, stacks, kept, regrow), lambda: v[MASKS])
        theta: Any = jax.tree.structure(v[PARAMS])

        def is_like_theta(x: Any) -> bool:
            return bool(theta == jax.tree.structure(x))

        memory = jax.tree.map(
            lambda x: zeroed(x, masks) if is_like_theta(x) else x, state.optimizers[PARAMS], is_leaf=is_like_theta
        )
        return state._replace(variables=under(v, masks, regrow), optimizers={**state.optimizers, PARAMS: memory})

    return project


def sparsity_of(masks: Any) -> float:
    """Pruned weights in per cent of all prunable ones, of masks on the host."""
    leaves = [np.asarray(mask) for mask in jax.tree.leaves(masks)]
    return 100 * (1 - sum(np.count_nonzero(x) for x in leaves) / sum(x.size for x in leaves))
