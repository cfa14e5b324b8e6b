"""What each hypergradient costs, in time and memory, against first order: one run, all estimators alternating.

    python benchmarks/hypergradients.py [--problems 64 256 1024 supernet] [--steps 1 4 16] [--only PATTERN]
                                        [--repetitions 9] [--output FILE.json]

A number is the width of a perceptron of three hidden layers on a batch of 256: θ are its weights, α the logarithm of a
penalty on each weight matrix together with a gain on each layer, so that the upper loss sees α directly and through θ.
`supernet` is Step 1 of configs/digits_dass.toml on random images. Two times are taken: of the estimate of dF/dα alone,
and of a whole turn, in which α and then θ take their step. First order spares the gradient by θ above, so a ratio of
estimates says more about arithmetic and a ratio of turns more about a search. Memory is what XLA sets aside for the
turn beside its arguments and results.
"""

import argparse
import functools
import pathlib
import re
import sys
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from dass_jax import bilevel, config, relaxation
from dass_jax.bilevel import Level, Sample
from dass_jax.methods import relaxed
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification
from dass_jax.variables import ALPHA, PARAMS

INPUTS, OUTPUTS, LAYERS, BATCH = 64, 10, 4, 256
KEY = jax.random.key(0)


class Problem(NamedTuple):
    """Two levels and the point at which they are measured."""

    upper: Level
    lower: Level
    variables: Any
    batches: dict[str, Any]

    @property
    def weights(self) -> int:
        """Entries of the lower variable."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables[self.lower.collection]))


def perceptron(width: int) -> Problem:
    """Three hidden layers."""
    sizes = [INPUTS, *[width] * (LAYERS - 1), OUTPUTS]
    keys = jax.random.split(KEY, LAYERS + 2)
    theta = [
        jax.random.normal(key, (i, o)) / np.sqrt(i) for key, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]

    def error(v: Any, batch: Any) -> jax.Array:
        x, labels = batch
        for layer, (weight, gain) in enumerate(zip(v[PARAMS], v[ALPHA]["gain"], strict=True)):
            x = x @ weight * jnp.exp(gain)
            x = jax.nn.gelu(x) if layer < LAYERS - 1 else x
        return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()

    def upper_loss(v: Any, batch: Any, key: jax.Array) -> Any:
        return error(v, batch), ({}, {})

    def lower_loss(v: Any, batch: Any, key: jax.Array) -> Any:
        squares = jnp.stack([(weight**2).sum() for weight in v[PARAMS]])
        return error(v, batch) + 0.5 * (jnp.exp(v[ALPHA]["penalty"]) * squares).sum(), ({}, {})

    first, second = (
        (jax.random.normal(key, (BATCH, INPUTS)), jax.random.randint(key, (BATCH,), 0, OUTPUTS)) for key in keys[-2:]
    )
    transform = optax.chain(optax.add_decayed_weights(3e-4), optax.sgd(0.025, momentum=0.9))
    alpha = {"penalty": jnp.full(LAYERS, -6.0), "gain": jnp.zeros(LAYERS)}
    upper, lower = Level(ALPHA, upper_loss, optax.adam(3e-4)), Level(PARAMS, lower_loss, transform)
    return Problem(upper, lower, {ALPHA: alpha, PARAMS: theta}, {"upper": first, "lower": second})


def supernet() -> Problem:
    """Step 1 of the digits search."""
    found = config.load(measure.DIGITS)
    sizes, c = found.space.fields, found.method.fields
    space = darts(SupernetConfig(OUTPUTS, sizes.cells, sizes.channels, sizes.nodes))
    loss = relaxed.supernet_loss(space.apply, classification(OUTPUTS), relaxed.softmax_choice, relaxed.dense_weights)
    v = space.init(KEY, (8, 8, 1))
    v[ALPHA] = relaxation.init(KEY, {name: choice.shape for name, choice in space.choices.items()})
    batches = {
        level: Batch(
            jax.random.normal(key, (1, 8, 8, c.batch_size)), jax.random.randint(key, (c.batch_size,), 0, OUTPUTS)
        )
        for level, key in zip(("upper", "lower"), jax.random.split(KEY), strict=True)
    }
    alpha = optax.chain(
        optax.add_decayed_weights(c.alpha_weight_decay), optax.adam(c.alpha_lr, c.alpha_beta1, c.alpha_beta2)
    )
    transform = optax.chain(
        optax.clip_by_global_norm(c.clip),
        optax.add_decayed_weights(c.weight_decay),
        optax.sgd(c.theta_lr, momentum=c.momentum),
    )
    return Problem(Level(ALPHA, loss, alpha), Level(PARAMS, loss, transform), v, batches)


def estimators(steps: list[int], only: str) -> dict[str, bilevel.Hypergradient]:
    """First order, and every other estimator whose name matches; those with a number of steps for each of `steps`."""
    found = {}
    for k in steps:
        found[f"unrolled({k})"] = bilevel.unrolled(k)
        found[f"unrolled({k}, remat)"] = bilevel.unrolled(k, remat=True)
    found["finite_difference()"] = bilevel.finite_difference()
    found["amended(0.1)"] = bilevel.amended(0.1)
    for k in steps:
        found[f"neumann({k}, 0.01)"] = bilevel.neumann(k, 0.01)
        found[f"conjugate_gradient({k}, 0.1)"] = bilevel.conjugate_gradient(k, 0.1)
    chosen = {name: made for name, made in found.items() if re.search(only, name)}
    return {"first_order()": bilevel.first_order(), **chosen}


def programs(problem: Problem, hypergradient: bilevel.Hypergradient) -> tuple[Any, Any, int]:
    """(compiled estimate, compiled turn, the turn's memory in bytes), both with their arguments."""
    upper, lower = problem.upper, problem.lower
    algorithm = bilevel.alternate(upper, lower, hypergradient)
    state = algorithm.init(problem.variables)
    samples = [Sample(batch, key) for batch, key in zip(problem.batches.values(), jax.random.split(KEY), strict=True)]
    point = bilevel.Point(state.variables, state.optimizers[lower.collection], *samples, {})
    estimate = measure.compiled(jax.jit(lambda p: hypergradient(upper, lower, p, bilevel.levels.same)[0]).lower(point))
    turn = measure.compiled(jax.jit(algorithm.update).lower(state, problem.batches, KEY))
    memory = turn.memory_analysis().temp_size_in_bytes
    return functools.partial(estimate, point), functools.partial(turn, state, problem.batches, KEY), memory


def costs(name: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(one row for each estimator, all repetitions in seconds)."""
    problem = supernet() if name == "supernet" else perceptron(int(name))
    estimates, turns, memory = {}, {}, {}
    for estimator, hypergradient in estimators(options.steps, options.only).items():
        print(f"{name}: compiling {estimator}", file=sys.stderr, flush=True)
        estimates[estimator], turns[estimator], memory[estimator] = programs(problem, hypergradient)
    seconds = {
        "estimate": measure.alternately(estimates, options.repetitions),
        "turn": measure.alternately(turns, options.repetitions),
    }
    first = next(iter(turns))

    def against_first(kind: str, estimator: str) -> str:
        return f"{measure.ratio_of_medians(seconds[kind][estimator], seconds[kind][first]):.1f} ×"

    rows = [
        {
            "problem": name,
            "|θ|": f"{problem.weights:,}",
            "estimator": estimator,
            "turn in ms": 1e3 * float(np.median(seconds["turn"][estimator])),
            "turn": against_first("turn", estimator),
            "estimate": against_first("estimate", estimator),
            "memory in MB": memory[estimator] / 1e6,
            "in |θ|": f"{memory[estimator] / (4 * problem.weights):.1f}",
        }
        for estimator in turns
    ]
    return rows, seconds


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the tables, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["64", "256", "1024"], help="widths, or supernet")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16], help="K of unrolled, neumann, CG")
    parser.add_argument("--only", default="", help="regular expression: the estimators beside first order")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", help="JSON file for machine, versions, rows and all repetitions")
    options = parser.parse_args(arguments)
    for name in options.problems:
        if name != "supernet" and not (name.isdecimal() and int(name) > 0):
            parser.error(f"--problems {name}; allowed: widths of at least 1, or 'supernet'")
    record: dict[str, Any] = {"machine": measure.machine(), "rows": [], "seconds": {}}
    for name in options.problems:
        rows, seconds = costs(name, options)
        record["rows"] += rows
        record["seconds"][name] = seconds
        print(measure.table(rows), flush=True)
        if options.output:
            measure.write_json(options.output, record)


if __name__ == "__main__":
    main()
