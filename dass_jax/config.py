"""The schema of a run: frozen dataclasses whose defaults are the paper's values (DASS, arXiv 2207.06968).

A range is declared once, next to the field's type, and holds for TOML files and for the command line alike
(`dass_jax.config_io` checks it). An attribute docstring is that field's text in `--help`. "DARTS" is arXiv 1806.09055.
"""

import dataclasses
from typing import Annotated, Literal

MethodName = Literal["dass", "darts_sparse", "random"]
StemName = Literal["cifar", "imagenet"]
PrecisionName = Literal["float32", "bfloat16"]
NonfiniteName = Literal["stop", "skip"]
OrderName = Literal["upper_first", "lower_first"]
HypergradientName = Literal["first_order", "unrolled", "finite_difference", "neumann", "conjugate_gradient", "amended"]
HYPERGRADIENT_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "first_order": (),
    "unrolled": ("steps", "remat"),
    "finite_difference": ("radius",),
    "neumann": ("terms", "lr", "damping"),
    "conjugate_gradient": ("iterations", "damping"),
    "amended": ("eta", "damping"),
}
"""Which fields of `Hypergradient` an estimator takes; the others must be left at their defaults."""
LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both allowed unless marked open; None means no bound on that side."""

    low: float
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below

    def __str__(self) -> str:
        if self.high is None:
            return f"greater than {self.low}" if self.open_low else f"of at least {self.low}"
        return f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"


@dataclasses.dataclass(frozen=True)
class Text:
    """Printable text; empty only if `empty`. `meaning` completes "allowed: …"."""

    meaning: str
    empty: bool = False

    def __contains__(self, value: str) -> bool:
        return value.isprintable() and (self.empty or bool(value.strip()))

    def __str__(self) -> str:
        return self.meaning


Count = Annotated[int, Range(1, 1_000_000)]
CountOrZero = Annotated[int, Range(0, 1_000_000)]
Rate = Annotated[float, Range(0, open_low=True)]
NotNegative = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 1, open_high=True)]


@dataclasses.dataclass(frozen=True)
class Data:
    """The images, and what is done to them before they reach the network."""

    source: Annotated[str, Text("'digits' or the path of an .npz file")] = "digits"
    """`digits` (8×8 grey images that come with scikit-learn) or the path of an .npz file with the arrays train_images,
    train_labels, test_images and test_labels."""
    limit: Annotated[int, Range(0)] = 0
    """Use only this many training images, drawn with the seed (of several seeds the first, so that all share the
    images); 0 = all of them."""
    validation_fraction: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5
    """Share of the training images that the upper level (α) sees in the search; the lower level (θ, s) sees the rest.
    DASS Algorithm 1, with the halves of DARTS."""
    crop_padding: Annotated[int, Range(0, 1024)] = 4
    """Pixels of zero padding on each side before the random crop back to the image's size; 0 = no crop. DARTS."""
    flip: bool = True
    """Mirror each training image left to right with probability 1/2. DARTS."""
    cutout: Annotated[int, Range(0, 1024)] = 0
    """Side in pixels of the square set to 0 in each training image of the derived network, never in the search;
    0 = none. DARTS uses 16."""


@dataclasses.dataclass(frozen=True)
class Search:
    """The supernet and its two steps, DASS Algorithm 1: 1 (pre-train) dense weights, 2 (prune) pruning scores."""

    cells: Annotated[int, Range(1, 200)] = 8
    """Cells of the supernet (L). DASS, as in DARTS."""
    channels: Annotated[int, Range(1, 4096)] = 16
    """Channels of the supernet's first cells (C). DASS, as in DARTS."""
    nodes: Annotated[int, Range(1, 8)] = 4
    """Intermediate nodes of a cell; the paper's 7 nodes count 2 inputs and the output too."""
    stem: StemName = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (three, each of stride 2). DARTS."""
    none: bool = True
    """Also search over the operation `none` (DARTS; DASS Table 1 leaves it out). It is never derived."""
    remat: bool = False
    """Recompute each cell in the backward pass: about a third more time for a fraction of the memory."""
    epochs: Count = 50
    """Epochs of Step 1, DASS Algorithm 1."""
    prune_epochs: Count = 20
    """Epochs of Step 2, DASS Algorithm 1."""
    batch_size: Count = 64
    """Images in a batch, both of the lower and of the upper level."""
    accumulate: Count = 1
    """Equal parts of each device's batch that are worked through one after the other, for about the memory of one: a
    step uses the mean of their gradients. Batch normalisation uses each part's own statistics."""
    order: OrderName = "upper_first"
    """Which level steps first in an iteration: `upper_first` (α, then θ or s; DARTS and the authors' code) or
    `lower_first` (as DASS Algorithm 1 writes it)."""
    hypergradient: HypergradientName = "first_order"
    """How α's gradient is estimated: `first_order` (DASS; weights as if they did not depend on α), `unrolled` (exact,
    through steps of the weights), `finite_difference` (DARTS' second order), `neumann` or `conjugate_gradient`
    (implicit), `amended` (Bi et al. 2019). docs/bilevel.md says when to use which."""
    theta_lr: Rate = 0.025
    """First learning rate of the weights θ in Step 1 (SGD, cosine)."""
    scores_lr: Rate = 0.1
    """First learning rate of the pruning scores s in Step 2 (SGD, cosine)."""
    final_lr: NotNegative = 1e-3
    """Last learning rate of the cosine schedule, in both steps."""
    momentum: Decay = 0.9
    """Momentum of the lower level's SGD."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of the lower level's SGD, as L2 in the gradient."""
    clip: Rate = 5.0
    """Largest global norm of the lower level's gradient."""
    alpha_lr: Rate = 3e-4
    """Learning rate of the architecture parameters α (Adam, constant)."""
    alpha_beta1: Decay = 0.5
    """Decay of Adam's first moment for α."""
    alpha_beta2: Decay = 0.999
    """Decay of Adam's second moment for α."""
    alpha_weight_decay: NotNegative = 1e-3
    """Weight decay of α, as L2 in the gradient (coupled, before Adam's scaling)."""


@dataclasses.dataclass(frozen=True)
class Hypergradient:
    """Arguments of the estimator that `search.hypergradient` names; those of other estimators cannot be set."""

    steps: Annotated[int, Range(1, 1000)] = 1
    """`unrolled`: steps of the lower level to differentiate through, all on the batch of the iteration."""
    remat: bool = False
    """`unrolled`: recompute each step in the backward pass, for memory that hardly grows with `steps`."""
    radius: Rate = 0.01
    """`finite_difference`: distance from the weights at which the two gradients are taken. DARTS."""
    terms: Annotated[int, Range(1, 1000)] = 3
    """`neumann`: terms of the series."""
    lr: Rate = 0.01
    """`neumann`: step of the series; it converges below 2 / (largest eigenvalue of the lower Hessian)."""
    iterations: Annotated[int, Range(1, 1000)] = 3
    """`conjugate_gradient`: iterations at most."""
    damping: NotNegative = 0.0
    """`neumann`, `conjugate_gradient`, `amended`: added to the diagonal of the lower Hessian. The lower level's weight
    decay belongs here; an indefinite Hessian needs more for `conjugate_gradient` to converge."""
    eta: Rate = 0.1
    """`amended`: factor of the Hessian that stands for its inverse."""
    cosine: bool = False
    """Also record the cosine between α's gradient and its first-order part, at the cost of one more gradient."""


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """How many weights survive."""

    keep: Annotated[float, Range(0, 1, open_low=True)] = 0.01
    """Fraction of each layer's weights that is kept; 0.01 is the paper's 99 % pruning. DASS Eq. 4."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The derived network, built from the genotype; it inherits nothing from the supernet."""

    cells: Annotated[int, Range(1, 200)] = 20
    """Cells of the derived network. DASS Table 2, DASS-Small."""
    channels: Annotated[int, Range(1, 4096)] = 36
    """Channels of the derived network's first cells. DASS Table 2, DASS-Small."""
    stem: StemName = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (three, each of stride 2). DARTS."""
    auxiliary: bool = True
    """Train with an auxiliary classifier at two thirds of the depth. DARTS."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the auxiliary classifier's loss. DARTS."""
    drop_path: Decay = 0.2
    """Probability, reached linearly at the last epoch of a stage, that an operation's output is dropped. DARTS."""


@dataclasses.dataclass(frozen=True)
class Train:
    """The derived network's three stages: dense pre-training, learning of scores, fine-tuning of the kept weights."""

    batch_size: Count = 128
    """Images in a batch."""
    accumulate: Count = 1
    """Equal parts of each device's batch that are worked through one after the other, as `search.accumulate` does in
    the search. Evaluations take as many images at once as there are in a part."""
    pretrain_epochs: Count = 600
    """Epochs of dense pre-training."""
    score_epochs: Count = 20
    """Epochs in which the pruning scores are learned and the weights stay as they are."""
    finetune_epochs: Count = 200
    """Epochs of fine-tuning of the kept weights under the final masks."""
    pretrain_lr: Rate = 0.025
    """First learning rate of pre-training (SGD, cosine)."""
    scores_lr: Rate = 0.1
    """First learning rate of the scores (SGD, cosine)."""
    finetune_lr: Rate = 0.01
    """First learning rate of fine-tuning (SGD, cosine)."""
    final_lr: NotNegative = 0.0
    """Last learning rate of the cosine schedule, in each stage."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of SGD, as L2 in the gradient."""
    clip: Rate = 5.0
    """Largest global norm of the gradient."""
    evaluate_every: CountOrZero = 1
    """Epochs between evaluations on the test images, for the learning curves only: nothing is chosen by them.
    0 = only at the end of a stage."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how the run is carried out."""

    devices: Annotated[int, Range(0, 65_536)] = 0
    """Devices of this machine that share each batch; 0 = all."""
    precision: PrecisionName = "float32"
    """What activations are kept in: `float32`, or `bfloat16` for half of the memory on an accelerator. All that is
    learned stays float32, and so do statistics, logits and losses. docs/accelerators.md."""
    epochs_per_call: Annotated[int, Range(1, 1000)] = 1
    """Epochs in one compiled call (the largest divisor of a stage's epochs up to this); checkpoints and test accuracies
    come at the end of a call."""
    call_seconds: NotNegative = 0.5
    """Steps for about so many seconds make one compiled call, at least one step: for so long a signal to stop, or a
    pause's checkpoint, waits for its turn; 0 = one step a call."""
    checkpoint_minutes: NotNegative = 10.0
    """Within a longer epoch the state is also kept after so many minutes, and after a signal to stop; 0 = only then."""
    nonfinite: NonfiniteName = "stop"
    """After a step whose loss or gradient is not finite: `stop` the run with the state before it kept, or `skip` the
    step, which changes nothing then; the epoch's metrics count the skipped steps."""
    checkpoints_to_keep: Annotated[int, Range(2, 1000)] = 3
    """Most recent checkpoints left in the run's folder."""
    memory_check: bool = True
    """Before a stage's first step, compare the memory that it needs by XLA's plan with what is available, and stop if
    it does not fit, with values that would."""
    compilation_cache: Annotated[str, Text("the path of a folder, or '' for none", empty=True)] = "~/.cache/dass_jax"
    """Folder in which compiled programs are kept between runs; empty = none."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: a search, the derived network's training, and the same for each control."""

    method: MethodName = "dass"
    """`dass` (search with learned masks), `darts_sparse` (dense search, the paper's baseline) or `random`
    (a genotype drawn at random)."""
    controls: tuple[MethodName, ...] = ("darts_sparse", "random")
    """Methods run after the main one at the same budget, for comparison; `--controls` without a value = none."""
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    """Seed of everything random in the run."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Searches that run in one program, with the seeds `seed`, `seed` + 1, …; each has the numbers of a run with its
    seed alone, up to rounding. Networks of equal genotype are then trained so too."""
    data: Data = Data()
    search: Search = Search()
    hypergradient: Hypergradient = Hypergradient()
    sparsity: Sparsity = Sparsity()
    network: Network = Network()
    train: Train = Train()
    runtime: Runtime = Runtime()
