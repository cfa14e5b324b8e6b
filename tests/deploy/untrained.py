"""What a run leaves, without its training: networks as each phase begins with them, and made-up results."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from dass_jax import architectures, compose, config, results
from dass_jax.architectures.darts import Genotype
from dass_jax.runner import TRAINING, begun
from dass_jax.runtime import checkpoint, networks, seeds

METHOD = "architecture"
CELL = ((("skip_connect", 0), ("avg_pool_3x3", 1)),)
FOUND = Genotype(CELL, CELL)
TABLES: dict[str, Any] = {
    "seeds": 2,
    "architecture": json.dumps(architectures.to_json(FOUND)),
    "data": {"limit": 64},
    "sparsity": {"keep": 0.3},
    "network": {"cells": 1, "channels": 4, "auxiliary": False},
    "train": {"batch_size": 32, "pretrain_epochs": 1, "score_epochs": 2, "finetune_epochs": 1},
}


def figures(seed: int, name: str) -> dict[str, float]:
    """An evaluation."""
    return {"accuracy": {"dense": 40.0, "sparse": 25.0}[name] + seed, "loss": 2.0}


def left(run: pathlib.Path) -> pathlib.Path:
    """The folder `run` as a finished run of two seeds leaves it, with a checkpoint for each phase, 2 in its middle."""
    c = config.from_dict(TABLES)
    s = compose.setting(c)
    run.mkdir()
    (run / "config.toml").write_text(config.to_toml(c), encoding="utf-8")
    training, state = compose.training(s, FOUND), None
    known: dict[str, Any] = {
        str(seed): {"architecture": architectures.described(FOUND), "seconds": {"compile": 1.0}, "evaluations": {}}
        for seed in s.seeds
    }
    with checkpoint.manager(run / "checkpoints", 3) as manager:
        for step, phase in enumerate(training.phases, start=1):
            state = jax.tree.map(np.asarray, begun(s, phase, compose.key(s, TRAINING), state))
            if name := training.evaluations.get(phase.name):
                for seed in s.seeds:
                    known[str(seed)]["evaluations"][name] = figures(seed, name)
            at = {"method": METHOD, "chain": TRAINING, "seeds": list(s.seeds), "phase": phase.name, "epoch": 1}
            facts = {"at": {**at, "built": {}, "stopped": False}, "current": known}
            checkpoint.save(manager, step, {"state": state, "infos": []}, facts)
            manager.wait_until_finished()
    found = []
    for seed, part in zip(s.seeds, seeds.members(state.variables, len(s.seeds)), strict=True):
        v = jax.tree.map(np.asarray, training.phases[-1].network(part))
        found.append(results.of_method(s, METHOD, seed, known[str(seed)], v))
        result = figures(seed, "sparse")["accuracy"]
        networks.save(run, networks.Network(METHOD, seed, architectures.to_json(FOUND), v, result))
    text = json.dumps(results.of_run({METHOD: found}, METHOD, ()))
    (run / "results.json").write_text(text, encoding="utf-8")
    return run
