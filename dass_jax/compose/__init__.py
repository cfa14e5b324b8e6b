"""From a configuration to functions: the one room that knows both. Nothing that it calls reads the configuration."""

from dass_jax.compose.search import hypergradient_of, search_stages, search_transforms
from dass_jax.compose.setting import Setting, centred, examples, key, setting, view
from dass_jax.compose.training import cell_maps, model, training_stages

__all__ = [
    "Setting",
    "cell_maps",
    "centred",
    "examples",
    "hypergradient_of",
    "key",
    "model",
    "search_stages",
    "search_transforms",
    "setting",
    "training_stages",
    "view",
]
