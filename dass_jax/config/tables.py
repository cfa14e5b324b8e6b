"""The tables of a run's configuration that every run has: where the images come from, and how the run is carried out.

The other tables are unions, see `axes`. Defaults are the paper's values (DASS, arXiv 2207.06968); "DARTS" is arXiv
1806.09055. The docstring of a field is its text in `--help`.
"""

import dataclasses
from typing import Annotated, Literal

from dass_jax.schema import NotNegative, Range, Text
from dass_jax.sparsity import Distribution


@dataclasses.dataclass(frozen=True)
class Data:
    """The images, and what is done to them before they reach the network."""

    source: Annotated[str, Text("'digits', 'tfds:NAME' or the path of an .npz file or a folder")] = "digits"
    """`digits` (8×8 grey images that come with scikit-learn); `tfds:NAME`, a data set that tensorflow-datasets has
    prepared; the path of an .npz file, or of a folder of .npy files, with the arrays train_images, train_labels,
    test_images and test_labels; or the path of a folder with train/CLASS/*.jpg (or .png), or with train/images and
    train/masks, and the same in test/ or val/. docs/data.md."""
    folder: Annotated[str, Text("the path of a folder, or '' for TFDS' own", empty=True)] = ""
    """Folder in which tensorflow-datasets keeps what it has prepared; empty = TFDS' own default."""
    image_size: Annotated[int, Range(0, 4096)] = 0
    """Side in pixels to which the shorter side of each image is resized, and of the square taken from its centre;
    0 = as they are, all of one size."""
    streaming: bool = False
    """Read the images batch by batch during the run, for data that do not fit into memory."""
    statistics: Literal["own", "imagenet"] = "own"
    """The mean and standard deviation by which channels are normalised: `own`, measured on all training images (at the
    start; when streaming that reads all of them once), or `imagenet`, the published figures of ImageNet."""
    limit: Annotated[int, Range(0)] = 0
    """Use only this many training images, drawn with the seed (of several seeds the first, so that all share the
    images); 0 = all of them."""
    accept_changed: bool = False
    """Go on with a run whose data have changed since it began, which is otherwise refused, and record what changed."""
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
class Sparsity:
    """How many weights survive."""

    keep: Annotated[float, Range(0, 1, open_low=True)] = 0.01
    """Fraction of each layer's weights that is kept; 0.01 is the paper's 99 % pruning. DASS Eq. 4."""
    distribution: Distribution = "layer"
    """How the kept weights are shared out, equally many in all: `layer`, each layer keeps the same fraction (DASS);
    `erk`, its density is ∝ (inputs + outputs) / (inputs · outputs), at most 1; `global`, the weights of the largest
    scores of all layers together."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how the run is carried out."""

    devices: Annotated[int, Range(0, 65_536)] = 0
    """Devices of this machine that share each batch; 0 = all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What activations are kept in: `float32`, or `bfloat16` for half of the memory on an accelerator. All that is
    learned stays float32, and so do statistics, logits and losses. docs/accelerators.md."""
    call_seconds: NotNegative = 0.5
    """Steps for about so many seconds make one compiled call, at least one step: for so long a signal to stop, or a
    pause's checkpoint, waits for its turn; 0 = one step a call."""
    checkpoint_minutes: NotNegative = 10.0
    """Within a longer epoch the state is also kept after so many minutes, and after a signal to stop; 0 = only then."""
    nonfinite: Literal["stop", "skip"] = "stop"
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

    axis: Literal["batch", "seeds"] = "batch"
    """`batch`: each takes its part of every batch. `seeds`: each has equally many of the `seeds`, with all of their
    batches, and devices that this leaves over are idle. A CPU is made a device for each seed: they share its cores, and
    each needs the memory of one. One host, data in memory."""
