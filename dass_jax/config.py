"""The schema of a run: frozen dataclasses whose defaults are the paper's values (DASS, arXiv 2207.06968).

A range is declared once, next to the field's type, and holds for TOML files and for the command line alike
(`dass_jax.config_io` checks it). An attribute docstring is that field's text in `--help`. "DARTS" is arXiv 1806.09055.
"""

import dataclasses
from typing import Annotated, Literal

from dass_jax.architectures.darts import PUBLISHED

SearchName = Literal["dass", "dass_op", "dass_joint", "darts_sparse", "random"]
MethodName = Literal[SearchName, "given"]
NetworkName = Literal["cells", "resnet18", "mobilenet_v2", "efficientnet_v2_s"]
StatisticsName = Literal["own", "imagenet"]
StemName = Literal["cifar", "imagenet"]
PrecisionName = Literal["float32", "bfloat16"]
NonfiniteName = Literal["stop", "skip"]
AxisName = Literal["batch", "seeds"]
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

    source: Annotated[str, Text("'digits', 'tfds:NAME' or the path of an .npz file or a folder")] = "digits"
    """`digits` (8×8 grey images that come with scikit-learn); `tfds:NAME`, a data set that tensorflow-datasets has
    prepared; the path of an .npz file, or of a folder of .npy files, with the arrays train_images, train_labels,
    test_images and test_labels; or the path of a folder with train/CLASS/*.jpg (or .png) and test/ or val/ beside it.
    docs/data.md."""
    folder: Annotated[str, Text("the path of a folder, or '' for TFDS' own", empty=True)] = ""
    """Folder in which tensorflow-datasets keeps what it has prepared; empty = TFDS' own default."""
    image_size: Annotated[int, Range(0, 4096)] = 0
    """Side in pixels to which the shorter side of each image is resized, and of the square taken from its centre;
    0 = as they are, all of one size."""
    streaming: bool = False
    """Read the images batch by batch while the run goes on, for data that do not fit into memory."""
    statistics: StatisticsName = "own"
    """The mean and standard deviation by which channels are normalised: `own`, measured on all training images (at the
    start; when streaming that reads all of them once), or `imagenet`, the published figures of ImageNet."""
    limit: Annotated[int, Range(0)] = 0
    """Use only this many training images, drawn with the seed (of several seeds the first, so that all share the
    images); 0 = all of them."""
    validation_fraction: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5
    """Share of the training images that the upper level (α) sees in the search; the lower level (θ, s) sees the rest.
    DASS Algorithm 1, with the halves of DARTS."""
    crop_padding: Annotated[int, Range(0, 1024)] = 4
    """Pixels of zero padding on each side before the random crop back to the image's size; 0 = no crop. DARTS."""
    crop_scale: Annotated[float, Range(0, 1)] = 0.0
    """Train on random boxes of this share to all of an image's area, of ratios 3/4 to 4/3, resized to `image_size`, and
    evaluate on the central 224/256 of images; 0 = whole images. 0.08 is usual for ImageNet. Needs `streaming`, and
    `crop_padding` = 0."""
    flip: bool = True
    """Mirror each training image left to right with probability 1/2. DARTS."""
    cutout: Annotated[int, Range(0, 1024)] = 0
    """Side in pixels of the square set to 0 in each training image of the derived network, never in the search;
    0 = none. DARTS uses 16."""
    brightness: Annotated[float, Range(0, 10)] = 0.0
    """Colour jitter: each training image times a factor from 1 − this to 1 + this, not below 0; 0 = none. Of RGB images
    only, like the next three. DARTS on ImageNet uses 0.4, 0.4, 0.4 and, for the hue, 0.2."""
    contrast: Annotated[float, Range(0, 10)] = 0.0
    """Colour jitter: such a factor for the distance from the image's mean grey."""
    saturation: Annotated[float, Range(0, 10)] = 0.0
    """Colour jitter: such a factor for the distance from the pixel's grey."""
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    """Colour jitter: the hue is turned by up to this share of the colour wheel, either way."""


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
    stop_at_skips: CountOrZero = 0
    """End Step 1 with the first epoch whose derived normal cell has at least so many skip connections, and go on with
    what comes next; 0 = never. DARTS+ (arXiv 1909.06035) uses 2. Only with one seed in a run."""
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
    """The network that is trained and pruned; it inherits nothing from the supernet."""

    name: NetworkName = "cells"
    """`cells` (built from the genotype) or a published network in its form for images of 32×32 pixels, for which
    nothing is searched: the fields of `cells` then have no meaning, and drop-path acts on residual branches."""
    width: Annotated[float, Range(0, 8, open_low=True)] = 1.0
    """Factor of a published network's channels, which are rounded to multiples of 8. MobileNet-v2."""
    cells: Annotated[int, Range(1, 200)] = 20
    """`cells`: their number. DASS Table 2, DASS-Small."""
    channels: Annotated[int, Range(1, 4096)] = 36
    """`cells`: channels of the first ones. DASS Table 2, DASS-Small."""
    stem: StemName = "cifar"
    """`cells`: `cifar` (one 3×3 convolution) or `imagenet` (three, each of stride 2). DARTS."""
    auxiliary: bool = True
    """`cells`: train with an auxiliary classifier at two thirds of the depth. DARTS."""
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
class Parallel:
    """What several devices share out among themselves."""

    axis: AxisName = "batch"
    """`batch`: each takes its part of every batch. `seeds`: each has equally many of the `seeds`, with all of their
    batches, and devices that this leaves over are idle. A CPU is made a device for each seed: they share its cores, and
    each needs the memory of one. One host, data in memory."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: a search, the derived network's training, and the same for each control."""

    method: MethodName = "dass"
    """`dass` (search with learned masks), `dass_op` (with masks fixed at the initial scores), `dass_joint` (weights and
    scores in one loop), `darts_sparse` (dense search, the paper's baseline), `random` (a genotype drawn at random) or
    `given` (no search: that of `genotype`, or another network; implied by `genotype` and by `network.name`)."""
    genotype: Annotated[str, Text("a published name or the path of a genotype.json", empty=True)] = ""
    """Cell to train in the place of a searched one: `dass_99`, `dass_95`, `dass_90`, `darts_sparse`, `darts_v1`,
    `darts_v2` or a genotype.json. What a file holds is kept in the run's config.toml."""
    controls: tuple[SearchName, ...] = ("darts_sparse", "random")
    """Methods run after the main one at the same budget, for comparison; `--controls` without a value = none. If they
    are not given: `darts_sparse` and `random` but for the main one, and none with `given`."""
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
    parallel: Parallel = Parallel()


def title(config: Config) -> str:
    """The main method's name in metrics and results: with `given` that of the network or of the genotype."""
    if config.method != "given":
        return config.method
    if config.network.name != "cells":
        return config.network.name
    return config.genotype if config.genotype in PUBLISHED else "genotype"


def usual_controls(config: Config) -> tuple[SearchName, ...]:
    """The controls of a run that names none."""
    if config.method == "given":
        return ()
    return tuple(name for name in Config.controls if name != config.method)
