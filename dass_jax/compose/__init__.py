"""From a configuration to functions: the one room that knows both. Nothing that it calls reads the configuration."""

from dass_jax.compose.batches import prepare, prepare_evaluation
from dass_jax.compose.data import as_recorded, fingerprint, load_data, located, without_data
from dass_jax.compose.problems import (
    cell_maps,
    hparams,
    hypergradient_of,
    lookup,
    make_space,
    method_fields,
    methods,
    model,
    search,
    setting,
    training,
)
from dass_jax.compose.setting import Setting, centred, draw_seed, examples, key, split_rows, statistics, view
from dass_jax.compose.shown import shown

__all__ = [
    "Setting",
    "as_recorded",
    "cell_maps",
    "centred",
    "draw_seed",
    "examples",
    "fingerprint",
    "hparams",
    "hypergradient_of",
    "key",
    "load_data",
    "located",
    "lookup",
    "make_space",
    "method_fields",
    "methods",
    "model",
    "prepare",
    "prepare_evaluation",
    "search",
    "setting",
    "shown",
    "split_rows",
    "statistics",
    "training",
    "view",
    "without_data",
]
