"""From a run folder, or one of its checkpoints, to a trained sparse network."""

import dataclasses
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from dass_jax import accounting, architectures, compose, results, sparsity, variables
from dass_jax.compose import Setting
from dass_jax.config import Config, load, title
from dass_jax.data import record
from dass_jax.data.record import Record
from dass_jax.deploy import rewrite, trace
from dass_jax.deploy.graph import Graph
from dass_jax.errors import UserError
from dass_jax.networks import Model
from dass_jax.nn.layers import one_device
from dass_jax.runner import TRAINING, template
from dass_jax.runtime import checkpoint, keeping, networks, parallel, seeds
from dass_jax.tasks import Pixels
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

ALLOWED = "the folder of a finished run, one of its files networks/*.npz, or one of its folders checkpoints/*"


class Trained(NamedTuple):
    """A network of a run, with what is needed to evaluate it."""

    setting: Setting
    """Of the network's own record, without any image; where it has none, as in old runs, of the data as they lie."""
    network: networks.Network
    after: str
    """Of a checkpoint, as "scores" or "epoch 3 of scores"; "": the network is at the end of its training."""
    net: Model
    """Without auxiliary head."""
    params: Any
    """Masks multiplied in; without the auxiliary head's."""
    run: pathlib.Path
    """The run's folder."""

    @property
    def record(self) -> Record | None:
        """What the network knows of its data; None: nothing."""
        return record_of(self.network.about, self.name)

    @property
    def task(self) -> dict[str, Any]:
        """As `results.task_of`, of the run's own test images."""
        own = results.task_of(self.setting)
        return own if self.record is None else {**own, "examples": self.record.fingerprint.test.number}

    @property
    def measured(self) -> dict[str, float] | None:
        """The task's figures on all test images, as the run measured them; None: it has not, or did not keep them."""
        return (self.network.about or {}).get("measured")

    @property
    def name(self) -> str:
        after = f" after {self.after}" if self.after else ""
        return f"{self.network.method}, seed {self.network.seed}{after}"

    @property
    def kept(self) -> int:
        """Weights that the masks keep, of the auxiliary head none."""
        return sum(accounting.kept_of_masks(self.network.variables[MASKS], self.params, self.net.rules).values())

    @property
    def keep(self) -> float | None:
        """The fraction of weights that was to be kept; None: nothing is pruned."""
        everything = accounting.kept_of_fraction(self.params, self.net.rules, 1.0)
        return self.setting.config.sparsity.keep if self.kept < sum(everything.values()) else None


def trained(place: pathlib.Path, method: str | None = None, seed: int | None = None) -> Trained:
    """The network that `place` holds.

    Args:
      method, seed: which of a run's networks; None: the main method's, and the only seed.

    Raises:
      UserError: if there is no such network.
    """
    place = pathlib.Path(os.path.abspath(place))  # whose parents are those of "." too
    if (place / "config.toml").is_file():
        config = _config(place)
        return _of_file(place, config, method or title(config), _seed(config, seed))
    if place.suffix == ".npz" and place.is_file() and (place.parents[1] / "config.toml").is_file():
        return _made(place.parents[1], _config(place.parents[1]), networks.load(place), "")
    if place.parent.name == "checkpoints" and place.name.isdigit() and (place.parents[1] / "config.toml").is_file():
        with checkpoint.reader(place.parent) as manager:
            found = checkpoint.at(manager, int(place.name))
        return _of_checkpoint(place.parents[1], found, method, seed, f"checkpoint {place.name}")
    if (place / "experiment.json").is_file():
        raise UserError(f"{str(place)!r} is an experiment with several runs; allowed: one of its runs' folders")
    what = "is no run folder" if place.exists() else "does not exist"
    raise UserError(f"{str(place)!r} {what}; allowed: {ALLOWED}")


def graph_of(found: Trained) -> Graph:
    """The masked network as a graph, dense, with BN folded.

    Raises:
      UserError: if it does something that a graph cannot say, as only a network of a plugin can.
    """
    forward = functools.partial(outputs, found)
    statistics = found.network.variables[BATCH_STATS]
    try:
        return rewrite.simplified(trace.trace(forward, found.params, statistics, found.setting.image_shape))
    except ValueError as error:
        raise UserError(
            f"network {found.setting.config.network.name!r} cannot be deployed: {error}; allowed: layers of "
            "dass_jax.nn with ReLU, sigmoid, sums, products, concatenations and means between them"
        ) from error


def outputs(found: Trained, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
    """The network's own definition in evaluation: images [C, H, W, N] → outputs [N, O] or [O, H, W, N]."""
    return found.net.apply(params, batch_stats, images, False)[0]


def _config(run: pathlib.Path) -> Config:
    """The run's configuration on one device of this machine, with float32 activations."""
    config = load(run / "config.toml")
    return dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, devices=1, precision="float32"))


def _seed(config: Config, seed: int | None) -> int:
    last = config.seed + config.seeds - 1
    if seed is None and config.seeds > 1:
        raise UserError(f"the run has the seeds {config.seed} to {last}; allowed: one of them as --seed")
    seed = config.seed if seed is None else seed
    if not config.seed <= seed <= last:
        raise UserError(f"--seed = {seed}; allowed: {config.seed}" + (f" to {last}" if config.seeds > 1 else ""))
    return seed


def record_of(about: Any, name: str) -> Record | None:
    """What a network's file or a checkpoint says of its data. Raises UserError if it is damaged."""
    known = about.get("data") if isinstance(about, dict) else None
    return None if known is None else record.from_json(known, f"what {name} says of its data")


def setting_of(config: Config, known: Record | None, seeds: tuple[int, ...]) -> Setting:
    """The setting of a record, without data; of an old run without one, of the data as they lie. Raises UserError."""
    if known is None:
        return compose.setting(config)._replace(seeds=seeds)
    found = Setting(config, compose.without_data(known), parallel.all_devices(config.runtime.devices), seeds)
    per_pixel = isinstance(found.task.outputs, Pixels)
    return found._replace(dataset=compose.without_data(known, masks=True)) if per_pixel else found


def _made(run: pathlib.Path, config: Config, network: networks.Network, after: str) -> Trained:
    known = record_of(network.about, f"{network.method}, seed {network.seed},")
    setting = setting_of(config, known, (network.seed,))
    found = None if network.architecture is None else architectures.from_json(network.architecture)
    net = compose.model(setting, found, auxiliary=False, average=one_device)
    own = variables.flatten(jax.eval_shape(lambda: net.init(jax.random.key(0), setting.image_shape))[PARAMS])
    masked = variables.flatten(sparsity.apply_masks(network.variables[PARAMS], network.variables[MASKS]))
    params = variables.unflatten({path: np.asarray(leaf) for path, leaf in masked.items() if path in own})
    return Trained(setting, network, after, net, params, run)


def _of_file(run: pathlib.Path, config: Config, method: str, seed: int) -> Trained:
    """From the file that a run leaves."""
    file = networks.path(run, method, seed)
    if file.is_file():
        return _made(run, config, networks.load(file), "")
    methods = (title(config), *config.controls)
    if method not in methods:
        raise UserError(f"--method = {method!r}; allowed: {', '.join(methods)}")
    state = "a finished" if (run / "results.json").is_file() else "an unfinished"
    raise UserError(
        f"{str(run)!r} is {state} run, without the network of {method}, seed {seed}; allowed: a finished run with its "
        "networks/ (the command that started it resumes it), or one of its folders checkpoints/*"
    )


def _of_checkpoint(
    run: pathlib.Path, found: checkpoint.Checkpoint, method: str | None, seed: int | None, name: str
) -> Trained:
    at, config = found.facts["at"], _config(run)
    if at["chain"] != TRAINING:
        raise UserError(f"{name} is of a search, at {at['phase']}; allowed: one of the training after it")
    if "step" in at:
        raise UserError(f"{name} is in the middle of an epoch of {at['phase']}; allowed: one after an epoch")
    if method not in (None, at["method"]):
        raise UserError(f"--method = {method!r} with {name}; allowed: {at['method']}")
    if seed is None and len(at["seeds"]) == 1:
        seed = int(at["seeds"][0])
    if seed is None or seed not in at["seeds"]:
        raise UserError(f"--seed = {seed} with {name}; allowed: {', '.join(map(str, at['seeds']))}")
    known = found.facts["current"][str(seed)]
    about = {"data": found.facts.get("data")}
    setting = setting_of(config, record_of(about, name), tuple(at["seeds"]))
    training = compose.training(setting, results.architecture_of(known))
    here = [phase.name for phase in training.phases].index(at["phase"])
    phase, over = training.phases[here], at["epoch"] == training.phases[here].epochs or at.get("stopped", False)
    if phase.network is None:
        raise UserError(f"{name} is of {phase.name}, which has no network to evaluate; allowed: one of another phase")
    leaves, _ = keeping.state_of(found)
    v = checkpoint.restore(template(setting, training.phases[: here + 1], at["built"]), leaves).variables
    own = seeds.members(v, len(at["seeds"]))[at["seeds"].index(seed)]
    architecture = None if known["architecture"] is None else known["architecture"]["architecture"]
    evaluated = known.get("evaluations", {}).get(training.evaluations.get(phase.name)) if over else None
    result = evaluated and evaluated[setting.task.metrics[0].name]
    v = jax.tree.map(np.asarray, jax.jit(phase.network)(own))
    network = networks.Network(
        at["method"], seed, architecture, v, result, {**about, "measured": evaluated} if about["data"] else None
    )
    last = phase.name if over else f"epoch {at['epoch']} of {phase.name}"
    return _made(run, config, network, "" if over and here == len(training.phases) - 1 else last)
