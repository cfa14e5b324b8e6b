"""What a mask leaves of a supernet: the benchmark's figures against the loss that Step 2 trains."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import masked_supernet
from dass_jax import compose, variables
from dass_jax import config as configuration
from dass_jax.data.augment import normalise
from dass_jax.methods import dass, relaxed
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA, PARAMS, SCORES

CONFIG = "[space]\ncells = 1\nnodes = 1\n[method]\nbatch_size = 16\n[network]\ncells = 1\nauxiliary = false\n"
KEEP, CHANNELS = 0.1, 4


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "small.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return str(file)


def test_it_observes_the_loss_and_the_score_gradient_of_step_2(config: str) -> None:
    s = compose.setting(configuration.load(config))
    seen = masked_supernet.observe(s, CHANNELS)(jax.random.key(0), KEEP, 1e-5)

    space = darts(SupernetConfig(s.dataset.classes, 1, CHANNELS, 1))
    v = jax.jit(lambda: space.init(jax.random.key(0), s.image_shape))()
    stacks = variables.prunable(v[PARAMS], space.rules)
    alpha = {name: jnp.zeros(choice.shape) for name, choice in space.choices.items()}
    v = dass.with_scores({**v, ALPHA: alpha}, stacks)
    step2 = relaxed.supernet_loss(space.apply, s.task, relaxed.softmax_choice, dass.sparse_weights(stacks, KEEP))
    images, labels = (x[:16] for x in compose.examples(s)[0][:2])
    batch = Batch(normalise(images, jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std)), jnp.asarray(labels))
    slope_of = jax.jit(jax.value_and_grad(lambda scores: step2({**v, SCORES: scores}, batch, None)[0]))
    value, slope = slope_of(v[SCORES])
    np.testing.assert_allclose(seen.loss, value, rtol=1e-5)
    np.testing.assert_allclose(seen.score_gradient, optax.tree.norm(slope), rtol=1e-3)


def test_a_mask_makes_channels_constant_and_epsilon_decides_the_gradient(
    config: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "seen.json"
    options = ["--channels", "4", "--keep", "1", "0.1", "--epsilon", "1e-5", "0.1", "--seeds", "2"]
    masked_supernet.main(["--config", config, *options, "--output", str(file)])
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [(row["keep"], row["ε"]) for row in rows] == [(1, 1e-5), (1, 0.1), (0.1, 1e-5), (0.1, 0.1)]
    dense, _, sparse, softened = rows
    assert dense["constant channels in %"] == 0 < sparse["constant channels in %"]
    assert float(softened["gradient of scores"]) < float(sparse["gradient of scores"])
    assert "constant channels" in capsys.readouterr().out


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        masked_supernet.main(["--config", "nowhere.toml"])
    assert "nowhere.toml" in capsys.readouterr().err
