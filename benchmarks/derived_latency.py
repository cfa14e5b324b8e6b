"""Milliseconds of one evaluation of a derived network: ours, PyTorch and ONNX Runtime on one CPU, float32.

    python benchmarks/derived_latency.py [--genotype darts_v2] [--channels 36] [--cells 20] [--batch 1]
                                         [--warmup 20] [--repetitions 200] [--output FILE.json]

All have the same weights, drawn at random, and alternate, with as many threads as there are cores, each after a rest in
which the threads of the one before stop spinning. Before that their logits are compared.
"""

import functools
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from benchmarks import measure
from dass_jax import architectures, errors, variables
from dass_jax.architectures import darts as genotype
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.inference import fold, inference

IMAGE = (32, 32, 3)
TOLERANCE = 1e-3
REST = 0.02
"""Seconds before each call."""
ONNX = "ONNX Runtime"
Case = Callable[[], Any]
"""Returns logits [N, classes] that `np.asarray` understands."""


def trained(found: genotype.Genotype, config: NetworkConfig) -> variables.Variables:
    """Initial weights, with norms that are not neutral: what an evaluation costs does not depend on the values."""
    model, rng = derived(found, config), np.random.default_rng(0)
    v = jax.jit(lambda: model.init(jax.random.key(0), IMAGE))()

    ranges = {"scale": (0.5, 1.5), "var": (0.01, 0.1), "mean": (-0.1, 0.1), "bias": (-0.1, 0.1)}

    def value(path: str, leaf: jax.Array) -> np.ndarray:
        name = path.rsplit("/", 1)[-1]
        return rng.uniform(*ranges[name], leaf.shape).astype(np.float32) if name in ranges else np.asarray(leaf)

    return variables.unflatten({path: value(path, leaf) for path, leaf in variables.flatten(v).items()})


def ours(found: genotype.Genotype, config: NetworkConfig, v: Any, images: np.ndarray) -> dict[str, Case]:
    """Our network with BN folded, with its weights as constants and as arguments, and as it was trained."""
    model, apply = derived(found, config), inference(found, config)
    v, images = jax.device_put((v, images))
    folded = jax.jit(fold)(v["params"], v["batch_stats"])

    def case(function: Callable[..., Any], *arguments: Any) -> Case:
        return functools.partial(measure.compiled(jax.jit(function).lower(*arguments)), *arguments)

    return {
        "ours, folded": case(functools.partial(apply, folded), images),
        "ours, folded, weights as arguments": case(apply, folded, images),
        "ours, unfolded": case(lambda v, x: model.apply(v["params"], v["batch_stats"], x, False)[0], v, images),
    }


def peers(found: genotype.Genotype, config: NetworkConfig, v: Any, images: np.ndarray) -> dict[str, Case]:
    """PyTorch in both memory layouts, and its ONNX export in ONNX Runtime."""
    from benchmarks import peer_derived, peer_variables
    from benchmarks.peer import torch

    torch.set_num_threads(measure.machine()["cores"])
    network = peer_derived.Derived(found, config, IMAGE[2]).eval()
    peer_variables.load(network, peer_derived.places(found, config), v)
    inputs = torch.from_numpy(np.moveaxis(images, -1, 0).copy())

    def case(network: Any, inputs: Any) -> Any:
        with torch.inference_mode():
            return network(inputs)

    runtime = onnx_runtime(network, inputs)  # before the layout changes
    last = peer_derived.Derived(found, config, IMAGE[2]).eval()
    last.load_state_dict(network.state_dict())
    layout = {"memory_format": torch.channels_last}
    return {
        "PyTorch eager": functools.partial(case, network, inputs),
        "PyTorch eager, channels_last": functools.partial(case, last.to(**layout), inputs.to(**layout)),
        ONNX: runtime,
    }


def onnx_runtime(network: Any, inputs: Any) -> Case:
    """The network as ONNX Runtime runs it.

    Raises:
      UserError: where ONNX Runtime is missing.
    """
    from benchmarks.peer import torch

    try:
        import onnxruntime
    except ImportError as error:
        raise errors.UserError("ONNX Runtime is missing; pip install -r requirements-peer.txt") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = measure.machine()["cores"]
    # Its threads spin within a call as they do by default, but not for some 50 ms after it, at the next case's cost.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        file = os.path.join(folder, "derived.onnx")
        torch.onnx.export(network, (inputs,), file, input_names=["images"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": inputs.numpy()})[0]


def compare(cases: dict[str, Case]) -> float:
    """The largest difference between the logits of any two cases, relative to the largest logit.

    Raises:
      UserError: if it is above `TOLERANCE`; what is timed must be one and the same network.
    """
    logits = np.stack([np.asarray(case()) for case in cases.values()])
    apart = float(np.ptp(logits, axis=0).max() / np.abs(logits).max())
    if not apart <= TOLERANCE:
        raise errors.UserError(f"logits of {', '.join(cases)} are apart by {apart:.1e}; allowed: {TOLERANCE:g}")
    return apart


def rows(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A table's rows; ratios are to ONNX Runtime."""
    return [
        {
            "case": case,
            "median ms": 1e3 * float(np.median(values)),
            "p90 ms": 1e3 * float(np.quantile(values, 0.9)),
            f"to {ONNX}": measure.ratio_of_medians(values, seconds[ONNX]),
        }
        for case, values in seconds.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = errors.Parser(prog="derived_latency.py", description=__doc__.splitlines()[0])
    parser.add_argument("--genotype", default="darts_v2", help="published name of the space darts, or a file")
    for name, default in (("channels", 36), ("cells", 20), ("batch", 1), ("warmup", 20), ("repetitions", 200)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    options = parser.parse_args(arguments)
    for name, low in (("channels", 1), ("cells", 1), ("batch", 1), ("warmup", 0), ("repetitions", 1)):
        if getattr(options, name) < low:
            raise errors.UserError(f"--{name} = {getattr(options, name)}; allowed: at least {low}")
    found = architectures.load(options.genotype)
    if not isinstance(found, genotype.Genotype):
        raise errors.UserError(f"--genotype = {options.genotype!r}; allowed: an architecture of the space darts")
    config = NetworkConfig(cells=options.cells, channels=options.channels, auxiliary=False)
    v = trained(found, config)
    images = np.random.default_rng(1).normal(size=(IMAGE[2], *IMAGE[:2], options.batch)).astype(np.float32)
    cases = ours(found, config, v, images) | peers(found, config, v, images)
    apart = compare(cases)
    seconds = measure.alternately(cases, options.repetitions, options.warmup, REST)
    if options.output:
        asked = {name: value for name, value in vars(options).items() if name != "output"}
        record = {"machine": measure.machine(), **asked, "logits_apart": apart, "seconds": seconds}
        measure.write_json(options.output, record)
    print(measure.table(rows(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
