"""How architectures are searched: one file for each method, a line in `METHODS`. Networks are known as functions.

A paper is a short composition of the axes: relaxation, sparsity, update.
"""

from dass_jax.methods import darts, dass, dass_joint, dass_op, entmax, unsearched
from dass_jax.methods.method import Entry, Problem
from dass_jax.methods.relaxed import Bilevel
from dass_jax.schema import Empty

METHODS: dict[str, Entry] = {
    "dass": Entry(dass.Fields, dass.search, lambda c: c.epochs + c.prune_epochs, hypergradient=True),
    "dass_op": Entry(Bilevel, dass_op.search, lambda c: c.epochs, hypergradient=True),
    "dass_joint": Entry(dass_joint.Fields, dass_joint.search, lambda c: c.epochs, hypergradient=True),
    "darts": Entry(Bilevel, darts.search, lambda c: c.epochs, hypergradient=True),
    "entmax": Entry(entmax.Fields, entmax.search, lambda c: c.epochs, hypergradient=True),
    "random": Entry(Empty, unsearched.random),
    "given": Entry(Empty, unsearched.given),
}

__all__ = ["METHODS", "Entry", "Problem"]
