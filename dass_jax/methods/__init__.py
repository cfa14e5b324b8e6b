"""How architectures are searched: one file for each method, a line in `METHODS`. Networks are known as functions.

A paper is a short composition of the axes: relaxation, sparsity, update.
"""

from dass_jax.methods import (
    darts,
    dass,
    dass_joint,
    dass_op,
    dso,
    enas,
    entmax,
    sampled,
    scas_darts,
    scas_enas,
    scas_smash,
    shared_random,
    smash,
    unsearched,
)
from dass_jax.methods.method import Entry, Problem, one_phase
from dass_jax.methods.relaxed import Bilevel
from dass_jax.schema import Empty

METHODS: dict[str, Entry] = {
    "dass": Entry("with learned masks", dass.Fields, dass.search, dass.epochs, hypergradient=True),
    "dass_op": Entry("with masks fixed at the first scores", Bilevel, dass_op.search, one_phase, hypergradient=True),
    "dass_joint": Entry("weights and scores in one loop", dass_joint.Fields, dass_joint.search, one_phase, True),
    "darts": Entry("dense", Bilevel, darts.search, one_phase, hypergradient=True),
    "scas_darts": Entry("pruned by magnitude during the search", scas_darts.Fields, scas_darts.search, one_phase, True),
    "entmax": Entry("one level, operations removed", entmax.Fields, entmax.search, one_phase, hypergradient=True),
    "dso": Entry("factors of connections, L1", dso.Fields, dso.search, one_phase),
    "enas": Entry("shared weights, REINFORCE", enas.Fields, enas.search, one_phase, sampled=True),
    "scas_enas": Entry("ENAS, pruned by magnitude", scas_enas.Fields, scas_enas.search, one_phase, sampled=True),
    "shared_random": Entry("shared weights", sampled.Fields, shared_random.search, one_phase, sampled=True),
    "smash": Entry("weights from a hyper-network", smash.Fields, smash.search, one_phase, sampled="written"),
    "scas_smash": Entry(
        "SMASH, written weights pruned", scas_smash.Fields, scas_smash.search, one_phase, sampled="written"
    ),
    "random": Entry("drawn at random", Empty, unsearched.random, sampled=None),
    "whole": Entry("all that the space has", Empty, unsearched.whole),
    "given": Entry(
        "no search; implied by `architecture` and by a published network", Empty, unsearched.given, sampled=None
    ),
}

__all__ = ["METHODS", "Entry", "Problem"]
