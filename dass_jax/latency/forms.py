"""The forms of a network whose times are compared, each as a file that is written and loaded back."""

import pathlib
from typing import NamedTuple

from dass_jax.deploy import files, has_package
from dass_jax.deploy.graph import Graph


class Form(NamedTuple):
    """One form."""

    name: str
    of: str
    """Of which graph: "masked" or "compacted"."""
    file: str


MASKED_XLA = Form("masked dense, XLA", "masked", "masked.stablehlo")
MASKED_ONNX = Form("masked dense, ONNX Runtime", "masked", "masked.onnx")
FORMS = (
    MASKED_XLA,
    Form("compacted, XLA", "compacted", "compacted.stablehlo"),
    MASKED_ONNX,
    Form("compacted, ONNX Runtime", "compacted", "compacted.onnx"),
    Form("sparse", "compacted", "compacted.packed"),
)
DENSE = (MASKED_XLA.name, MASKED_ONNX.name)
NEEDS = {".stablehlo": (), ".onnx": ("onnx", "onnxruntime"), ".packed": ("numba",)}
"""Packages, by the suffix of the file."""


def available() -> tuple[list[Form], list[str]]:
    """The forms that can run here, and a line for each missing package."""
    missing = {
        suffix: [package for package in packages if not has_package(package)] for suffix, packages in NEEDS.items()
    }
    able = [form for form in FORMS if not missing[pathlib.PurePath(form.file).suffix]]
    lines = [
        f"left out: {', '.join(form.name for form in FORMS if form.file.endswith(suffix))} (no {', '.join(packages)})"
        for suffix, packages in missing.items()
        if packages
    ]
    return able, lines


def write(folder: pathlib.Path, form: Form, graphs: dict[str, Graph]) -> int:
    """Writes a form's file; its bytes. Weights of packed files are float16."""
    kind = pathlib.PurePath(form.file).suffix[1:]
    return (folder / form.file).write_bytes(files.WRITERS[kind](graphs[form.of]))
