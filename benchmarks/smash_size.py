"""Memory and arithmetic of a training step of SMASH, ahead of any run: XLA's own plan, and counts. Nothing is trained.

    python benchmarks/smash_size.py [--config cifar10_scas_smash] [--size 32] [--draws 1000] [--networks 10]
                                    [--output FILE.json]

The step is compiled for the device at hand (on a CPU one core takes half a minute). Its arithmetic is counted in
multiply-accumulates: the program works on maximal shapes and masks, but computes no operation that an architecture
lacks, so it depends on how many operations are drawn. Beside it what networks without masks need.
"""

import pathlib
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, subjects
from dass_jax import config, count, errors, schema
from dass_jax.architectures import smash_sizes
from dass_jax.methods import smash as method
from dass_jax.networks.smash import Fields as NetworkFields
from dass_jax.schema import Range
from dass_jax.spaces import smash as space_of
from dass_jax.spaces import smash_codes, smash_draws
from dass_jax.tasks import Batch
from dass_jax.variables import PARAMS, RATES, flatten

CLASSES, COLOURS = 10, 3
PASSES = 3
"""Of a training step: forward, and the gradients of activations and of weights."""


class Work(NamedTuple):
    """What is trained on what."""

    space: Any
    """`smash_codes.Fields`."""
    batch: int
    pixels: int
    """Height and width of an image."""


def compiled(work: Work) -> Any:
    """A step of the hyper-network and the shared weights."""
    space = space_of.smash(work.space, CLASSES)
    problem = subjects.searched(space, CLASSES, (work.pixels, work.pixels, COLOURS))
    phase = method.training(method.Fields(), problem, space)

    def step(state: Any, batch: Batch, key: jax.Array, growth: Any, rate: Any) -> Any:
        seeing = state._replace(variables={**state.variables, RATES: {method.GROWTH: growth}})
        after, info = phase.algorithm.update(seeing, {PARAMS: batch}, key, learning_rate={PARAMS: rate})
        return after._replace(variables={n: v for n, v in after.variables.items() if n != RATES}), info

    images = jax.ShapeDtypeStruct((COLOURS, work.pixels, work.pixels, work.batch), jnp.float32)
    batch = Batch(images, jax.ShapeDtypeStruct((work.batch,), jnp.int32))
    key, number = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.float32)
    state = jax.eval_shape(lambda key: phase.begin(key, None), key)
    return measure.compiled(jax.jit(step, donate_argnums=0).lower(state, batch, key, number, number))


def plan(program: Any) -> dict[str, int]:
    """Bytes of a compiled program, by XLA: state and batch, what is held between its operations, what comes out beside
    the state, whose memory it takes over."""
    found = program.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
    }


def drawn(work: Work, draws: int) -> np.ndarray:
    """Operations of each block, int [draws, blocks], of architectures that have grown."""
    r = smash_codes.ranges(work.space)

    def one(key: jax.Array) -> jax.Array:
        choice = smash_draws.draw(r, key, key, jnp.ones(()))
        rows = (smash_codes.rows_of(r, choice[name]) for name in smash_codes.BLOCK_NAMES)
        return jnp.stack([(row.units > 0).sum() for row in rows])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), draws)))


def of_an_operation(work: Work) -> list[int]:
    """Multiply-accumulates of one image for an operation of each block: of a memory's width, with the widest window."""
    r = smash_codes.ranges(work.space)
    filters = r.sizes.filters
    extent = max((k - 1) * d + 1 for k, d in zip(r.kernels, r.dilations, strict=True))
    sides = [work.pixels // 2**block for block in range(3)]
    return [
        side**2 * (2 * memory.width * filters + extent**2 * filters**2)
        for side, memory in zip(sides, smash_sizes.memories(r.sizes), strict=True)
    ]


def always(work: Work) -> int:
    """Those of one image that all architectures have: stem, transitions and classifier."""
    stem, *memories = smash_sizes.memories(smash_codes.ranges(work.space).sizes)
    total, side, before = work.pixels**2 * COLOURS * work.space.stem**2 * stem.inputs, work.pixels, stem.width
    for memory in memories:
        total += side**2 * before * memory.inputs
        side, before = side // 2, memory.width
    return total + before * CLASSES


def of_the_hyper_network(work: Work) -> int:
    """Those of the hyper-network, once a step: its convolutions see a map of units and slices."""
    r, space = smash_codes.ranges(work.space), space_of.smash(work.space, CLASSES)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), (work.pixels, work.pixels, COLOURS)))
    kernels = (leaf for leaf in flatten(shapes[PARAMS][space_of.HYPER]).values() if leaf.ndim == 4)
    return r.sizes.most * r.slices * sum(leaf.size for leaf in kernels)


def of_networks(work: Work, networks: int) -> list[int]:
    """Multiply-accumulates of one image of so many networks that have weights of their own and no masks."""
    space = space_of.smash(work.space, CLASSES)
    same = {name: value for name, value in vars(work.space).items() if name in vars(NetworkFields())}
    images = count.Images(work.pixels, COLOURS, CLASSES)
    found = (space.sample(np.random.default_rng(seed)) for seed in range(networks))
    return [count.network_count("smash", one, NetworkFields(**same), images, 1.0).macs for one in found]


def counted(work: Work, draws: int, networks: int) -> dict[str, Any]:
    """Multiply-accumulates: of an image in the forward pass, and of a step."""
    operations, each = drawn(work, draws), np.array(of_an_operation(work))
    images, hyper = always(work) + operations @ each, of_the_hyper_network(work)
    own = of_networks(work, networks)
    return {
        "operations": operations.mean(0).round(2).tolist(),
        "most operations": operations.max(0).tolist(),
        "an operation, by block": each.tolist(),
        "image": int(images.mean()),
        "image, most": int(images.max()),
        "image, own network": int(np.mean(own)),
        "hyper-network": hyper,
        "step": int(PASSES * (work.batch * images.mean() + hyper)),
    }


def rows(bytes_of: dict[str, int], macs: dict[str, Any]) -> list[dict[str, Any]]:
    """The table's."""
    said = (
        ("state and batch", bytes_of["arguments"] / 1e9, "GB"),
        ("temporaries", bytes_of["temporaries"] / 1e9, "GB"),
        ("results beside the state", bytes_of["results"] / 1e9, "GB"),
        *(
            (f"an operation of block {n}, an image", m / 1e6, "MMAC")
            for n, m in enumerate(macs["an operation, by block"], 1)
        ),
        *((f"operations of block {n}, in the mean", m, "") for n, m in enumerate(macs["operations"], 1)),
        ("an image, in the mean", macs["image"] / 1e9, "GMAC"),
        ("an image, at most", macs["image, most"] / 1e9, "GMAC"),
        ("an image, network of its own", macs["image, own network"] / 1e9, "GMAC"),
        ("the hyper-network, a step", macs["hyper-network"] / 1e9, "GMAC"),
        ("a step, forward and backward", macs["step"] / 1e12, "TMAC"),
    )
    return [{"of": name, "value": float(value), "unit": unit} for name, value, unit in said]


def main(arguments: list[str] | None = None) -> int:
    """Compiles, counts, prints the table, writes the record."""
    parser = errors.Parser(prog="smash_size.py", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="cifar10_scas_smash", help="whose space and batch; default: the full size")
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--draws", type=int, default=1000, help="architectures whose operations are counted")
    parser.add_argument("--networks", type=int, default=10, help="of these so many are counted without masks")
    parser.add_argument("--output", help="a JSON file with machine, versions and all figures")
    options = parser.parse_args(arguments)
    schema.check_arguments(options, {"size": Range(4, 4096), "draws": Range(1, 10**6), "networks": Range(1, 1000)})
    c = config.load(config.find(options.config))
    if c.space.name != "smash":
        raise errors.UserError(f"--config = {options.config!r}, of the space {c.space.name!r}; allowed: of 'smash'")
    work = Work(c.space.fields, c.method.fields.batch_size, options.size)
    start = time.process_time()
    bytes_of = plan(compiled(work))
    seconds = time.process_time() - start
    macs = counted(work, options.draws, options.networks)
    print(f"batch {work.batch}, {work.pixels}×{work.pixels}, compiled in {seconds:.0f} s of processor time")
    print(measure.table(rows(bytes_of, macs)))
    if options.output:
        found = {"bytes": bytes_of, "macs": macs, "seconds_of_compilation": seconds}
        measure.write_json(options.output, {"machine": measure.machine(), "batch": work.batch, **found})
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
