"""What each hypergradient costs, in time and memory, against first order: one run, all estimators in turn.

    python benchmarks/hypergradients.py [--widths 64 256 1024] [--steps 1 4 16] [--repetitions 9] [--output FILE.json]

The problem is a perceptron of three hidden layers on a batch of 256; θ are its weights, α the logarithm of a penalty on
each weight matrix together with a gain on each layer, so that the upper loss sees α directly and through θ. Time is of
the estimate of dF/dα alone; memory is what XLA sets aside for the compiled program beside its arguments and results.
"""

import argparse
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from dass_jax import bilevel

INPUTS, OUTPUTS, LAYERS, BATCH = 64, 10, 4, 256
KEY = jax.random.key(0)


def problem(width: int) -> tuple[bilevel.Level, bilevel.Level, bilevel.Point]:
    """(upper, lower, point) of a perceptron."""
    sizes = [INPUTS, *[width] * (LAYERS - 1), OUTPUTS]
    keys = jax.random.split(KEY, LAYERS + 2)
    theta = [
        jax.random.normal(key, (i, o)) / np.sqrt(i) for key, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]
    alpha = {"penalty": jnp.full(LAYERS, -6.0), "gain": jnp.zeros(LAYERS)}

    def error(v: Any, batch: Any) -> jax.Array:
        x, labels = batch
        for layer, (weight, gain) in enumerate(zip(v["theta"], v["alpha"]["gain"], strict=True)):
            x = x @ weight * jnp.exp(gain)
            x = jax.nn.gelu(x) if layer < LAYERS - 1 else x
        return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()

    def upper_loss(v: Any, batch: Any, key: jax.Array) -> Any:
        return error(v, batch), ({}, {})

    def lower_loss(v: Any, batch: Any, key: jax.Array) -> Any:
        squares = jnp.stack([(weight**2).sum() for weight in v["theta"]])
        return error(v, batch) + 0.5 * (jnp.exp(v["alpha"]["penalty"]) * squares).sum(), ({}, {})

    transform = optax.chain(optax.add_decayed_weights(3e-4), optax.sgd(0.025, momentum=0.9))
    samples = [
        bilevel.Sample((jax.random.normal(key, (BATCH, INPUTS)), jax.random.randint(key, (BATCH,), 0, OUTPUTS)), key)
        for key in keys[-2:]
    ]
    levels = bilevel.Level("alpha", upper_loss, optax.adam(3e-4)), bilevel.Level("theta", lower_loss, transform)
    return *levels, bilevel.Point({"alpha": alpha, "theta": theta}, transform.init(theta), *samples, {})


def estimators(steps: list[int]) -> dict[str, bilevel.Hypergradient]:
    """Every estimator; those with a number of steps, terms or iterations for each of `steps`."""
    found = {"first_order()": bilevel.first_order()}
    for k in steps:
        found[f"unrolled({k})"] = bilevel.unrolled(k)
        found[f"unrolled({k}, remat)"] = bilevel.unrolled(k, remat=True)
    found["finite_difference()"] = bilevel.finite_difference()
    found["amended(0.1)"] = bilevel.amended(0.1)
    for k in steps:
        found[f"neumann({k}, 0.01)"] = bilevel.neumann(k, 0.01)
        found[f"conjugate_gradient({k}, 0.1)"] = bilevel.conjugate_gradient(k, 0.1)
    return found


def costs(width: int, steps: list[int], repetitions: int) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """(one row for each estimator, all repetitions in seconds)."""
    upper, lower, point = problem(width)
    weights = sum(leaf.size for leaf in jax.tree.leaves(point.variables["theta"]))
    programs, memory = {}, {}
    for name, hypergradient in estimators(steps).items():
        print(f"|θ| = {weights:,}: compiling {name}", file=sys.stderr)
        run = jax.jit(lambda p, h=hypergradient: h(upper, lower, p, lambda tree: tree)[0])
        program = run.lower(point).compile()
        memory[name] = program.memory_analysis().temp_size_in_bytes
        programs[name] = functools.partial(program, point)
    seconds = measure.alternately(programs, repetitions)
    first = next(iter(programs))
    rows = [
        {
            "θ": f"{weights:,}",
            "estimator": name,
            "milliseconds": 1e3 * float(np.median(seconds[name])),
            "time": f"{measure.ratio_of_medians(seconds[name], seconds[first]):.1f} ×",
            "memory in MB": memory[name] / 1e6,
            "memory in |θ|": f"{memory[name] / (4 * weights):.1f}",
        }
        for name in programs
    ]
    return rows, seconds


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024], help="units of a hidden layer")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16], help="K of unrolled, neumann, CG")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", help="JSON file for machine, versions, rows and all repetitions")
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"machine": measure.machine(), "rows": [], "seconds": {}}
    for width in options.widths:
        rows, seconds = costs(width, options.steps, options.repetitions)
        record["rows"] += rows
        record["seconds"][rows[0]["θ"]] = seconds
        print(measure.table(rows), flush=True)
    if options.output:
        measure.write_json(options.output, record)


if __name__ == "__main__":
    main()
