"""How a found network is trained: one file for each recipe, and a line in `RECIPES`."""

from dass_jax.recipes import dense, gradual, none, prune
from dass_jax.recipes.recipe import Entry, Fields, Problem

RECIPES: dict[str, Entry] = {
    "prune": Entry("pre-training, learning of scores, fine-tuning of the kept weights", prune.Fields, prune.train),
    "gradual": Entry("pruned by magnitude while it is trained", gradual.Fields, gradual.train),
    "dense": Entry("with all of its weights", dense.Fields, dense.train, prunes=False),
    "none": Entry("not at all, for a search whose cell a table scores", none.Fields, none.train),
}

__all__ = ["RECIPES", "Entry", "Fields", "Problem"]
