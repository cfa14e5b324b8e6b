"""How a found network is trained: one file for each recipe, and a line in `RECIPES`."""

from dass_jax.recipes import dense, prune
from dass_jax.recipes.recipe import Entry, Fields, Problem

RECIPES: dict[str, Entry] = {
    "prune": Entry(prune.Fields, prune.train, lambda c: c.pretrain_epochs + c.score_epochs + c.finetune_epochs),
    "dense": Entry(dense.Fields, dense.train, lambda c: c.epochs),
}

__all__ = ["RECIPES", "Entry", "Fields", "Problem"]
