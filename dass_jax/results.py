"""What results.json holds: a method's figures for one seed and, for several, their mean ± standard deviation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import accounting, compose, variables
from dass_jax.architectures import darts as genotype
from dass_jax.compose import Setting
from dass_jax.nn.layers import one_device
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

SPREADS = {"accuracy": ("dense", "sparse"), "parameters": ("kept",), "macs": ("dense", "nonzero")}
"""The figures that differ between seeds and are counts or per cent, by section."""


def of_run(found: dict[str, list[dict[str, Any]]], method: str, controls: Sequence[str]) -> dict[str, Any]:
    """The whole file: the main method's part and, inside, those of its controls.

    Args:
      found: method → its results, one for each seed.
    """
    parts = {name: runs[0] if len(runs) == 1 else of_seeds(runs) for name, runs in found.items()}
    return {**parts[method], "controls": {name: parts[name] for name in controls}}


def of_seeds(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One method's part for several seeds: `runs`, what each seed has, and their spread; seconds are sums."""
    first = runs[0]
    found: dict[str, Any] = {"method": first["method"], "seeds": [run["seed"] for run in runs], "keep": first["keep"]}
    for section, names in SPREADS.items():
        found[section] = {name: spread([run[section][name] for run in runs]) for name in names}
    found["accuracy"]["test_images"] = first["accuracy"]["test_images"]
    found["nid"] = spread([run["nid"] for run in runs])
    found["seconds"] = {name: round(sum(run["seconds"][name] for run in runs), 2) for name in first["seconds"]}
    return {**found, "runs": runs}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation of a sample, so with n − 1, of two or more values."""
    return {"mean": round(float(np.mean(values)), 4), "std": round(float(np.std(values, ddof=1)), 4)}


def genotype_of(known: dict[str, Any]) -> genotype.Genotype | None:
    """What a seed has found; None for a network that is not made from a genotype."""
    return None if known["genotype"] is None else genotype.from_json(known["genotype"])


def of_method(s: Setting, method: str, seed: int, known: dict[str, Any], v: Any) -> dict[str, Any]:
    """One method's part for one seed.

    Args:
      known: its genotype or None, accuracies by stage and seconds.
      v: the variables at the end of its training, as NumPy arrays.
    """
    net = compose.model(s, genotype_of(known), auxiliary=False, average=one_device)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), s.image_shape))[PARAMS]
    height, width, channels = s.image_shape

    def forward() -> Any:
        return net.apply(v[PARAMS], v[BATCH_STATS], jnp.zeros((channels, height, width, 1)), False)

    keep = s.config.sparsity.keep
    count = accounting.count(params, net.rules, keep, forward)
    accuracy = known["accuracy"]
    return {
        "method": method,
        "seed": seed,
        "keep": keep,
        "genotype": known["genotype"],
        "accuracy": {
            "dense": accuracy["pretrain"],
            "sparse": accuracy["finetune"],
            "test_images": s.dataset.test.size,
        },
        "parameters": {
            "total": count.total,
            "prunable": count.prunable,
            "kept": count.kept,
            "kept_with_bn_bias": count.kept_with_bn_bias,
            "paper": count.paper_kept,
        },
        "macs": {"dense": count.macs, "nonzero": count.macs_nonzero},
        "nid": round(accounting.nid(accuracy["finetune"], count.kept), 4),
        "compression": round(count.total / count.kept, 2),
        "seconds": {name: round(value, 2) for name, value in known["seconds"].items()},
        "layers": layers_of(v, params),
    }


def layers_of(v: Any, params: Any) -> list[dict[str, Any]]:
    """Weights and kept weights of every prunable leaf of the network without its auxiliary head, as the masks say."""
    masks, wanted = variables.flatten(v[MASKS]), variables.flatten(params)
    return [
        {"path": path, "weights": int(mask.size), "kept": int(np.count_nonzero(mask))}
        for path, mask in masks.items()
        if path in wanted
    ]
