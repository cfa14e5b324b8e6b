"""What the cells of a finished network put out on test images: how much pruning changed it, and a map of it.

Kendall's τ (DASS, arXiv 2207.06968, Fig. 5) is taken for each image and cell between the feature maps of the dense
pre-trained and of the sparse fine-tuned network. For a t-SNE map (Fig. 10) a cell's features are averaged over their
pixels. The dense network is the end of pre-training that lies in the experiment's shared/, the sparse one that of the
run's last checkpoint: nothing more is kept of a run for it.
"""

import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import threadpoolctl
from scipy import stats
from sklearn.manifold import TSNE

from dass_jax import architectures, compose, pipeline
from dass_jax.compose import Setting
from dass_jax.config import title
from dass_jax.data import stream
from dass_jax.data.arrays import Split
from dass_jax.errors import UserError
from dass_jax.experiment.plan import Planned, Report
from dass_jax.networks import NETWORKS
from dass_jax.phases import Phase
from dass_jax.runner import TRAINING, template
from dass_jax.runtime import checkpoint, folder, keeping, seeds, shelf
from dass_jax.runtime.progress import Progress
from dass_jax.variables import Variables

FILE = "features.npz"
BATCH = 16
"""Images at once: the maps of all cells are held, 0.2 GB at the paper's size."""
DRAW = 0
"""Seed of the choice of images, which is the same for all runs."""


def asked(run: Planned, report: Report) -> dict[str, int]:
    """What a run's file must hold: numbers of images, and of the cell (0: the last)."""
    if NETWORKS[run.config.network.name].maps is None:
        return {}
    found = {}
    if "kendall" in (*report.figures, *report.tables):
        found["kendall_images"] = report.kendall_images
    if "tsne" in report.figures:
        found |= {"tsne_images": report.tsne_images, "tsne_cell": report.tsne_cell}
    return found


def is_complete(run: Planned, report: Report, own: pathlib.Path) -> bool:
    """Whether the run's folder holds what its report shows."""
    wanted, file = asked(run, report), own / FILE
    if not wanted:
        return True
    try:
        with np.load(file, allow_pickle=False) as found:
            return bool(json.loads(str(found["asked"])) == wanted)
    except (OSError, ValueError, KeyError):
        return False


def write(run: Planned, report: Report, own: pathlib.Path, shared: shelf.Shelf, progress: Progress) -> None:
    """Leaves `FILE` in the folder `own` of a finished run: "kendall" [images, cells], NaN for a map that is constant;
    "embedding" float32 [images, 2] and "labels" [images].

    Raises:
      UserError: if the dense network is no longer there.
    """
    wanted, s = asked(run, report), compose.setting(run.config)
    found = architectures.load(str(own / "architecture.json")) if (own / "architecture.json").exists() else None
    training, maps = compose.training(s, found), compose.cell_maps(s, found)
    with checkpoint.manager(own / "checkpoints", run.config.runtime.checkpoints_to_keep) as manager:
        sparse = _variables(s, training.phases, checkpoint.newest(manager))
    arrays: dict[str, Any] = {"asked": json.dumps(wanted)}
    with progress.busy(f"{run.name}: features of its cells"):
        if "kendall_images" in wanted:
            place = shared(title(run.config), TRAINING, training.phases[0], found)
            kept = shelf.take(pipeline.on_shelf(s, place))
            if kept is None:
                raise UserError(
                    f"report: 'kendall' compares {run.name} with its dense network, which is not in shared/; allowed: "
                    "a recipe that prunes, and a folder shared/ that is kept until the runs are finished"
                )
            images = _chosen(s, wanted["kendall_images"]).images
            arrays["kendall"] = kendall(maps, _variables(s, training.phases[:1], kept), sparse, images)
        if "tsne_images" in wanted:
            if s.dataset.masks:
                raise UserError(
                    "report: 'tsne' colours images by their labels, and these have masks; allowed: 'kendall'"
                )
            split = _chosen(s, wanted["tsne_images"])
            features = pooled(maps, sparse, split.images, wanted["tsne_cell"] - 1)
            arrays |= {"embedding": embedded(features), "labels": split.labels}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    folder.write_bytes(own / FILE, buffer.getvalue())


def _variables(s: Setting, phases: Sequence[Phase], kept: checkpoint.Checkpoint | None) -> Variables:
    """The network at the end of the last of `phases`."""
    assert kept is not None
    leaves, built = keeping.state_of(kept)[0], kept.facts.get("at", {}).get("built", {})
    (own,) = seeds.members(checkpoint.restore(template(s, phases, built), leaves).variables, 1)
    network = phases[-1].network
    assert network is not None  # every phase of a recipe has one
    return network(own)


def _chosen(s: Setting, number: int) -> Split:
    """That many test images, or all if there are fewer, drawn at random."""
    test = s.dataset.test
    rows = np.random.default_rng(DRAW).permutation(test.size)[:number]
    if isinstance(test, Split):
        return Split(np.asarray(test.images[rows]), test.labels[rows])
    return next(stream.batches(test, rows, compose.centred(s), s.image_shape, len(rows)))


def _batches(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(`BATCH` images, of which the last may only fill up; how many count)."""
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        yield np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)]), len(part)


def kendall(maps: Any, dense: Variables, sparse: Variables, images: np.ndarray) -> np.ndarray:
    """Kendall's τ-b float64 [N, cells] between the two networks' feature maps of each image.

    Args:
      maps: `compose.cell_maps`.
      images: uint8 [N, H, W, C].
    """
    program = jax.jit(maps)
    rows = []
    for part, count in _batches(images):
        one, other = program(dense, part), program(sparse, part)
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)]
        rows += [[_tau(a[..., n], b[..., n]) for a, b in pairs] for n in range(count)]
    return np.array(rows)


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.kendalltau(one.ravel(), other.ravel()).statistic)


def pooled(maps: Any, v: Variables, images: np.ndarray, cell: int) -> np.ndarray:
    """The features float32 [N, channels] of a cell (from 0), each the mean over its pixels."""
    program = jax.jit(lambda v, images: maps(v, images)[cell].mean((1, 2)).T)
    return np.concatenate([np.asarray(program(v, part))[:count] for part, count in _batches(images)])


def embedded(features: np.ndarray) -> np.ndarray:
    """The t-SNE map float32 [N, 2] of features [N, channels], each channel brought to deviation 1 first; from the first
    principal components, so that equal features have equal maps. All zeros if the features tell no image from another,
    as those of a network that has been pruned too far: scikit-learn's t-SNE crashes on them."""
    spread = features.std(0)
    varies = spread > 1e-6 * np.abs(features).max()
    if not varies.any():
        return np.zeros((len(features), 2), np.float32)
    scaled = (features[:, varies] - features[:, varies].mean(0)) / spread[varies]
    if scaled.shape[1] < 2:  # two principal components need two channels
        scaled = np.concatenate([scaled, np.zeros_like(scaled)], axis=1)
    perplexity = min(30.0, (len(features) - 1) / 3)
    # Its threads wait by spinning: two take longer than one, and beside other work many times as long.
    with threadpoolctl.threadpool_limits(1):
        found = TSNE(perplexity=perplexity, init="pca", random_state=DRAW).fit_transform(scaled)
    return np.asarray(found, np.float32)
