"""Single-level search with α-entmax and removal of operations. Source: Bezirganyan and Akarmazyan 2022.

    min_{θ, z} f(θ, p(z))      p(z) = α-entmax of the logits z of each edge, over its living operations

θ and z move together, by one backward pass on one batch of all training images. α-entmax gives weights of exactly 0; an
operation with weight 0 at the end of an epoch is removed: its weight stays 0, the output of the supernet is what it
was, and once a quarter of the work is gone the program is built anew without the removed operations. Removal is by the
exact test for the support, without a threshold, and nothing comes back. The search ends when every edge is decided.

With `bilevel` the logits follow the validation images instead, as in DARTS; α = 1 is softmax, under which nothing is
ever removed. So the six rows of the paper's Table 1 are six configurations.

The paper leaves open when operations are removed and how the search begins. With α = 3 an edge of eight operations that
follows noise loses its first operation within 250 steps; so the logits rest for the first epochs, in which θ is trained
under equal weights.
"""

import dataclasses
import functools
import json
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import bilevel, relaxation
from dass_jax.bilevel import State
from dass_jax.methods import relaxed
from dass_jax.methods.method import Problem
from dass_jax.methods.relaxed import Relaxed
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Curve, Feed, Observation, Phase, Rebuild, Search, single
from dass_jax.schedules import Schedule, by_epoch, cosine, linear
from dass_jax.schema import Count, CountOrZero, Range
from dass_jax.variables import ALPHA, PARAMS, RATES, Variables

RELAXATION = "relaxation"
"""The collection of what shapes p(z) and is not trained: {"alive": {matrix: bool [rows, columns]}, "alpha": []}."""


@dataclasses.dataclass(frozen=True)
class Fields(Relaxed):
    """α-entmax and removal of operations."""

    epochs: Count = 200
    """Epochs of the whole search, warm-up included."""
    warmup_epochs: CountOrZero = 10
    """Epochs at the beginning in which θ is trained under equal weights and the logits rest."""
    entmax: Annotated[float, Range(1, 100)] = 3.0
    """α of α-entmax: 1 is softmax, 2 is sparsemax, and more is sparser."""
    entmax_end: Annotated[float, Range(0, 100)] = 0.0
    """Where α ends if it is to rise linearly from `entmax` over the search; 0 = it stays."""
    bilevel: bool = False
    """Move the logits on validation images, alternating with θ on training images; false: both on all images."""
    removal: Literal["epoch", "step", "never"] = "epoch"
    """When operations of weight 0 are removed: after each epoch, after each step, or never."""
    rebuild: Annotated[float, Range(0, 1, open_low=True)] = 0.25
    """Build a smaller program once this share of the work of the present one (multiply-accumulates) has died."""


def weights(v: Variables, alpha: Any) -> dict[str, jax.Array]:
    """p(z) of every edge."""
    return relaxation.entmax_weights(v[ALPHA], alpha, v[RELAXATION]["alive"])


def present(v: Variables) -> dict[str, jax.Array]:
    """p(z) as it is now, of host arrays too."""
    return weights(v, jnp.asarray(v[RELAXATION]["alpha"]))


def uniform(v: Variables) -> dict[str, jax.Array]:
    """Equal weights of all living operations."""
    return jax.tree.map(lambda alive: alive / alive.sum(-1, keepdims=True), v[RELAXATION]["alive"])


def supported(v: Variables, alpha: Any) -> Any:
    """The living operations of weight more than 0: {matrix: bool [rows, columns]}."""
    return jax.tree.map(lambda z, alive: relaxation.support(z, alpha, alive), v[ALPHA], v[RELAXATION]["alive"])


def removed(v: Variables, alpha: Any) -> Variables:
    """The variables without the operations of weight 0. Of each edge at least one operation lives on: the largest
    living logit is always in the support."""
    return {**v, RELAXATION: {**v[RELAXATION], "alive": supported(v, alpha)}}


def alpha_of(c: Fields, v: Variables) -> Any:
    """α of a step: a plain number where it is constant, which has closed forms."""
    return v[RATES]["entmax"] if c.entmax_end else c.entmax


def guarded(c: Fields, algorithm: bilevel.Algorithm) -> bilevel.Algorithm:
    """The algorithm with the logits of dead operations held where they are, whatever momentum and weight decay say;
    notes the step's α, and removes after each step where that is asked for."""

    def update(state: State, batches: Any, key: jax.Array, **extra: Any) -> Any:
        alpha, alive = alpha_of(c, state.variables), state.variables[RELAXATION]["alive"]
        moved, infos = algorithm.update(state, batches, key, **extra)
        logits = jax.tree.map(jnp.where, alive, moved.variables[ALPHA], state.variables[ALPHA])
        noted = jnp.asarray(alpha, state.variables[RELAXATION]["alpha"].dtype)
        v = {**moved.variables, ALPHA: logits, RELAXATION: {"alive": alive, "alpha": noted}}
        return moved._replace(variables=removed(v, alpha) if c.removal == "step" else v), infos

    return bilevel.Algorithm(algorithm.init, update)


def step(c: Fields, problem: Problem, space: Any) -> bilevel.Algorithm:
    """θ and the logits: jointly on one batch, or alternating on batches of their own."""
    loss = relaxed.supernet_loss(space.apply, problem.task, lambda v: weights(v, alpha_of(c, v)), relaxed.dense_weights)
    loss = bilevel.accumulated(loss, c.accumulate)
    lower = bilevel.Level(PARAMS, loss, bilevel.with_rate(relaxed.sgd(c), "lower"))
    upper = bilevel.Level(ALPHA, loss, bilevel.with_rate(relaxed.alpha_transform(c), "upper"))
    if c.bilevel:
        return guarded(c, bilevel.alternate(upper, lower, problem.hypergradient, "lower_first", problem.average))
    joint = bilevel.joint({"lower": lower, "upper": upper}, problem.average)
    return guarded(c, single(joint, "lower"))


def warmup(c: Fields, problem: Problem, space: Any) -> bilevel.Algorithm:
    """θ alone, under equal weights."""
    loss = relaxed.supernet_loss(space.apply, problem.task, uniform, relaxed.dense_weights)
    level = bilevel.Level(PARAMS, bilevel.accumulated(loss, c.accumulate), bilevel.with_rate(relaxed.sgd(c), "lower"))
    return single(bilevel.descend(level, problem.average), "lower")


def fresh(c: Fields, problem: Problem, space: Any, key: jax.Array) -> Variables:
    """The first variables; everything lives."""
    alive = {name: jnp.ones(choice.shape, bool) for name, choice in space.choices.items()}
    return {**relaxed.fresh(problem, space, key), RELAXATION: {"alive": alive, "alpha": jnp.float32(c.entmax)}}


def part(schedule: Schedule, first: float, last: float) -> Schedule:
    """The part of a schedule between two points of its progress."""
    return lambda progress: schedule(first + (last - first) * progress)


def observing(c: Fields, space: Any, choose: relaxed.Relax) -> Any:
    """As `relaxed.observing`, with how many operations live and how many edges have more than one."""
    seen = relaxed.observing(space, choose, space.settle)

    def observe(v: Variables) -> Observation:
        found = seen(v)
        alive = [np.asarray(x) for x in v[RELAXATION]["alive"].values()]
        counts = {
            "alive": float(sum(x.sum() for x in alive)),
            "undecided": float(sum((x.sum(-1) > 1).sum() for x in alive)),
        }
        return Observation({**found.metrics, **counts}, found.matrices)

    return observe


def search(c: Fields, problem: Problem) -> Search:
    """Warm-up and search."""
    begun = min(c.warmup_epochs, c.epochs - 1)
    share, split = begun / c.epochs, TRAINING if c.bilevel else WHOLE
    whole = problem.space()
    falling = by_epoch(cosine(c.theta_lr, c.final_lr), c.epochs)
    rising = linear(c.entmax, c.entmax_end or c.entmax)
    feeds = {"lower": Feed(split, c.batch_size)}
    if c.bilevel:
        feeds["upper"] = Feed(VALIDATION, c.batch_size)
    counted = (Curve("alive", "living operations"), Curve("undecided", "undecided edges"))

    def rates(first: float, last: float) -> Any:
        lower, alpha = part(falling, first, last), part(rising, first, last)

        def at(progress: np.ndarray) -> dict[str, Any]:
            learning = {"lower": lower(progress), "upper": np.full_like(progress, c.alpha_lr)}
            return {"learning_rate": learning, "entmax": alpha(progress)}

        return at

    def searching(before: Any, live: Any) -> Phase:
        space = whole if live is None else problem.space(live=live)
        algorithm = step(c, problem, space)
        curves = problem.task.curves("lower_", *(("upper_", "validation") if c.bilevel else ()))

        def begin(key: jax.Array, state: Any) -> State:
            if live is not None:
                return relaxed.carried(whole, state, live, before)
            if not begun:
                return algorithm.init(fresh(c, problem, space, key))
            started = algorithm.init(state.variables)
            return started._replace(optimizers={**started.optimizers, PARAMS: state.optimizers[PARAMS]})

        return Phase(
            name="search",
            title="Search, with removal of operations" if c.removal != "never" else "Search",
            epochs=c.epochs - begun,
            algorithm=algorithm,
            begin=begin,
            feeds=feeds,
            rates=rates(share, 1.0),
            program=f"search {live}",
            curves=(*curves, *counted, *relaxed.choice_curves(space)),
            matrices=relaxed.matrices(space),
            observe=observing(c, space, present),
            after_epoch=None if c.removal == "never" else remove,
            stop=None if c.removal == "never" else lambda metrics: metrics["undecided"] == 0,
            rebuild=None if c.removal == "never" else Rebuild(wanted, searching),
        )

    @functools.cache  # it takes seconds to trace a supernet, and each epoch asks
    def cost(live: str) -> int:
        """Multiply-accumulates of the program for the living operations, as JSON; null: for all."""
        living = json.loads(live)
        return problem.macs(whole if living is None else problem.space(live=living))

    def wanted(v: Variables, built: Any) -> Any:
        """Of several seeds what lives in any of them."""
        live = {name: np.asarray(x).any(0).tolist() for name, x in v[RELAXATION]["alive"].items()}
        left, now = cost(json.dumps(live)), cost(json.dumps(built))
        return live if left <= (1 - c.rebuild) * now else None

    phases = [searching(None, None)]
    if begun:
        algorithm = warmup(c, problem, whole)
        phases.insert(
            0,
            Phase(
                name="warmup",
                title="Warm-up: weights under equal shares of all operations",
                epochs=begun,
                algorithm=algorithm,
                begin=lambda key, _: algorithm.init(fresh(c, problem, whole, key)),
                feeds={"lower": Feed(split, c.batch_size)},
                rates=rates(0.0, share),
                curves=problem.task.curves(""),
                unread=("sparsity",),
            ),
        )
    return Search(tuple(phases), lambda v, seed: whole.settle(present(v)))


def remove(state: State) -> State:
    """Without the operations of weight 0, at the end of an epoch."""
    v = removed(state.variables, jnp.asarray(state.variables[RELAXATION]["alpha"]))
    return state._replace(variables=jax.tree.map(np.asarray, v))
