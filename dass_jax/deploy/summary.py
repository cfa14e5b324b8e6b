"""What a deployment delivers, as one JSON object, as a table for people and as a Markdown page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dass_jax.data import record
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
    about = about_of(found)
    return {
        "network": found.name,
        "method": found.network.method,
        "seed": found.network.seed,
        "architecture": found.network.architecture,
        "keep": found.keep,
        **about,
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


def about_of(found: Trained) -> dict[str, Any]:
    """What every file says of itself: how a picture becomes its input, what its outputs mean, and how good it was."""
    kept = found.record or found.setting.dataset.record
    assert kept is not None
    plain, (height, width, channels) = record.to_json(kept), kept.preparation.shape
    statistics = {name: plain["preparation"][name] for name in ("mean", "std")}
    return {
        "task": found.task,
        "input": {"name": onnx_file.INPUT, "shape": [channels, height, width], **statistics},
        "output": {
            "name": onnx_file.OUTPUT,
            "shape": list(shape_of(found.setting.task.outputs, kept.preparation.shape)),
        },
        "preparation": plain["preparation"],
        "classes": plain["fingerprint"]["classes"],
        "measured": found.measured,
        "data": {"said": plain["said"], **{key: plain["fingerprint"][key] for key in ("train", "test")}},
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
    digits, title = decimals(unit, [masked[metric] or 0.0]), f"{metric} {in_brackets(unit)}".strip()

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    measured = (found["measured"] or {}).get(metric)
    own = f", {metric} {shown(measured)} {unit}".rstrip() + " as the run measured it" if measured is not None else ""
    images = "test images" if masked[metric] is not None else "images of noise"
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
    rows.append([title, shown(masked[metric]), shown(small[metric]), ""])
    predicts = masked["changed"] is not None
    files = [
        [
            name,
            f"{one['bytes']:,}",
            f"{one['bytes_per_kept_weight']:.2f}",
            shown(one[metric]),
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
            f"{found['network']}: {found['kept_weights']:,} weights kept{own}; {masked['images']:,} {images}",
            "",
            *_grid(["", "masked", "compacted", "less"], rows),
            "",
            *_grid(header, files),
            "",
            f"modelled time of the layers: dense {ms['dense']:.2f} ms, sparse {ms['sparse']:.2f} ms, "
            f"the faster of both in each layer {ms['mixed']:.2f} ms; favoured: {ms['form']}",
        ]
    )


def prepared(how: Mapping[str, Any]) -> str:
    """The preparation of a picture in words."""
    height, width, channels = how["shape"]
    colour = {"RGB": "RGB", "grey": "grey"}.get(how["colour"], f"{channels} channels")
    size = f"of {width}×{height} pixels, as they are"
    if how["crop"] == "centre":
        part = f"its side divided by {how['margin']:g}, " if how["margin"] != 1 else ""
        size = f"the central square, {part}resized to {width}×{height} ({how['interpolation']})"
    return f"upright by EXIF, {colour}, on white where transparent; {size}"


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
            f"Pictures: {prepared(found['preparation'])}.",
            f"Classes: {', '.join(found['classes'])}.",
            "",
            "## Layers of the compacted network",
            "",
            "Times by the model of `dass_jax.deploy.costs`, at batch 1. The forms are not mixed in one program.",
            "",
            *_grid(header, rows),
            "",
        ]
    )
