"""What a deployment delivers, as one JSON object, as a table for people and as a Markdown page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dass_jax import results
from dass_jax.deploy import costs, graph
from dass_jax.deploy.check import Outcome
from dass_jax.deploy.formats import onnx_file
from dass_jax.deploy.graph import Graph
from dass_jax.deploy.source import Trained
from dass_jax.report.tables import decimals, in_brackets
from dass_jax.tasks import shape_of


def facts(
    found: Trained, dense: Graph, small: Graph, sizes: Mapping[str, int], outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Everything that is reported.

    Args:
      dense, small: the masked network's graph and the compacted one.
      sizes: bytes of each file.
      outcomes: of `check.compare`: "masked", "compacted" and each file.
    """
    layers, before, after = costs.layers(small), graph.size(dense), graph.size(small)
    data = found.setting.dataset
    return {
        "network": found.name,
        "method": found.network.method,
        "seed": found.network.seed,
        "architecture": found.network.architecture,
        "keep": found.keep,
        "task": results.task_of(found.setting),
        "input": {
            "name": onnx_file.INPUT,
            "shape": list(dense.nodes[0].shape),
            "mean": [float(value) for value in data.mean],
            "std": [float(value) for value in data.std],
        },
        "output": {
            "name": onnx_file.OUTPUT,
            "shape": list(shape_of(found.setting.task.outputs, found.setting.image_shape)),
        },
        "kept_weights": found.kept,
        "masked": {**before._asdict(), **said(outcomes["masked"])},
        "compacted": {**after._asdict(), **said(outcomes["compacted"])},
        "files": {
            name: {"bytes": size, "bytes_per_kept_weight": round(size / max(found.kept, 1), 3)} | said(outcomes[name])
            for name, size in sizes.items()
        },
        "modelled_ms": {**costs.choice(layers)._asdict(), "form": costs.choice(layers).form},
        "layers": [{**layer._asdict(), "form": layer.form} for layer in layers],
    }


def said(outcome: Outcome) -> dict[str, Any]:
    """An outcome with the task's figures among its own."""
    own = outcome._asdict()
    return {"images": own.pop("images"), **own.pop("figures"), **own}


def to_json(found: Mapping[str, Any]) -> str:
    """The JSON file's text."""
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns stand below each other in a terminal too; the first is aligned left."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(ruler), *map(line, rows)]


def table(found: Mapping[str, Any]) -> str:
    """Sizes, work and the task's main metric before and after, then each file."""
    masked, small, metric, unit = found["masked"], found["compacted"], found["task"]["metric"], found["task"]["unit"]
    value, title = f".{decimals(unit, [masked[metric]])}f", f"{metric} {in_brackets(unit)}".strip()
    rows = [
        [name, f"{masked[key]:,}", f"{small[key]:,}", f"{masked[key] / max(small[key], 1):.1f}×"]
        for name, key in (
            ("weights, not zero", "weights"),
            ("biases and constants", "biases"),
            ("layers", "convolutions"),
        )
    ]
    rows += [
        [name, f"{masked[key] / 1e6:,.2f}", f"{small[key] / 1e6:,.2f}", f"{masked[key] / max(small[key], 1):.1f}×"]
        for name, key in (("MACs of dense kernels [M]", "macs"), ("MACs of weights not zero [M]", "macs_nonzero"))
    ]
    rows.append([title, f"{masked[metric]:{value}}", f"{small[metric]:{value}}", ""])
    predicts = masked["changed"] is not None
    files = [
        [
            name,
            f"{one['bytes']:,}",
            f"{one['bytes_per_kept_weight']:.2f}",
            f"{one[metric]:{value}}",
            *([f"{one['changed']}"] if predicts else []),
            f"{one['difference']:.1e}",
        ]
        for name, one in found["files"].items()
    ]
    header = [
        "file, loaded back",
        "bytes",
        "bytes / kept weight",
        title,
        *(["other predictions"] if predicts else []),
        "outputs differ by",
    ]
    ms = found["modelled_ms"]
    return "\n".join(
        [
            f"{found['network']}: {found['kept_weights']:,} weights kept; {masked['images']:,} test images",
            "",
            *_grid(["", "masked", "compacted", "less"], rows),
            "",
            *_grid(header, files),
            "",
            f"modelled time of the layers: dense {ms['dense']:.2f} ms, sparse {ms['sparse']:.2f} ms, "
            f"the faster of both in each layer {ms['mixed']:.2f} ms; favoured: {ms['form']}",
        ]
    )


def page(found: Mapping[str, Any]) -> str:
    """The Markdown page: the table, and the favoured form of each layer of the compacted network."""
    rows = [
        [
            f"{number} {layer['kind']}",
            str(layer["inputs"]),
            str(layer["outputs"]),
            str(layer["pixels"]),
            str(layer["live"]),
            f"{100 * layer['live'] / max(layer['weights'], 1):.1f}",
            f"{layer['dense_us']:.1f}",
            f"{layer['sparse_us']:.1f}",
            layer["form"],
        ]
        for number, layer in enumerate(found["layers"])
    ]
    header = ["layer", "inputs", "outputs", "pixels", "live weights", "live [%]", "dense [µs]", "sparse [µs]", "form"]
    mean, std = (", ".join(f"{value:.4f}" for value in found["input"][name]) for name in ("mean", "std"))
    return "\n".join(
        [
            f"# {found['network']}",
            "",
            table(found).split("\n", 1)[1].strip(),
            "",
            f"Input: float32 [N, {', '.join(map(str, found['input']['shape']))}], (byte / 255 − mean) / std with the "
            f"mean {mean} and the std {std} of each channel. "
            f"Output: [N, {', '.join(map(str, found['output']['shape']))}].",
            "",
            "## Layers of the compacted network",
            "",
            "Times by the model of `dass_jax.deploy.costs`, at batch 1. The forms are not mixed in one program.",
            "",
            *_grid(header, rows),
            "",
        ]
    )
