"""From a found network to a sparse one, "Step 3". Source: DASS (arXiv 2207.06968) Section 4.3.

    pre-train:   θ on f(θ⊙1)              all weights
    scores:      s on f(θ⊙m(s))           θ fixed, m = top-k of |s|, straight through
    fine-tune:   θ on f(θ⊙m)              m fixed, only kept weights move

Pre-training and fine-tuning are one program: the mask and the learning rate are data.
"""

import dataclasses
from typing import Any

from dass_jax import bilevel, sparsity, variables
from dass_jax.phases import Training
from dass_jax.recipes import recipe
from dass_jax.recipes.recipe import Problem
from dass_jax.schedules import by_epoch, cosine
from dass_jax.schema import Count, Rate
from dass_jax.variables import MASKS, PARAMS, SCORES, Variables


@dataclasses.dataclass(frozen=True)
class Fields(recipe.Fields):
    """Dense pre-training, learning of scores, fine-tuning of the kept weights."""

    pretrain_epochs: Count = 600
    """Epochs of dense pre-training."""
    score_epochs: Count = 20
    """Epochs in which the pruning scores are learned and the weights stay as they are."""
    finetune_epochs: Count = 200
    """Epochs of fine-tuning of the kept weights under the final masks."""
    pretrain_lr: Rate = 0.025
    """Learning rate of pre-training (SGD), before it falls."""
    scores_lr: Rate = 0.1
    """First learning rate of the scores (SGD, cosine)."""
    finetune_lr: Rate = 0.01
    """First learning rate of fine-tuning (SGD, cosine)."""


def learn_scores(c: Fields, problem: Problem) -> bilevel.Algorithm:
    """Score learning: s alone."""

    def weights(v: Variables) -> Any:
        return sparsity.masked_through(v[PARAMS], v[SCORES], problem.masks(v[SCORES], v[PARAMS]))

    loss = recipe.network_loss(problem, weights, c.accumulate)
    return recipe.descending(SCORES, loss, bilevel.sgd(c.momentum, c.weight_decay, c.clip), problem)


def begin_scores(v: Variables, scores: bilevel.Algorithm, problem: Problem) -> bilevel.State:
    """From the dense network to score learning: scores from θ (Eq. 3)."""
    stacks = problem.stacks(v[PARAMS])
    return scores.init({**v, SCORES: sparsity.init_scores(variables.select(v[PARAMS], stacks), stacks)})


def pruned(v: Variables, problem: Problem) -> Variables:
    """The network under the masks of its scores, which have done their work."""
    masks = problem.masks(v[SCORES], v[PARAMS])
    return {**{name: leaf for name, leaf in v.items() if name != SCORES}, MASKS: masks}


def train(c: Fields, problem: Problem) -> Training:
    """The three phases."""
    weights, scores = recipe.train_weights(c, problem), learn_scores(c, problem)
    pretrain = recipe.phase(
        c,
        problem,
        PARAMS,
        recipe.learning_rate(c, c.pretrain_lr, c.pretrain_epochs),
        name="pretrain",
        title="Training of the dense network",
        epochs=c.pretrain_epochs,
        algorithm=weights,
        begin=lambda key, _: weights.init(recipe.fresh(problem, key)),
        program=f"weights of {problem.name}",
        network=recipe.masked,
        unread=("sparsity", "train.score_epochs", "train.finetune_epochs", "train.scores_lr", "train.finetune_lr"),
    )
    learning = recipe.phase(
        c,
        problem,
        SCORES,
        by_epoch(cosine(c.scores_lr, c.final_lr), c.score_epochs),
        name="scores",
        title="Learning of the pruning scores",
        epochs=c.score_epochs,
        algorithm=scores,
        begin=lambda _, state: begin_scores(state.variables, scores, problem),
        program=f"scores of {problem.name}",
        network=lambda v: recipe.masked(pruned(v, problem)),
    )
    finetune = recipe.phase(
        c,
        problem,
        PARAMS,
        by_epoch(cosine(c.finetune_lr, c.final_lr), c.finetune_epochs),
        name="finetune",
        title="Fine-tuning of the sparse network",
        epochs=c.finetune_epochs,
        algorithm=weights,
        # The optimizer starts from nothing.
        begin=lambda _, state: weights.init(pruned(state.variables, problem)),
        program=pretrain.program,
        network=recipe.masked,
    )
    evaluations = {"pretrain": "dense", "finetune": "sparse"}
    return Training((pretrain, learning, finetune), recipe.outputs(problem), evaluations)
