"""`python -m dass_jax.count`: the size of a network, without training it."""

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dass_jax import accounting, relaxation
from dass_jax.architectures import darts as genotype
from dass_jax.errors import Parser, UserError, guarded
from dass_jax.networks.baselines import PLANS, baseline
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.model import Model
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import Rules


class Images(NamedTuple):
    """What the size of a network depends on of a data set."""

    size: int
    channels: int
    classes: int
    stem: str


DATASETS = {
    "cifar10": Images(32, 3, 10, "cifar"),
    "cifar100": Images(32, 3, 100, "cifar"),
    "imagenet": Images(224, 3, 1000, "imagenet"),
    "mnist": Images(28, 1, 10, "cifar"),
    "digits": Images(8, 1, 10, "cifar"),
}


def derived_count(found: genotype.Genotype, cells: int, channels: int, images: Images, keep: float) -> accounting.Count:
    """Figures of the derived network, without its auxiliary head."""
    return _model_count(
        derived(found, NetworkConfig(images.classes, cells, channels, images.stem, False)), images, keep
    )


def baseline_count(name: str, width: float, images: Images, keep: float) -> accounting.Count:
    """Figures of a published network, in its form for small images whatever the size of these."""
    return _model_count(baseline(name, images.classes, width), images, keep)


def _model_count(model: Model, images: Images, keep: float) -> accounting.Count:
    def logits(values: Any, one: jax.Array) -> jax.Array:
        return model.apply(values["params"], values["batch_stats"], one, False)[0]

    return _count(model.init, model.rules, logits, images, keep)


def supernet_count(cells: int, channels: int, nodes: int, images: Images, keep: float) -> accounting.Count:
    """Figures of the supernet, without α."""
    space = darts(SupernetConfig(images.classes, cells, channels, nodes, images.stem))
    weights = relaxation.softmax({name: jnp.zeros(shape) for name, shape in space.alpha_shapes.items()})

    def logits(values: Any, one: jax.Array) -> jax.Array:
        return space.apply(values["params"], values["batch_stats"], weights, one, False)[0]

    return _count(space.init, space.rules, logits, images, keep)


def _count(init: Any, rules: Rules, logits: Any, images: Images, keep: float) -> accounting.Count:
    """Figures of a network given as functions, from shapes alone."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), (images.size, images.size, images.channels)))

    def forward() -> jax.Array:
        values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return logits(values, jnp.zeros((images.channels, images.size, images.size, 1)))

    return accounting.count(shapes["params"], rules, keep, forward)


def main(argv: Sequence[str]) -> int:
    """The command line; prints a table or, with --json, one JSON object."""
    parser = Parser(prog="python -m dass_jax.count", description="Counts weights and multiply-accumulates.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--genotype", metavar="NAME_OR_FILE", help=f"{', '.join(genotype.PUBLISHED)} or a genotype.json")
    what.add_argument("--network", choices=PLANS, help="count a published network instead")
    what.add_argument("--supernet", action="store_true", help="count the supernet of the search instead (without α)")
    parser.add_argument("--cells", type=int, help="default: 20, supernet 8")
    parser.add_argument("--channels", type=int, help="of the first cell; default: 36, supernet 16")
    parser.add_argument("--width", type=float, default=1.0, help="factor of a --network's channels; default: 1")
    parser.add_argument("--nodes", type=int, default=4, help="intermediate nodes of a supernet's cell; default: 4")
    parser.add_argument("--keep", type=float, default=0.01, help="fraction of each layer's weights kept; default: 0.01")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="default: cifar10")
    parser.add_argument("--classes", type=int, help="default: the data set's")
    parser.add_argument("--image-size", type=int, help="height and width in pixels; default: the data set's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(argv)
    for name, low, high in (("cells", 1, 200), ("channels", 1, 4096), ("nodes", 1, 8), ("classes", 1, 10**6)):
        value = getattr(given, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} = {value}; allowed: a whole number from {low} to {high}")
    if given.image_size is not None and not 1 <= given.image_size <= 4096:
        raise UserError(f"--image-size = {given.image_size}; allowed: a whole number from 1 to 4096")
    if not 0 < given.width <= 8:
        raise UserError(f"--width = {given.width}; allowed: a number in (0, 8]")
    if not 0 < given.keep <= 1:
        raise UserError(f"--keep = {given.keep}; allowed: a number in (0, 1]")
    images = DATASETS[given.dataset]
    images = images._replace(size=given.image_size or images.size, classes=given.classes or images.classes)
    if given.supernet:
        result = supernet_count(given.cells or 8, given.channels or 16, given.nodes, images, given.keep)
    elif given.network:
        result = baseline_count(given.network, given.width, images, given.keep)
    else:
        found = genotype.load(given.genotype)
        result = derived_count(found, given.cells or 20, given.channels or 36, images, given.keep)
    print(json.dumps(result._asdict()) if given.json else table(result, given.keep))
    return 0


def table(result: accounting.Count, keep: float) -> str:
    """The figures for people."""
    rows = (
        ("parameters", result.total, "weights, BN, biases"),
        ("prunable", result.prunable, "weights of convolutions and linear layers"),
        ("kept", result.kept, f"at keep = {keep:g}, whole weights in every layer"),
        ("kept + BN + biases", result.kept_with_bn_bias, ""),
        ("kept, paper's way", result.paper_kept, "(2 · prunable + BN + biases, in millions cut to 0.01) / 2 · keep"),
        ("MACs", result.macs, "dense, one image"),
        ("MACs, non-zero", result.macs_nonzero, "pruned weights left out"),
    )
    return "\n".join(f"{name:<20}{value:>15,}  {note}".rstrip() for name, value, note in rows)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
