"""`python -m dass_jax.deploy RUN_OR_CHECKPOINT --out DIR`: a sparse network as files, checked and reported."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dass_jax.deploy import FORMATS, VALUES
from dass_jax.errors import Parser, UserError, check_new_folder, guarded, show


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.deploy",
        description="Compacts a trained sparse network exactly, checks it on the test set, and writes it as files.",
    )
    text = "a run's folder, one of its files networks/*.npz, or one of its folders checkpoints/*"
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=pathlib.Path, help=text)
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, required=True, help="a new or an empty folder")
    text = "default: stablehlo packed; onnx needs dass_jax[onnx]"
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["stablehlo", "packed"], help=text)
    text = "of the packed file's weights, one file for each; default: float16"
    parser.add_argument("--values", nargs="+", choices=VALUES, default=["float16"], help=text)
    parser.add_argument("--int8", action="store_true", help="also write the packed file with int8 weights")
    parser.add_argument("--method", help="which method's network of the run; default: the main one")
    parser.add_argument("--seed", type=int, help="which seed's network; needed if the run has several")
    text = "where the run's data are now, to check on; default: where they lay, seen from the run's folder"
    parser.add_argument("--data", metavar="SOURCE", help=text)
    text = "check on data that have changed since the run"
    parser.add_argument("--data.accept-changed", dest="accept", action="store_true", help=text)
    parser.add_argument("--images", type=int, default=0, help="check on so many test images only; default: 0 = all")
    found = parser.parse_args(argv)
    if found.images < 0:
        raise UserError(f"--images = {found.images}; allowed: a whole number of at least 0")
    return found


def deploy(given: argparse.Namespace, progress: Any) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """What is reported, and the bytes of each file.

    Args:
      progress: `runtime.progress.Progress`.

    Raises:
      UserError: if there is no such network, a package is missing, or the compacted network is not the masked one.
    """
    from dass_jax.deploy import check, compact, files, images, source, summary, xla

    if "onnx" in given.formats:
        files.need_onnx()
    test = images.tested(source.trained(given.source, given.method, given.seed), given.data, given.accept)
    found = test.found
    for line in test.said:
        progress.say(line)
    values = tuple(dict.fromkeys([*given.values, *(["int8"] if given.int8 else [])]))
    kinds = files.names(tuple(dict.fromkeys(given.formats)), values)
    with progress.busy(f"compacting {found.name}"):
        dense = source.graph_of(found)
        small = compact.compact(dense)
    with progress.busy("writing files"):
        about = json.dumps(summary.about_of(found))
        data = {name: files.WRITERS[kind](small, *rest, about=about) for name, (kind, rest) in kinds.items()}
        runs = {name: files.load_bytes(content, name) for name, content in data.items()}
    exact = runs.get("network.stablehlo") or files.compiled(xla.function(small))
    with progress.busy("checking them"):
        outcomes = check.compare(found, {"compacted": exact, **runs}, given.images)
    check.demand_exact(outcomes["compacted"], "the compacted network", given.source)
    images.demand_measured(test, outcomes["masked"], given.source)
    sizes = {name: len(content) for name, content in data.items()}
    return {**summary.facts(found, dense, small, sizes, outcomes), "checked_on": images.told(test)}, data


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    given = parse(argv)
    check_new_folder(given.out, "--out")
    import jax

    from dass_jax.deploy import summary
    from dass_jax.runtime import folder, settings
    from dass_jax.runtime.progress import Progress

    # Accelerators would otherwise round the factors of products: what is compared, and what is exported, is float32.
    with settings.own(), jax.default_matmul_precision("highest"):
        settings.check_platform()
        found, data = deploy(given, Progress())
    folder.make(given.out, "--out")
    for name, content in data.items():
        folder.write_bytes(given.out / name, content)
    folder.write_text(given.out / "report.json", summary.to_json(found))
    folder.write_text(given.out / "report.md", summary.page(found))
    show(summary.table(found))
    show(f"files: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
