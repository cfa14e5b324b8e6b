"""What a magnitude mask leaves of a supernet, and what that does to the gradient of its scores.

    python benchmarks/masked_supernet.py [--config FILE] [--channels 8 16 32] [--keep 1 0.1 0.05 0.01]
                                         [--epsilon 1e-5 1e-1] [--seeds 3] [--output FILE.json]

Step 2 of DASS as it begins: fresh θ, scores by Eq. 3, per-layer top-k masks, all operations with equal weight, a batch
of the configuration's training images. A channel counts as constant where the variance that batch normalisation sees is
below 1e-5, the ε that is added to it. Such a channel carries next to nothing forward, but what passes back through it
is multiplied by up to 1 / √ε. The gradient is |∂L/∂s| with ∂L/∂s = sign(s)⊙θ⊙∂L/∂(θ⊙m), over all layers. `--epsilon`
changes that ε in all batch norms and nothing else. Means over seeds; of the gradient, which spans orders of magnitude,
the median.
"""

import argparse
import functools
import pathlib
import statistics
import sys
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from dass_jax import compose, sparsity, variables
from dass_jax.bilevel.norms import norm
from dass_jax.config import Config
from dass_jax.data.augment import normalise
from dass_jax.nn import layers
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS

CONSTANT = layers.BatchNorm.epsilon
"""A variance below it counts for less than the ε that is added to it."""


class Seen(NamedTuple):
    """What one seed's masked supernet shows on one batch."""

    loss: jax.Array
    constant: jax.Array
    """Share of the channels of all batch norms, 0 … 1."""
    score_gradient: jax.Array
    """|∂L/∂s|."""


def observe(s: compose.Setting, channels: int) -> Any:
    """(key, keep, ε) → Seen. The masks are data of the compiled program; each ε has one of its own."""
    c, size = s.config.space.fields, s.config.method.fields.batch_size
    space = darts(SupernetConfig(s.dataset.classes, c.cells, channels, c.nodes, c.stem, c.none))
    train = compose.examples(s)[0]
    batch = normalise(train.images[:size], jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std))
    labels = jnp.asarray(train.targets[:size])
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), s.image_shape))
    stacks = variables.prunable(shapes[PARAMS], space.rules)
    equal = {name: jnp.full(choice.shape, 1 / choice.shape[1]) for name, choice in space.choices.items()}
    # The running variance moves by a tenth of the batch's: from zero, it says what that was.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[BATCH_STATS])

    @functools.partial(jax.jit, static_argnums=2)
    def masked(theta: Any, masks: Any, epsilon: float) -> Seen:
        def loss(weights: Any) -> Any:
            patched = functools.partial(layers.batch_norm, epsilon=epsilon)
            with mock.patch.object(layers, "batch_norm", patched):
                logits, running = space.apply(weights, zeros, equal, batch, True)
            return cross_entropy(logits, labels), running

        (value, running), slope = jax.value_and_grad(loss, has_aux=True)(sparsity.apply_masks(theta, masks))
        seen = [v for path, v in variables.flatten(running).items() if path.endswith("/var")]
        variances = jnp.concatenate([v.ravel() for v in seen]) / (1 - layers.BatchNorm.momentum)
        through = jax.tree.map(jnp.multiply, variables.select(theta, stacks), variables.select(slope, stacks))
        return Seen(value, (variances < CONSTANT).mean(), norm(through))

    @functools.partial(jax.jit, static_argnums=1)
    def begin(key: jax.Array, keep: float) -> tuple[Any, Any]:
        theta = space.init(key, s.image_shape)[PARAMS]
        scores = sparsity.init_scores(variables.select(theta, stacks), stacks)
        return theta, sparsity.topk_masks(scores, stacks, keep)

    return lambda key, keep, epsilon: masked(*begin(key, keep), epsilon)


def rows(run: Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of channels, keep and ε."""
    s = compose.setting(run)
    found = []
    for channels in options.channels:
        print(f"{channels} channels", file=sys.stderr, flush=True)
        of = observe(s, channels)
        for keep in options.keep:
            for epsilon in options.epsilon:
                seen = [of(jax.random.key(seed), keep, epsilon) for seed in range(options.seeds)]
                found.append(
                    {
                        "channels": channels,
                        "keep": keep,
                        "ε": epsilon,
                        "constant channels in %": 100 * float(np.mean([one.constant for one in seen])),
                        "loss": float(np.mean([one.loss for one in seen])),
                        "gradient of scores": f"{statistics.median(float(one.score_gradient) for one in seen):.1e}",
                    }
                )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Looks, prints the table, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", default=str(measure.DIGITS), help="whose data, space and method.batch_size are taken"
    )
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32], help="space.channels")
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.1, 0.05, 0.01], help="sparsity.keep")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[CONSTANT, 0.1], help="of all batch norms")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of θ")
    parser.add_argument("--output", help="JSON file for machine, versions and rows")
    options = parser.parse_args(arguments)
    measure.tell(parser, options, lambda c: rows(c, options))


if __name__ == "__main__":
    main()
