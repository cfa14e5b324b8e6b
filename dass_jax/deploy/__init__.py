"""A trained sparse network made small and fast: its graph, exact compaction, sparse execution and file formats.

    graph = rewrite.simplified(trace.trace(forward, params, batch_stats, image_shape))   the network, BN folded
    small = compact.compact(graph)                                     without what cannot reach or change the outputs

`evaluate` is the graph's definition in NumPy, `xla` and `sparse` run it, `formats` write and read it. `source` finds a
run's network, `check` compares what was made of it, and the command `python -m dass_jax.deploy` does all of it.
"""

import importlib.util

FORMATS = ("stablehlo", "packed", "onnx")
VALUES = ("float32", "float16", "int8")
"""What the command writes, and the dtypes of the weights in a packed file."""


def has_package(name: str) -> bool:
    """Whether a package of one of the extras is installed."""
    return importlib.util.find_spec(name) is not None
