"""A system that nobody has heard of, added from outside: this file is its plugin, and no file of the package names it.

What CONTRIBUTING asks of a new space, method, task and recipe is followed here. The space is a ladder of rungs, each
with one of two operations; the method has three phases, one of them without α and images, and a level of two optimiser
steps; the task is no classification.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dass_jax import architectures, bilevel, methods, networks, recipes, relaxation, spaces, sparsity, tasks
from dass_jax.architectures import Edge, Family, Graph
from dass_jax.errors import UserError
from dass_jax.networks.model import of_module
from dass_jax.nn.initial import initialise
from dass_jax.nn.layers import SparseLinear
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Curve, Feed, Matrix, Observation, Phase, Search, Training
from dass_jax.recipes import recipe
from dass_jax.schema import Count, Empty, Rate

OPERATIONS = ("wave", "fold")
RULES = ((r".*/weight", 0), (r".*/bias", None))


class Ladder(NamedTuple):
    """The operation of each rung, from the ground."""

    rungs: tuple[str, ...]


def from_json(data: Any, origin: str) -> Ladder:
    rungs = data.get("rungs")
    if not isinstance(rungs, list) or any(rung not in OPERATIONS for rung in rungs):
        raise UserError(f"{origin}: rungs = {rungs!r}; allowed: a list of {', '.join(OPERATIONS)}")
    return Ladder(tuple(rungs))


def graphs(a: Ladder) -> tuple[Graph, ...]:
    nodes = ("ground", *(f"rung {n}" for n in range(len(a.rungs))))
    return (Graph("ladder", nodes, tuple(map(Edge, nodes, nodes[1:], a.rungs))),)


def encode(a: Ladder) -> dict[str, np.ndarray]:
    return {"path": np.eye(2, dtype=np.float32)[[OPERATIONS.index(rung) for rung in a.rungs]]}


@dataclasses.dataclass(frozen=True)
class LadderFields:
    height: Count = 3
    """Rungs."""


class Climb(nn.Module):
    """Images [C, H, W, N] up the rungs, each a mixture [rungs, 2] of both operations, to outputs [N, O]."""

    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, mixture: Any) -> jax.Array:
        x = images.mean(2).reshape(-1, images.shape[-1])
        for n, row in enumerate(mixture):
            y = SparseLinear(4, name=f"rung_{n}")(x)
            x = row[0] * jnp.sin(y) + row[1] * jnp.abs(y)
        return SparseLinear(self.outputs, name="top")(x).T


class Fixed(nn.Module):
    """The network of a ladder."""

    ladder: Ladder
    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        return Climb(self.outputs, name="climb")(images, encode(self.ladder)["path"]), None


def space(c: LadderFields, outputs: int, average: Any, dtype: Any) -> spaces.Space:
    climb, rows = Climb(outputs), tuple(f"rung {n}" for n in range(c.height))

    def init(key: jax.Array, shape: Any) -> Any:
        given = jnp.zeros((shape[2], *shape[:2], 2)), jnp.zeros((c.height, 2))
        return initialise(key, jax.eval_shape(lambda: climb.init(key, *given)), RULES)

    def decode(choice: Any) -> Ladder:
        return Ladder(tuple(OPERATIONS[column] for column in np.asarray(choice["path"]).argmax(1)))

    return spaces.Space(
        init=init,
        apply=lambda params, stats, choice, x, train: (climb.apply({"params": params}, x, choice["path"]), stats),
        encode=encode,
        decode=decode,
        settle=decode,
        sample=lambda generator: Ladder(tuple(generator.choice(OPERATIONS, c.height).tolist())),
        choices={"path": spaces.Choice("the way up", rows, OPERATIONS)},
        rules=RULES,
    )


def dial(classes: int, fields: Any) -> tasks.Task:
    def misses(y: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.abs(y[:, 0] - t)

    return tasks.Task(
        name="dial",
        outputs=1,
        loss=lambda y, t: (misses(y, t) ** 2).mean(),
        measured=lambda y, t: {"miss": misses(y, t).mean()},
        sums=lambda y, t, counted: {"all": (misses(y, t) * counted).sum(), "seen": counted.sum()},
        figures=lambda sums: {"miss": sums["all"] / sums["seen"]},
        metrics=(tasks.Metric("miss", "ticks", higher_is_better=False),),
    )


@dataclasses.dataclass(frozen=True)
class WanderFields:
    batch_size: Count = 16
    accumulate: Count = 1
    epochs: Count = 2
    pace: Rate = 0.01


def wander(c: WanderFields, problem: methods.Problem) -> Search:
    ladders = problem.space()

    def climbing(v: Any, batch: Any, key: Any) -> Any:
        outputs, _ = ladders.apply(v["params"], {}, relaxation.softmax(v["alpha"]), batch.images, True)
        return problem.task.loss(outputs, batch.targets), ({"sway": jnp.abs(outputs).mean()}, {})

    def musing(v: Any, nothing: None, key: Any) -> Any:
        return ((v["mood"] - v["rates"]["calm"]) ** 2).sum(), ({}, {})

    def algorithm(**levels: Any) -> bilevel.Algorithm:
        moved = {name: bilevel.with_rate(bilevel.sgd(0.5, 0.0, 1.0), name) for name in levels}
        made = {name: bilevel.Level(part, loss, moved[name], n) for name, (part, loss, n) in levels.items()}
        return bilevel.in_turn(made, reduce=problem.average)

    def observe(v: Any) -> Observation:
        return Observation({"cheer": float(v["mood"].sum())}, relaxation.softmax(v["alpha"]))

    def phase(name: str, steps: bilevel.Algorithm, feeds: dict[str, Feed | None], **given: Any) -> Phase:
        def rates(progress: np.ndarray) -> dict[str, Any]:
            return {"learning_rate": dict.fromkeys(feeds, c.pace * (1 - progress)), "calm": 1 + progress}

        def begin(key: jax.Array, state: Any) -> bilevel.State:
            fresh = {"alpha": relaxation.init(key, {"path": (3, 2)}), "mood": jnp.zeros(3)}
            return steps.init(state.variables if state else {**ladders.init(key, problem.image_shape), **fresh})

        return Phase(name, f"{name}, at ease", c.epochs, steps, begin, feeds, rates, observe=observe, **given)

    images = Feed(TRAINING, c.batch_size)
    drawn: dict[str, Any] = {
        "curves": (Curve("legs_sway", "sway", "legs", "cm"), Curve("cheer", "cheer", "", "smiles")),
        "matrices": {"path": Matrix("the way up", ladders.choices["path"].rows, OPERATIONS, "pull")},
    }
    stroll = algorithm(legs=("params", climbing, 2))
    muse = algorithm(mood=("mood", musing, 1))
    leap = algorithm(eyes=("alpha", climbing, 1), legs=("params", climbing, 1))
    phases = (
        phase("stroll", stroll, {"legs": images._replace(batches=2)}),
        phase("muse", muse, {"mood": None}),
        phase("leap", leap, {"eyes": images._replace(split=VALIDATION), "legs": images}, **drawn),
    )
    return Search(phases, lambda v, seed: ladders.decode(relaxation.softmax(v["alpha"])))


@dataclasses.dataclass(frozen=True)
class PolishFields(recipe.Fields):
    rubs: Count = 2


def polish(c: PolishFields, problem: recipe.Problem) -> Training:
    loss = recipe.network_loss(problem, sparsity.masked_weights)
    steps = recipe.descending("params", loss, optax.sgd(0.01), problem)
    feeds = {"params": Feed(WHOLE, c.batch_size)}
    rub = Phase("rub", "Rubbing", c.rubs, steps, lambda key, _: steps.init(recipe.fresh(problem, key)), feeds,
                lambda progress: {"learning_rate": {"params": 0 * progress}}, network=recipe.masked)  # fmt: skip
    return Training((rub,), recipe.outputs(problem), {"rub": "shiny"})


architectures.FAMILIES["ladder"] = Family("ladder", Ladder, lambda a: {"rungs": list(a.rungs)}, from_json, graphs)
spaces.SPACES["ladder"] = spaces.Entry(LadderFields, space)
networks.NETWORKS["ladder"] = networks.Entry(LadderFields, lambda a, c, outputs, *_: of_module(Fixed(a, outputs), ()))
methods.METHODS["wander"] = methods.Entry("at ease", WanderFields, wander, lambda c: 3 * c.epochs)
recipes.RECIPES["polish"] = recipes.Entry("by rubbing", PolishFields, polish)
tasks.TASKS["dial"] = tasks.Entry(Empty, dial)
