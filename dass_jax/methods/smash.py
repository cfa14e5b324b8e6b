"""SMASH: search through a hyper-network that writes the weights of every architecture. Source: arXiv 1708.05344
Algorithm 1 and the authors' public code.

    min over H and θ of E_{a, z} f(H(a, z), θ; a)      then the best of some a, by F(H(a, z), θ; a), z fixed

H writes the 1×1 convolutions, θ is what all architectures share; f is the loss on the training split of an architecture
that each step draws, F the figures on the whole validation split, with running statistics. Architectures grow and
larger windows come in over the first half of the training. Candidates are drawn at random, then near the best of these,
then step by step from the best of all, where a step is taken if it is better.

Whether scores rank architectures is the method's weak point. With `checked` some of the random ones are trained too, as
the found one is, so that their scores can be compared with what they reach.

Differences from the published code: the scores share one z, as a fresh one for each architecture is noise in their
comparison.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax import bilevel
from dass_jax.bilevel import State
from dass_jax.errors import UserError
from dass_jax.methods import sampled
from dass_jax.methods.method import Problem
from dass_jax.methods.sampled import CANDIDATES, SAMPLED
from dass_jax.phases import TRAINING, VALIDATION, Curve, Feed, Matrix, Observation, Phase, Search, single
from dass_jax.schedules import Schedule, cosine
from dass_jax.schema import Count, CountOrZero, Decay, NotNegative, Rate
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, PARAMS, RATES, Variables

BEST = "best"
"""The collection of the best architecture so far: {"choice": …, "value": scalar}."""
LIST = "list"
"""The collection of all scores, {name of the phase: [architectures]}."""
CHECKED = "checked"
"""The collection of what is trained to check the scores: {"choices": [checked, …], "value": [checked]}."""
WALK = "walk"
"""The collection of the random bits of a walk: {"key": uint32 [2], "step": int32}."""
GROWTH, SHARE = "growth", "share"
"""Among the rates: how far architectures have grown, in [0, 1]; what is kept of the weights that are written."""
QUANTILES = (0, 10, 25, 50, 75, 90, 100)
"""In per cent."""


class Pruning(NamedTuple):
    """What SCAS adds to the training.

    rates(progress of all steps of an epoch) → `SHARE` after each, and what `project` reads
    begin(variables) → variables with the masks of the shared weights, if they have any
    weights(variables) → the parameters that the network sees
    project: what follows each step, see `bilevel.Level`
    """

    rates: Callable[[np.ndarray], dict[str, Any]]
    begin: Callable[[Variables], Variables] = lambda v: v
    weights: sampled.Weights = sampled.dense_weights
    project: Any = None


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields of a search through a hyper-network."""

    epochs: Count = 100
    """Epochs of the hyper-network and the shared weights."""
    batch_size: Count = 50
    """Images in a batch."""
    score_batch_size: Count = 100
    """Images in a batch of the scoring."""
    theta_lr: Rate = 1e-3
    """First learning rate (Adam; a cosine to 0, by steps)."""
    beta1: Decay = 0.5
    """Decay of Adam's first moment."""
    beta2: Decay = 0.999
    """Decay of Adam's second moment."""
    epsilon: Rate = 1e-4
    """ε of Adam."""
    weight_decay: NotNegative = 1e-4
    """Weight decay, as L2 in the gradient, of all but the hyper-network, whose weights are normalised."""
    random: Count = 500
    """Architectures that are drawn at random and scored."""
    perturbed: CountOrZero = 100
    """Perturbations of the best of these that are scored."""
    walk: CountOrZero = 100
    """Steps of the walk that begins at the best of all: each scores a perturbation of the best."""
    checked: CountOrZero = 0
    """Of the random architectures so many, evenly by their scores from best to worst, are trained and evaluated as the
    found one is, to see whether scores rank them; each costs a training. 0 = none."""


def space_of(problem: Problem) -> Any:
    """The space. Raises ValueError if it has no hyper-network."""
    space = problem.space()
    if space.written is None:
        raise ValueError("a method of hyper-networks in a space without one")
    return space


def loss_of(problem: Problem, space: Any, pruning: Pruning | None) -> bilevel.Loss:
    """The task's loss of an architecture that the key draws."""

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        choice = space.written.draw(*jax.random.split(key), v[RATES][GROWTH])
        params = v[PARAMS]
        if pruning:
            choice, params = space.written.kept(choice, v[RATES][SHARE]), pruning.weights(v)
        outputs, batch_stats = space.apply(params, v[BATCH_STATS], choice, batch.images, True)
        return problem.task.loss(outputs, batch.targets), (
            problem.task.measured(outputs, batch.targets),
            {BATCH_STATS: batch_stats},
        )

    return loss


def step(c: Fields, problem: Problem, space: Any, pruning: Pruning | None = None) -> bilevel.Algorithm:
    """A step of H and θ, under an architecture that it draws."""
    adam = optax.chain(
        optax.add_decayed_weights(c.weight_decay, mask=space.written.decays),
        optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
        bilevel.scale_by_given_learning_rate(),
    )
    project = pruning.project if pruning else None
    level = bilevel.Level(PARAMS, loss_of(problem, space, pruning), bilevel.with_rate(adam, PARAMS), project=project)
    return single(bilevel.descend(level, problem.average), PARAMS)


def training(c: Fields, problem: Problem, space: Any, pruning: Pruning | None = None) -> Phase:
    """The phase of H and θ."""
    algorithm = step(c, problem, space, pruning)
    falling: Schedule = cosine(c.theta_lr, 0.0)

    def rates(progress: np.ndarray) -> dict[str, Any]:
        pruned = pruning.rates(progress) if pruning else {}
        return {"learning_rate": {PARAMS: falling(progress)}, GROWTH: np.minimum(2 * progress, 1), **pruned}

    def begin(key: jax.Array, state: Any) -> State:
        first, second = jax.random.split(key)
        choice, v = space.written.draw(second, second, jnp.ones(())), space.init(first, problem.image_shape)
        if pruning:
            choice, v = space.written.kept(choice, jnp.full((), problem.keep)), pruning.begin(v)
        best = {"choice": choice, "value": jnp.full((), -jnp.inf)}
        # All of it from the beginning, so that phases of as many architectures share a program.
        counts = {"random": c.random, "perturbed": c.perturbed, "walk": c.walk}
        scores = {name: jnp.zeros(count) for name, count in counts.items() if count}
        more = {CHECKED: _several(choice, c.checked)} if c.checked else {}
        return algorithm.init({**v, BEST: best, LIST: scores, **more})

    return Phase(
        name="search",
        title="Hyper-network and shared weights, under architectures drawn at random",
        epochs=c.epochs,
        algorithm=algorithm,
        begin=begin,
        feeds={PARAMS: Feed(TRAINING, c.batch_size)},
        rates=rates,
        curves=problem.task.curves(""),
        unread=() if pruning else ("sparsity",),
    )


def _several(choice: Any, count: int) -> Any:
    return {"choices": jax.tree.map(lambda x: jnp.stack([x] * count), choice), "value": jnp.zeros(count)}


def scored_phase(c: Fields, problem: Problem, space: Any, name: str, title: str, count: int, propose: Any) -> Phase:
    """A phase of one epoch, the whole validation split, that scores so many architectures.

    Args:
      propose: (choice of the best, key) → choice.
    """
    algorithm = sampled.scoring(problem, space, train=False)

    def begin(key: jax.Array, state: State) -> State:
        v, keys = state.variables, jax.random.split(key, count)
        choices = jax.lax.map(lambda one: propose(v[BEST]["choice"], one), keys)
        return algorithm.init({**v, **sampled.unscored(problem, choices, count)})

    def after_epoch(state: State) -> State:
        v = sampled.scored(problem.task, state.variables)
        found = {**v[LIST], name: v[SAMPLED]["value"]}
        more = {CHECKED: evenly(v[SAMPLED], c.checked)} if c.checked and name == "random" else {}
        return state._replace(variables={**better(v), LIST: found, **more})

    return Phase(
        name=name,
        title=title,
        epochs=1,
        algorithm=algorithm,
        begin=begin,
        feeds={CANDIDATES: Feed(VALIDATION, c.score_batch_size, augment=False, whole=True)},
        program=f"scores of {count}",
        curves=(Curve("best", "score", "best"), Curve("mean", "score", "mean")),
        matrices={"scores": Matrix("scores", (name,), tuple(f"{q} %" for q in QUANTILES), "quantile of the scores")},
        observe=functools.partial(observe, name),
        after_epoch=after_epoch,
    )


def evenly(scored: Any, count: int) -> Any:
    """So many of the scored choices, from the best to the worst, evenly by rank; on the host."""
    order = np.argsort(-np.asarray(scored["value"]), kind="stable")
    places = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    return jax.tree.map(lambda x: np.asarray(x)[places], scored)


def better(v: Variables) -> Variables:
    """The variables with the best of what was scored, where that is strictly better; on the host."""
    value = np.asarray(v[SAMPLED]["value"])
    place = int(value.argmax())
    if not value[place] > v[BEST]["value"]:
        return v
    choice = jax.tree.map(lambda x: np.asarray(x)[place], v[SAMPLED]["choices"])
    return {**v, BEST: {"choice": choice, "value": np.asarray(value[place])}}


def observe(name: str, v: Variables) -> Observation:
    """The best of all so far, and the mean and quantiles of the scores of a phase; all of them as the matrix `list`."""
    scores = np.asarray(v[LIST][name], np.float64)
    quantiles = np.quantile(scores, [q / 100 for q in QUANTILES])[None]
    return Observation(
        {"best": float(v[BEST]["value"]), "mean": float(scores.mean())},
        {"scores": quantiles, f"list_{name}": scores[None]},
    )


def walking(c: Fields, problem: Problem, space: Any) -> Phase:
    """The phase whose epochs each score one perturbation of the best, and go on from it if it is strictly better."""
    algorithm, perturb = sampled.scoring(problem, space, train=False), jax.jit(space.written.perturb)

    def begin(key: jax.Array, state: State) -> State:
        v, key = state.variables, jax.random.key_data(key)
        choices = jax.tree.map(lambda x: x[None], propose(v, key, jnp.asarray(0, jnp.int32)))
        walk = {"key": key, "step": jnp.asarray(0, jnp.int32)}
        return algorithm.init({**v, WALK: walk, **sampled.unscored(problem, choices, 1)})

    def propose(v: Variables, key: Any, step: Any) -> Any:
        return perturb(v[BEST]["choice"], jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(key)), step))

    def after_epoch(state: State) -> State:
        v = better(sampled.scored(problem.task, state.variables))
        step = int(v[WALK]["step"])
        scores = np.array(v[LIST]["walk"])
        scores[step] = np.asarray(v[SAMPLED]["value"])[0]
        choices = jax.tree.map(lambda x: np.asarray(x)[None], propose(v, v[WALK]["key"], step + 1))
        walk = {**v[WALK], "step": np.asarray(step + 1, np.int32)}
        found = {
            SAMPLED: {**v[SAMPLED], "choices": choices},
            sampled.SUMS: jax.tree.map(np.zeros_like, v[sampled.SUMS]),
            WALK: walk,
        }
        return state._replace(variables={**v, **found, LIST: {**v[LIST], "walk": scores}})

    def observe(v: Variables) -> Observation:
        return Observation({"best": float(v[BEST]["value"]), "score": float(v[SAMPLED]["value"][0])})

    return Phase(
        name="walk",
        title="A walk from the best architecture",
        epochs=c.walk,
        algorithm=algorithm,
        begin=begin,
        feeds={CANDIDATES: Feed(VALIDATION, c.score_batch_size, augment=False, whole=True)},
        curves=(Curve("best", "score", "best"), Curve("score", "score", "step", style="dashed")),
        observe=observe,
        after_epoch=after_epoch,
    )


def phases(c: Fields, problem: Problem, space: Any, pruning: Pruning | None = None) -> tuple[Phase, ...]:
    """Training and scoring."""
    written = space.written

    def drawn(best: Any, key: jax.Array) -> Any:
        fresh = written.draw(key, key, jnp.ones(()))
        # Of the best all that is not of the architecture: one noise for all scores, and what is kept.
        return {**best, **{name: leaf for name, leaf in fresh.items() if name not in written.beside}}

    found = [
        training(c, problem, space, pruning),
        scored_phase(c, problem, space, "random", "Scores of random architectures", c.random, drawn),
    ]
    if c.perturbed:
        title = "Scores of perturbations of the best"
        found.append(scored_phase(c, problem, space, "perturbed", title, c.perturbed, written.perturb))
    if c.walk:
        found.append(walking(c, problem, space))
    return tuple(found)


def made(c: Fields, space: Any, phases: tuple[Phase, ...]) -> Search:
    """The search of these phases. Raises UserError if more are to be checked than are drawn, or but one."""
    if c.checked == 1 or c.checked > c.random:
        raise UserError(f"method.checked = {c.checked}; allowed: 0, or 2 to method.random = {c.random}")

    def found(v: Any, seed: int) -> Any:
        return space.decode(v[BEST]["choice"])

    def checked(v: Any, seed: int) -> list[tuple[Any, float]]:
        choices = [jax.tree.map(lambda x, n=n: np.asarray(x)[n], v[CHECKED]["choices"]) for n in range(c.checked)]
        values = np.asarray(v[CHECKED]["value"], np.float64).tolist() if c.checked else []
        return list(zip(map(space.decode, choices), values, strict=True))

    return Search(phases, found, checked)


def search(c: Fields, problem: Problem) -> Search:
    """Training, scores of random architectures, of perturbations, and a walk."""
    space = space_of(problem)
    return made(c, space, phases(c, problem, space))
