"""Trained networks are found in whatever a run leaves; here of runs that have not been done: only what they leave."""

import pathlib
from typing import Any

import numpy as np
import pytest

from dass_jax import architectures, compose, config, tasks
from dass_jax.deploy import check, compact, files, graph, source, summary, trace, xla
from dass_jax.deploy.source import Trained
from dass_jax.errors import UserError
from dass_jax.nn.layers import one_device
from dass_jax.runtime import checkpoint, networks
from dass_jax.runtime.networks import Network
from dass_jax.tasks import Metric, Task
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, flatten
from tests.deploy import networks as made

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
CONFIGS: dict[str, Any] = {
    "architecture": {"architecture": CELL, "network": {"cells": 1, "channels": 3}},
    "resnet18": {"network": {"name": "resnet18", "width": 0.1}},
}
"""By the title of the run: of a cell, and a published network."""


def left(run: pathlib.Path, title: str, keep: float = 0.3) -> pathlib.Path:
    """The file of a network, in a folder `run` with its configuration."""
    c = config.from_dict({"data": {"limit": 64}, "train": {"batch_size": 64}, **CONFIGS[title]})
    run.mkdir()
    (run / "config.toml").write_text(config.to_toml(c), encoding="utf-8")
    found = architectures.load(c.architecture) if c.architecture else None
    s = compose.setting(c)
    params, statistics = made.sparse_values(compose.model(s, found, True, one_device), s.image_shape, keep, 0)
    masks = {path: leaf != 0 for path, leaf in flatten(params).items() if path.endswith("/weight")}
    v = {PARAMS: params, BATCH_STATS: statistics, MASKS: made.variables.unflatten(masks)}
    own = None if found is None else architectures.to_json(found)
    networks.save(run, Network(title, 0, own, v, 12.5))
    return networks.path(run, title, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("source")
    return {title: source.trained(left(folder / title, title)) for title in CONFIGS}


@pytest.mark.parametrize("title", CONFIGS)
def test_a_network_is_compacted_exactly(trained: dict[str, Trained], title: str, tmp_path: pathlib.Path) -> None:
    found = trained[title]
    assert found.network.result == 12.5 and found.keep == 0.01 and found.name.endswith(", seed 0")
    weights = [leaf for path, leaf in flatten(found.params).items() if path.endswith("/weight")]
    assert found.kept == sum(map(np.count_nonzero, weights)) < sum(leaf.size for leaf in weights)
    dense = source.graph_of(found)
    small = compact.compact(dense)
    outcomes = check.compare(found, {"compacted": files.compiled(xla.function(small))}, 70)
    check.demand_exact(outcomes["compacted"], "it", tmp_path)
    assert outcomes["compacted"].figures["accuracy"] == outcomes["masked"].figures["accuracy"]
    assert graph.size(small).macs <= graph.size(dense).macs


def test_a_network_that_nothing_was_cut_from_says_so(tmp_path: pathlib.Path) -> None:
    assert source.trained(left(tmp_path / "run", "architecture", 1.0)).keep is None


def dial() -> Task:
    """How far the first output is from the target, in ticks: nothing is predicted."""

    def sums(y: Any, t: Any, counted: Any) -> dict[str, Any]:
        return {"squares": ((y[:, 0] - t) ** 2 * counted).sum(), "seen": counted.sum()}

    return tasks.classification(10)._replace(
        name="dial",
        sums=sums,
        figures=lambda sums: {"miss": (sums["squares"] / sums["seen"]) ** 0.5},
        metrics=(Metric("miss", "ticks", higher_is_better=False),),
        predictions=None,
    )


def brightness(images: np.ndarray) -> np.ndarray:
    """Outputs that no network needs to be compiled for."""
    return images.mean((1, 2, 3))[:, None]


def test_a_network_is_measured_by_its_own_task(
    trained: dict[str, Trained], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained["architecture"]
    monkeypatch.setattr(check, "masked", lambda found: brightness)
    monkeypatch.setitem(
        tasks.TASKS, "classification", tasks.TASKS["classification"]._replace(make=lambda *given: dial())
    )
    outcomes = check.compare(found, {"same": brightness, "off": lambda x: brightness(x) + 1e-3}, 70)
    outputs = np.concatenate([brightness(images) for images, _ in check.batches(found, 70)])[:, 0]
    targets = np.concatenate([targets for _, targets in check.batches(found, 70)])
    wanted = np.sqrt(((outputs - targets) ** 2).mean())
    assert outcomes["masked"].figures == {"miss": pytest.approx(wanted, rel=1e-5)}
    assert outcomes["same"].changed is None and outcomes["same"].is_exact and not outcomes["off"].is_exact
    with pytest.raises(UserError, match=r"largest is [\d.]+; allowed: "):
        check.demand_exact(outcomes["off"], "off", tmp_path)
    nodes = [graph.Node(graph.Input((1, 8, 8)), (), (1, 8, 8))]
    dense = graph.Graph(tuple(nodes), graph.append(nodes, graph.Mean(), 0))._replace(nodes=tuple(nodes))
    said = summary.facts(found, dense, dense, {"same": 9}, {**outcomes, "compacted": outcomes["same"]})
    assert said["task"] == {
        **{"name": "dial", "metric": "miss", "unit": "ticks", "higher_is_better": False},
        "examples": found.setting.dataset.test.size,
    }
    same = said["files"]["same"]
    assert same["miss"] == outcomes["same"].figures["miss"] and same["changed"] is None
    assert "| miss [ticks] " in summary.table(said) and "predictions" not in summary.page(said)


AT = {"method": "dass", "chain": "training", "seeds": [0, 1], "phase": "scores", "epoch": 1, "built": {}}


@pytest.mark.parametrize(
    ("at", "method", "seed", "said"),
    [
        (
            {**AT, "chain": "search", "phase": "step2"},
            None,
            0,
            "is of a search, at step2; allowed: one of the training",
        ),
        ({**AT, "step": 3, "seconds": 1.0}, None, 0, "is in the middle of an epoch of scores; allowed: one after"),
        (AT, "darts", 0, "--method = 'darts' with checkpoint 4; allowed: dass"),
        (AT, None, None, "--seed = None with checkpoint 4; allowed: 0, 1"),
        (AT, None, 2, "--seed = 2 with checkpoint 4; allowed: 0, 1"),
    ],
)
def test_checkpoints_that_hold_no_network_are_refused(
    tmp_path: pathlib.Path, at: dict[str, Any], method: str | None, seed: int | None, said: str
) -> None:
    (tmp_path / "config.toml").write_text("seeds = 2\n", encoding="utf-8")
    with checkpoint.manager(tmp_path / "checkpoints", 3) as manager:
        checkpoint.save(manager, 4, {"state": np.zeros(1), "infos": []}, {"at": at, "current": {}})
        manager.wait_until_finished()
    with pytest.raises(UserError) as caught:
        source.trained(tmp_path / "checkpoints" / "4", method, seed)
    assert said in str(caught.value)


def test_a_network_that_a_graph_cannot_say_is_answered_in_one_line(
    trained: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any) -> graph.Graph:
        raise ValueError("it uses tan")

    monkeypatch.setattr(trace, "trace", refused)
    with pytest.raises(UserError, match="network 'resnet18' cannot be deployed: it uses tan; allowed: layers of"):
        source.graph_of(trained["resnet18"])
