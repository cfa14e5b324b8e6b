"""The files of a deployed network: written, and loaded back as functions of images."""

import importlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dass_jax.deploy import FORMATS, has_package, runtime, sparse, xla
from dass_jax.deploy.formats import onnx_file, packed, stablehlo, unpack
from dass_jax.deploy.graph import Graph
from dass_jax.errors import UserError

Run = Callable[[np.ndarray], np.ndarray]
"""Normalised images, float32 [N, C, H, W] → outputs, float32 [N, O]."""

WRITERS: dict[str, Callable[..., bytes]] = {
    "stablehlo": stablehlo.to_stablehlo,
    "packed": packed.dump,
    "onnx": onnx_file.to_onnx,
}
"""For each of `deploy.FORMATS`."""


def names(formats: tuple[str, ...], values: tuple[str, ...]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name of each file → (format, further arguments of its writer); packed files have one for each dtype of values."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in formats:
        if name == "packed":
            found |= {f"network.{dtype}.packed": (name, (dtype,)) for dtype in values}
        else:
            found[f"network.{name}"] = name, ()
    return found


def load(path: pathlib.Path) -> Run:
    """The network in a file, as a function.

    A packed file runs sparse on one core where Numba is installed, dense by XLA where it is not.

    Raises:
      UserError: if the file cannot be read or is none of the formats, or its package is missing.
    """
    return load_bytes(_bytes(path), str(path))


def about(path: pathlib.Path) -> dict[str, Any] | None:
    """What a network's file says of itself, as report.json does: "preparation" of pictures, "classes" in the order of
    its outputs, "input", "output", "task", "measured" by its run, "data"; None of a file without.

    Raises:
      UserError: as `load`.
    """
    data, name = _bytes(path), str(path)
    match path.suffix:
        case ".stablehlo":
            text = exported(data, name).fun_name
        case ".packed":
            text = unpack.about(data, repr(name))
        case ".onnx":
            text = onnx_session(data).get_modelmeta().custom_metadata_map.get(onnx_file.METADATA, "")
        case suffix:
            raise UserError(f"{name!r} ends in {suffix!r}; allowed: .{', .'.join(FORMATS)}")
    return json.loads(text) if text.startswith("{") else None


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}; allowed: a file") from error


def load_bytes(data: bytes, name: str) -> Run:
    """As `load`, of a file's bytes; the format is told by the name."""
    suffix = pathlib.PurePath(name).suffix
    match suffix:
        case ".stablehlo":
            return compiled(exported(data, name).call)
        case ".packed":
            graph = unpack.load(data, repr(name))
            return sparse_runner(graph) if has_package("numba") else compiled(xla.function(graph))
        case ".onnx":
            return onnx_runner(data)
    raise UserError(f"{name!r} ends in {suffix!r}; allowed: .{', .'.join(FORMATS)}")


def need_onnx() -> None:
    """Raises UserError where a package of the extra `onnx` is missing, before any work is done."""
    for package in ("onnx", "onnxruntime"):
        if not has_package(package):
            raise UserError(f"the package {package} is missing; allowed: pip install 'dass_jax[onnx]'")


def compiled(function: Callable[[jax.Array], jax.Array]) -> Run:
    """A JAX function of images [N, C, H, W], compiled for each N at its first use."""
    program = jax.jit(function)
    return lambda images: np.asarray(program(images))


def sparse_runner(graph: Graph) -> Run:
    """The graph's live weights alone, on one core. Raises UserError where Numba is missing."""
    return runtime.runner(runtime.assemble(sparse.lower(graph)))


def import_packages(suffix: str) -> None:
    """Imports what `load` of such a file imports late."""
    for package in {".onnx": ("onnxruntime",), ".packed": ("dass_jax.deploy.loop",)}.get(suffix, ()):
        importlib.import_module(package)


def onnx_runner(model: bytes, threads: int = 0) -> Run:
    """An ONNX model as a function, see `onnx_session`."""
    session = onnx_session(model, threads)
    return lambda images: np.asarray(session.run(None, {onnx_file.INPUT: np.asarray(images, np.float32)})[0])


def onnx_session(model: bytes, threads: int = 0) -> Any:
    """An ONNX model in ONNX Runtime on the CPU; `threads` 0: as many as there are cores.

    Raises:
      UserError: where ONNX Runtime is missing or cannot read the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("the package onnxruntime is missing; allowed: pip install 'dass_jax[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next image by spinning would take the cores from whatever runs in between.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, which are not public
        raise UserError(f"ONNX model: {' '.join(str(error).split())[:160]}; allowed: a whole .onnx file") from error


def exported(data: bytes, name: str) -> Any:
    """A StableHLO file as `jax.export` has it. Raises UserError for what is none."""
    try:
        return jax.export.deserialize(bytearray(data))
    except Exception as error:  # a damaged file can make the reader raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{name!r} is damaged ({type(error).__name__}: {reason}); allowed: a whole file") from error
