"""`python -m dass_jax.count`: the size of a network, without training it."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import jax
import jax.numpy as jnp

from dass_jax import accounting, architectures, config
from dass_jax.errors import Parser, UserError, guarded, nearest, show
from dass_jax.networks import NETWORKS
from dass_jax.nn import layers
from dass_jax.runtime import settings
from dass_jax.schema import Range, check_arguments
from dass_jax.spaces import SPACES
from dass_jax.sparsity import Distribution
from dass_jax.variables import Rules


class Images(NamedTuple):
    """What the size of a network depends on of a data set."""

    size: int
    channels: int
    classes: int
    usual: Mapping[str, Any] = {}
    """What fields of networks for such images are, where a network has them."""


DATASETS = {
    "cifar10": Images(32, 3, 10),
    "cifar100": Images(32, 3, 100),
    "imagenet": Images(224, 3, 1000, {"stem": "imagenet"}),
    "mnist": Images(28, 1, 10),
    "digits": Images(8, 1, 10),
}
COUNT, PIXELS, FRACTION = Range(1, 10**6), Range(1, 4096), Range(0, 1, open_low=True)


def network_count(
    name: str, architecture: Any, fields: Any, images: Images, keep: float, distribution: Distribution = "layer"
) -> accounting.Count:
    """Figures of a trained network, without its auxiliary head; a published one in its form for small images.

    Args:
      architecture: None for a published network.
      fields: of the network's schema.
    """
    model = NETWORKS[name].make(architecture, fields, images.classes, False, layers.one_device, None)

    def outputs(values: Any, one: jax.Array) -> jax.Array:
        return model.apply(values["params"], values["batch_stats"], one, False)[0]

    return _count(model.init, model.rules, outputs, images, (keep, distribution))


def supernet_count(
    name: str, fields: Any, images: Images, keep: float, distribution: Distribution = "layer"
) -> accounting.Count:
    """Figures of a space's supernet, without α."""
    space = SPACES[name].make(fields, images.classes, layers.one_device, None)
    choice = {matrix: labels.zeros for matrix, labels in space.choices.items()}

    def outputs(values: Any, one: jax.Array) -> jax.Array:
        return space.apply(values["params"], values["batch_stats"], choice, one, False)[0]

    return _count(space.init, space.rules, outputs, images, (keep, distribution))


def _count(
    init: Callable[..., Any],
    rules: Rules,
    outputs: Callable[..., jax.Array],
    images: Images,
    sparsity: tuple[float, Distribution],
) -> accounting.Count:
    """Figures of a network given as functions, from shapes alone; `sparsity` is the kept fraction and how it is shared
    out."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), (images.size, images.size, images.channels)))

    def forward() -> jax.Array:
        values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return outputs(values, jnp.zeros((images.channels, images.size, images.size, 1)))

    kept = accounting.kept_of_fraction(shapes["params"], rules, *sparsity)
    return accounting.count(shapes["params"], rules, kept, sparsity[0], forward)


def main(argv: Sequence[str]) -> int:
    """The command line; prints a table or, with --json, one JSON object."""
    given, rest = _parser().parse_known_args(argv)
    check_arguments(given, {"keep": FRACTION, "classes": COUNT, "image_size": PIXELS})
    config.imported(given.plugins)
    images = DATASETS[given.dataset]
    images = images._replace(size=given.image_size or images.size, classes=given.classes or images.classes)
    with settings.own():
        settings.check_platform()
        result = _counted(given, rest, images)
    show(json.dumps(result._asdict()) if given.json else table(result, given.keep))
    return 0


def _counted(given: argparse.Namespace, rest: Sequence[str], images: Images) -> accounting.Count:
    """Figures of what the command line asks for; `rest` are flags of its fields. Raises UserError."""
    if given.space is not None:
        fields = fields_of(rest, member("space", given.space, SPACES).schema, images.usual, given.space)
        return supernet_count(given.space, fields, images, given.keep, given.distribution)
    if given.network is not None:
        name, found = given.network, None
        entry = member("network", name, {name: entry for name, entry in NETWORKS.items() if not entry.of_architecture})
    else:
        found = architectures.load(given.architecture)
        name = architectures.family_of(found).name
        entry = NETWORKS[name]
    fields = fields_of(rest, entry.schema, images.usual, name)
    return network_count(name, found, fields, images, given.keep, given.distribution)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dass_jax.count",
        description="Counts weights and multiply-accumulates.",
        epilog="Every field of the network or of the space is a flag too: --cells 14, --width 0.5.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    known = ", ".join(architectures.published())
    what.add_argument("--architecture", metavar="NAME_OR_FILE", help=f"count its network; {known} or a JSON file")
    what.add_argument("--network", metavar="NAME", help="count a published network")
    what.add_argument("--space", metavar="NAME", help="count the supernet of a search (without α)")
    what.add_argument("--genotype", type=_renamed, help=argparse.SUPPRESS)
    parser.add_argument(
        "--plugins", metavar="FILE", nargs="+", default=[], help="Python files that add spaces or networks"
    )
    parser.add_argument("--keep", type=float, default=0.01, help="fraction of the weights kept; default: 0.01")
    parser.add_argument(
        "--distribution",
        choices=("layer", "erk"),
        default="layer",
        help="how kept weights are shared out; under 'global' the scores decide; default: layer",
    )
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="default: cifar10")
    parser.add_argument("--classes", type=int, help="default: the data set's")
    parser.add_argument("--image-size", type=int, help="height and width in pixels; default: the data set's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _renamed(value: str) -> None:
    raise UserError(f"unknown flag '--genotype'; allowed: in its place --architecture {value}")


def member(axis: str, name: str, members: Mapping[str, Any]) -> Any:
    """The entry of that name. Raises UserError if there is none."""
    if name not in members:
        raise UserError(f"--{axis} = {name!r}{nearest(name, members)}; allowed: {', '.join(members)}")
    return members[name]


def fields_of(argv: Sequence[str], schema: type, usual: Mapping[str, Any], whose: str) -> Any:
    """An instance of a schema, with the values of flags named after its fields. Raises UserError."""
    hints = config.hints(schema)
    parser = Parser(prog="python -m dass_jax.count", allow_abbrev=False, add_help=False)
    flags = {f"--{name.replace('_', '-')}": config.split_hint(hint)[0] for name, hint in hints.items()}
    for flag, base in flags.items():
        if base is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        elif get_origin(base) is tuple:
            item = config.split_hint(get_args(base)[0])[0]
            parser.add_argument(flag, nargs="*", type=item if item in (int, float) else str)
        else:
            parser.add_argument(flag, type=base if base in (int, float) else str)
    given, rest = parser.parse_known_args(argv)
    if rest:
        known = f"what {whose!r} has: {', '.join(flags)}"
        raise UserError(f"unknown flag {config.short(rest[0])}{nearest(rest[0], flags)}; allowed: {known}")
    asked = {name: value for name, value in vars(given).items() if value is not None}
    return config.structured({**{name: usual[name] for name in usual if name in hints}, **asked}, schema, "--")


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
