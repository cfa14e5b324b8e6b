"""DSO-NAS: search by direct sparse optimisation. Source: Zhang et al., TPAMI 2020; its equations' algorithm is in
`bilevel.proximal`.

    min_{w, λ ≥ 0} f(w, λ) + Σ γ_e λ_e

λ_e is the factor of a connection. First w alone is trained in the full graph, λ = 1. Then w moves on one half of the
images and λ on the other, alternating: Nesterov SGD, and accelerated proximal gradient that takes factors to exactly 0.
Every few epochs the connections at 0 leave for good, with the operations that are on no way any more from a block's
input to its output; the program is built anew without them. In between a factor may come back. γ_e follows what a
connection costs.

The loss does not change with the common scale of the factors into a node, as BN comes behind: the last of them always
shrinks to 0 in the end. So the search has no point of rest, and ends by a budget or its epochs.
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax import bilevel, variables
from dass_jax.bilevel import State
from dass_jax.errors import UserError
from dass_jax.methods import relaxed, unsearched
from dass_jax.methods.method import Problem
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Curve, Feed, Observation, Phase, Rebuild, Search, single
from dass_jax.schedules import by_epoch, constant, cosine
from dass_jax.schema import Count, CountOrZero, Decay, NotNegative, Range, Rate
from dass_jax.variables import ALPHA, PARAMS, Variables

CONNECTIONS = "connections"
"""The collection of what is not trained: {"alive": {matrix: bool [targets, sources]}, "epochs": int32, those done}."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Direct sparse optimisation of the factors of all connections."""

    epochs: Count = 240
    """Epochs of the whole search at most, those of w alone included."""
    pretrain_epochs: CountOrZero = 120
    """Epochs at the beginning of w alone in the full graph."""
    batch_size: Count = 128
    """Images in a batch, of w and of λ."""
    accumulate: Count = 1
    """Equal parts of each device's batch that are worked through one after the other, for about the memory of one: a
    step uses the mean of their gradients. Batch normalisation uses each part's own statistics."""
    theta_lr: Rate = 0.1
    """Learning rate of w (Nesterov SGD; the first of a cosine while w is trained alone, then constant) and of λ."""
    final_lr: NotNegative = 1e-3
    """Last learning rate while w is trained alone."""
    momentum: Decay = 0.9
    """Momentum of w and of λ (μ)."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of the weights of convolutions and of the linear layer, as L2 in the gradient."""
    clip: Rate = 2.0
    """Largest entry of a gradient, of w and of λ, in the search."""
    gamma: NotNegative = 1e-3
    """Weight of the L1 penalty (γ). Over T steps of λ it takes off at most theta_lr · gamma · T / (1 − momentum), which
    for the paper's search is 23.5: fewer steps need more. ImageNet: 1e-2."""
    budget: Literal["uniform", "units", "flops", "macs", "latency"] = "uniform"
    """What γ follows: nothing; operations of the block that are left, as the published code counts them; their FLOPs;
    memory accesses of the operation behind the connection; the milliseconds that the network loses without it, by the
    table that `space.latency` names."""
    form: Literal["coded", "prox"] = "coded"
    """The proximal operator: of |λ| with a projection (the published code) or of both at once, without wind-up."""
    weight_steps: Annotated[int, Range(1, 100)] = 1
    """Steps of w for each of λ. ImageNet: 4."""
    split: bool = True
    """Move λ on the validation images; false: both on all images."""
    remove_every: Count = 5
    """Epochs after which the connections at 0 leave. ImageNet: 1."""
    rebuild: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Build a smaller program once more than this share of the connections of the present one has left."""
    stop_connections: CountOrZero = 0
    """End the search with at most so many connections left in all blocks, after sweeping; 0: no such end."""
    stop_weights: Annotated[int, Range(0)] = 0
    """End the search when the network that would be trained has at most so many weights; 0: no such end."""
    stop_macs: Annotated[int, Range(0)] = 0
    """End the search when that network has at most so many multiply-accumulates; 0: no such end."""


def present(v: Variables) -> dict[str, jax.Array]:
    """The factors, 0 where a connection has left."""
    return jax.tree.map(lambda factor, alive: factor * alive, v[ALPHA], v[CONNECTIONS]["alive"])


def standing(v: Variables) -> dict[str, np.ndarray]:
    """The factors as architectures are read off them: −1 where a connection has left, so that what a space keeps of
    several zeros is none of these."""
    alive = v[CONNECTIONS]["alive"]
    return {name: np.where(alive[name], factors, -1) for name, factors in v[ALPHA].items()}


def kernels(params: Any) -> Any:
    """True for the leaves that decay: weights of convolutions and of the linear layer."""
    return variables.unflatten({path: path.endswith("weight") for path in variables.flatten(params)})


def loss_of(c: Fields, problem: Problem, space: Any) -> bilevel.Loss:
    """The task's loss of the supernet under the present factors."""
    loss = relaxed.supernet_loss(space.apply, problem.task, present, relaxed.dense_weights)
    return bilevel.accumulated(loss, c.accumulate)


def pretraining(c: Fields, problem: Problem, space: Any) -> bilevel.Algorithm:
    """w alone."""
    transform = bilevel.nesterov_sgd(c.momentum, c.weight_decay, decayed=kernels)
    level = bilevel.Level(PARAMS, loss_of(c, problem, space), bilevel.with_rate(transform, "lower"))
    return single(bilevel.descend(level, problem.average), "lower")


def step(c: Fields, problem: Problem, space: Any) -> bilevel.Algorithm:
    """w, so many times, and then λ, each on its own batch; γ follows the factors as they are before. What costs
    nothing, the last of what must not leave, rests: its momentum alone could take it to 0."""
    loss = loss_of(c, problem, space)
    weights = bilevel.nesterov_sgd(c.momentum, c.weight_decay, c.clip, kernels)
    factors = optax.chain(optax.clip(c.clip), bilevel.apg_nag(c.momentum, c.form))
    lower = bilevel.Level(PARAMS, loss, bilevel.with_rate(weights, "lower"), c.weight_steps)
    upper = bilevel.Level(ALPHA, loss, bilevel.with_rate(factors, "upper"))
    turns = bilevel.in_turn({"lower": lower, "upper": upper}, reduce=problem.average)

    def update(state: State, batches: Any, key: jax.Array, **extra: Any) -> Any:
        costs = space.costs[c.budget](present(state.variables))
        gamma = jax.tree.map(lambda cost: c.gamma * cost, costs)
        after, infos = turns.update(state, batches, key, gamma=gamma, **extra)

        def rested(cost: jax.Array, before: jax.Array, now: jax.Array) -> jax.Array:
            return jnp.where((cost == 0) & (before > 0), before, now)

        factors = jax.tree.map(rested, costs, state.variables[ALPHA], after.variables[ALPHA])
        return after._replace(variables={**after.variables, ALPHA: factors}), infos

    return bilevel.Algorithm(turns.init, update)


def fresh(problem: Problem, space: Any, key: jax.Array) -> Variables:
    """The first variables: every connection lives, with factor 1."""
    everything = {name: jnp.asarray(matrix) for name, matrix in space.encode(space.whole).items()}
    alive = jax.tree.map(lambda matrix: matrix > 0, everything)
    left = {"alive": alive, "epochs": jnp.zeros((), jnp.int32)}
    return {**space.init(key, problem.image_shape), ALPHA: everything, CONNECTIONS: left}


def removed(c: Fields, space: Any, state: State) -> State:
    """At the end of an epoch: every so many epochs without the connections whose factor is 0, and those that are on no
    way any more. What the space keeps nevertheless (the last branch of a reduction) begins again with factor 1."""
    v = state.variables
    alive, done = v[CONNECTIONS]["alive"], np.int32(v[CONNECTIONS]["epochs"] + 1)
    if done % c.remove_every:
        return state._replace(variables={**v, CONNECTIONS: {"alive": alive, "epochs": done}})
    now = standing(v)
    alive = {name: np.asarray(matrix) > 0 for name, matrix in space.encode(space.decode(now)).items()}
    left = {name: alive[name] & (now[name] > 0) for name in now}

    def cleared(tree: Any) -> Any:
        return {name: np.where(left[name], x, np.zeros_like(x)) for name, x in tree.items()}

    factors = {name: np.where(alive[name] & ~left[name], np.ones_like(x), x) for name, x in cleared(now).items()}
    momentum = jax.tree.map(lambda x: cleared(x) if is_tree(x) else x, state.optimizers[ALPHA], is_leaf=is_tree)
    after = {**v, ALPHA: factors, CONNECTIONS: {"alive": alive, "epochs": done}}
    return State(after, {**state.optimizers, ALPHA: momentum})


def is_tree(x: Any) -> bool:
    """Whether x is a part of an optimizer's state that has the structure of what it moves."""
    return isinstance(x, dict)


def allowed(costs: Any) -> str:
    """The budgets of a space, for a message."""
    return ", ".join([*costs, *([] if "latency" in costs else ["latency with a table as space.latency"])])


def size(live: Any) -> int:
    """How many connections live."""
    return int(sum(np.asarray(matrix).sum() for matrix in live.values()))


def observing(c: Fields, problem: Problem, space: Any) -> Any:
    """The factors; how many are not 0 and how many of these are on a way through their block; where the search ends by
    it, the size of the network that would be trained."""

    def observe(v: Variables) -> Observation:
        now = {name: np.asarray(matrix) for name, matrix in present(v).items()}
        found = space.decode(standing(v))
        swept = {name: np.asarray(matrix) > 0 for name, matrix in space.encode(found).items()}
        metrics = {
            "connections": float(size({name: matrix > 0 for name, matrix in now.items()})),
            "connections_swept": float(size(swept)),
        }
        if c.stop_weights or c.stop_macs:
            count = problem.size(found)
            metrics |= {"network_weights": float(count.prunable), "network_macs": float(count.macs)}
        return Observation(metrics, now)

    return observe


def stopping(c: Fields) -> Any:
    """Whether one of the budgets is met; None without any."""
    budgets = {"connections_swept": c.stop_connections, "network_weights": c.stop_weights, "network_macs": c.stop_macs}
    asked = {metric: budget for metric, budget in budgets.items() if budget}
    return (lambda metrics: any(metrics[name] <= budget for name, budget in asked.items())) if asked else None


def curves(c: Fields, problem: Problem) -> tuple[Curve, ...]:
    """How the search is drawn."""
    found = (
        *problem.task.curves("lower_", "upper_", "validation"),
        Curve("connections", "living connections", "factor not 0"),
        Curve("connections_swept", "living connections", "on a way through the block", "", "dashed"),
    )
    if c.stop_weights or c.stop_macs:
        found += (Curve("network_weights", "weights of the network"), Curve("network_macs", "MACs of the network"))
    return found


def search(c: Fields, problem: Problem) -> Search:
    """Pre-training of the full graph, and the search."""
    whole, begun = unsearched.all_of_it(problem, "dso"), min(c.pretrain_epochs, c.epochs - 1)
    if c.budget not in whole.costs:
        raise UserError(f"method.budget = {c.budget!r} in this space; allowed: {allowed(whole.costs)}")
    own = relaxed.matrices(whole)
    matrices = {name: matrix._replace(value="factor") for name, matrix in own.items()}

    def searching(before: Any, live: Any) -> Phase:
        space = whole if live is None else problem.space(live=live)
        algorithm = step(c, problem, space)

        def begin(key: jax.Array, state: Any) -> State:
            if live is not None:
                return relaxed.carried(whole, state, live, before)
            return algorithm.init(state.variables if begun else fresh(problem, whole, key))

        halves = (TRAINING, VALIDATION) if c.split else (WHOLE, WHOLE)
        rate = constant(c.theta_lr)
        return Phase(
            name="search",
            title="Search: weights and factors of connections, alternating",
            epochs=c.epochs - begun,
            algorithm=algorithm,
            begin=begin,
            feeds={
                "lower": Feed(halves[0], c.batch_size, c.weight_steps),
                "upper": Feed(halves[1], c.batch_size),
            },
            rates=lambda progress: {"learning_rate": {"lower": rate(progress), "upper": rate(progress)}},
            program=f"search {live}",
            curves=curves(c, problem),
            matrices=matrices,
            observe=observing(c, problem, whole),
            after_epoch=lambda state: removed(c, whole, state),
            stop=stopping(c),
            rebuild=Rebuild(wanted, searching),
        )

    def wanted(v: Variables, built: Any) -> Any:
        """Of several seeds what lives in any of them."""
        live = {name: np.asarray(alive).any(0) for name, alive in v[CONNECTIONS]["alive"].items()}
        now = size(whole.encode(whole.whole) if built is None else built)
        left = size(live)
        return {name: alive.tolist() for name, alive in live.items()} if left < (1 - c.rebuild) * now else None

    found = Search((searching(None, None),), lambda v, seed: whole.settle(standing(v)))
    if not begun:
        return found
    algorithm, falling = pretraining(c, problem, whole), by_epoch(cosine(c.theta_lr, c.final_lr), begun)
    first = Phase(
        name="pretrain",
        title="Training of the weights in the full graph",
        epochs=begun,
        algorithm=algorithm,
        begin=lambda key, _: algorithm.init(fresh(problem, whole, key)),
        feeds={"lower": Feed(TRAINING if c.split else WHOLE, c.batch_size)},
        rates=lambda progress: {"learning_rate": {"lower": falling(progress)}},
        curves=problem.task.curves(""),
    )
    return found._replace(phases=(first, *found.phases))
