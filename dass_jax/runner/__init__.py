"""Carries out lists of phases: `run_chain` is the loop, a `Runner` what a run's chains have in common."""

from dass_jax.runner.chain import SEARCH, TRAINING, Chain, Evaluation, batch_of, label_of, template
from dass_jax.runner.run import begun, evaluate, run_chain
from dass_jax.runner.runner import Runner

__all__ = [
    "SEARCH",
    "TRAINING",
    "Chain",
    "Evaluation",
    "Runner",
    "batch_of",
    "begun",
    "evaluate",
    "label_of",
    "run_chain",
    "template",
]
