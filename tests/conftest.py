"""JAX on the CPU with two devices and a quick compiler, 64-bit floats, and plain loops that fast forms must equal."""

import gc
import importlib.metadata
import math
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# Compiling is the cost here, not computing. XLA's older code generator needs a third of the time for the same program,
# LLVM less without optimisation; tests/runtime/test_compilation.py holds what users get beside it. The last two flags
# are a run's own (dass_jax/runtime/compilation.py) and save another 10 to 40 %. If a new JAX ends with "Unknown flags
# in XLA_FLAGS", all but the first can go.
FLAGS = "--xla_force_host_platform_device_count=2"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no older code generator
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
FLAGS += " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_experimental_ynn_fusion_type="
FLAGS += " --xla_backend_extra_options=xla_cpu_flatten_after_fusion"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# PyTorch's threads wait for each other by spinning: with networks as small as these that is nearly all that they do.
# Not OMP_THREAD_LIMIT: a benchmark asks for a thread a core, and oneDNN waits for ever for those that it does not get.
os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"] = "1", "passive"

import jax  # noqa: E402  (after the settings that it reads)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The settings above come too late if something has started JAX before: then nothing here can be trusted."""
    found = [device.platform for device in jax.devices()]
    if found != ["cpu", "cpu"]:
        raise pytest.UsageError(f"JAX sees the devices {found}; the tests need ['cpu', 'cpu']")
    # Tracing makes millions of small objects: Python's collector would look through all that is imported for each few.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


LONG = ("test_faults", "test_contracts", "test_seeds", "test_supernet_hypergradients", "test_execute", "test_phases")
LONG += ("test_pipeline", "test_precision", "test_hosts", "test_supernet_accumulation", "test_many_devices")
LONG += ("test_runner", "test_parallel", "test_any_genotype")
"""Modules of a minute and more; `-m "not long"` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first (setup.cfg has the workers keep this order): else one worker is left alone with them."""
    items.sort(key=lambda item: item.path.stem not in LONG)
    for item in items:
        if item.path.stem in LONG:
            item.add_marker("long")


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module() -> Iterator[None]:
    """Compiled programs are given back after a module that leaves many of them. The CPU backend maps each function's
    code by itself: a worker that keeps all of them nears the kernel's limit of 65,530 maps, and one that did has
    crashed in the compiler. At 5,000 a worker holds about 2 GB."""
    yield
    if len(pathlib.Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()) > 5_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def processes_of_one_module() -> Iterator[None]:
    """What a failed test has left running, or standing still, is ended: Python would wait for it before it ends."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit floats for one test; all others run in 32 bits, as training does."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def random_like() -> Callable[..., Any]:
    """`random_like(shapes, seed)`: a tree of normal float64 arrays in the shapes of `shapes`, each scaled by 1/√fan_in
    of its last axes so that activations stay of order one."""

    def fill(shapes: Any, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)

        def leaf(shape: Any) -> np.ndarray:
            last = shape.shape[-1:] if len(shape.shape) < 3 else shape.shape[-2:]
            return rng.normal(size=shape.shape) / math.sqrt(max(math.prod(last), 1))

        return jax.tree.map(leaf, shapes)

    return fill


def convolve(
    x: np.ndarray, w: np.ndarray, stride: int = 1, dilation: int = 1, padding: int = 0, depthwise: bool = False
) -> np.ndarray:
    """x [I, H, W, N] with w [O, I, k, k] (depthwise: [I, k, k]), one multiplication at a time."""
    (inputs, height, width, batch), k = x.shape, w.shape[-1]
    rows, columns = ((size + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for size in (height, width))
    y = np.zeros((len(w), rows, columns, batch))
    for out, row, column, a, b in np.ndindex(len(w), rows, columns, k, k):
        i, j = row * stride + a * dilation - padding, column * stride + b * dilation - padding
        if 0 <= i < height and 0 <= j < width:
            for inp in [out] if depthwise else range(inputs):
                y[out, row, column] += (w[out, a, b] if depthwise else w[out, inp, a, b]) * x[inp, i, j]
    return y


def pool(x: np.ndarray, stride: int, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """3×3 pooling of x [C, H, W, N] with `reduce` (np.max, np.mean) over the pixels that lie inside the image."""
    channels, height, width, batch = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    y = np.zeros((channels, rows, columns, batch))
    for row, column in np.ndindex(rows, columns):
        i, j = row * stride, column * stride
        y[:, row, column] = reduce(x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2], axis=(1, 2))
    return y


def normalise(x: np.ndarray) -> np.ndarray:
    """BN of x [C, H, W, N] with the batch's own statistics and without scale and offset."""
    mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


@pytest.fixture
def plain() -> SimpleNamespace:
    """The definitions in NumPy: `convolve`, `pool`, `normalise`."""
    return SimpleNamespace(convolve=convolve, pool=pool, normalise=normalise)
