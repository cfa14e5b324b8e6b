# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A space and a method of your own
#
# A run is a list of phases, and a phase is declared data. So a new system is one file on each axis that it needs and
# one line in that axis' table; nothing else of the package changes. This page adds a search space and a search
# method, runs them, and gets their report, curves and pruned network like those of any other.
#
# Put the same definitions into a file, and `plugins = ["mine.py"]` in a configuration adds them to every command.

# %% tags=["parameters"]
# Where the package comes from, if it is not installed: a checkout, a wheel, an address (git+https://…) or its name in
# an index. In Colab a wheel can be put into /content by the folder icon on the left.
PACKAGE = ".."
# Sizes of the run below.
FOLDER, LIMIT, LAYERS, CHANNELS, EPOCHS = "runs/your_own_space", 0, 4, 8, 10

# %% tags=["install"]
import importlib.util
import pathlib
import shutil
import subprocess
import sys

if importlib.util.find_spec("dass_jax") is None:
    extras = "[data,onnx,sparse]"
    wanted = [f"dass_jax{extras} @ {PACKAGE}" if "://" in PACKAGE else PACKAGE + extras]
    if any(pathlib.Path("/dev").glob("accel*")) or any(pathlib.Path("/dev").glob("vfio/[0-9]*")):
        wanted.append("jax[tpu]")
    elif shutil.which("nvidia-smi"):
        wanted.append("jax[cuda13]")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dass_jax import architectures, bilevel, methods, networks, notebook, relaxation, report, spaces
from dass_jax.architectures import Edge, Family, Graph
from dass_jax.errors import UserError
from dass_jax.methods import darts, relaxed
from dass_jax.networks.model import of_module
from dass_jax.nn import heads, kernels, layers
from dass_jax.phases import Phase, Search
from dass_jax.schema import Count, Rate

folder = pathlib.Path(FOLDER)
print("JAX computes on", notebook.start(folder / "compiled"))

# %% [markdown]
# ## 1. An architecture is plain data
# Ours is a chain: one of four operations in each layer. A `Family` reads and writes it, and says what is drawn.


# %%
OPERATIONS = ("conv_1x1", "conv_3x3", "max_pool", "skip")


class Chain(NamedTuple):
    operations: tuple[str, ...]


def from_json(data: Any, origin: str) -> Chain:
    found = data.get("operations")
    if not isinstance(found, list) or not set(found) <= set(OPERATIONS):
        raise UserError(f"{origin}: operations = {found!r}; allowed: a list of {', '.join(OPERATIONS)}")
    return Chain(tuple(found))


def graphs(a: Chain) -> tuple[Graph, ...]:
    nodes = ("image", *(f"map {n}" for n in range(len(a.operations))))
    return (Graph("chain", nodes, tuple(map(Edge, nodes, nodes[1:], a.operations))),)


architectures.FAMILIES["chain"] = Family(
    "chain", Chain, lambda a: {"operations": list(a.operations)}, from_json, graphs
)

# %% [markdown]
# ## 2. The space, and the network of one of its architectures
# Both are one flax module. It takes activations [C, H, W, N], channels first and the batch last, and a weight for
# each operation of each layer; where a weight is `None` the operation is not part of the program. Layers own their
# weights as `nn.layers` has them: then they can be pruned, counted and deployed.


# %%
class Chained(nn.Module):
    outputs: Any
    channels: int
    average: Any  # of statistics over the devices that share a batch
    train: bool

    @nn.compact
    def __call__(self, images, rows):
        norm = layers.batch_norm(self.train, affine=False, average=self.average)
        last = layers.batch_norm(self.train, affine=True, average=self.average)
        x = layers.ConvNorm(self.channels, last, 3, name="stem")(images)
        for n, row in enumerate(rows):
            y = 0
            for operation, weight in zip(OPERATIONS, row, strict=True):
                if weight is not None:
                    y += weight * self.layer(f"layer_{n}_{operation}", operation, norm, kernels.relu(x))
            x = y
        return heads.head(self.outputs, last, images.shape[1:3])(x)

    def layer(self, name, operation, norm, x):
        if operation == "skip":
            return x
        if operation == "max_pool":
            return kernels.max_pool(x)
        return layers.ConvNorm(self.channels, norm, int(operation[-1]), name=name)(x)


class Supernet(nn.Module):
    outputs: Any
    channels: int
    average: Any

    @nn.compact
    def __call__(self, images, choice, train):
        return Chained(self.outputs, self.channels, self.average, train, name="chain")(images, choice["chain"])


class Network(nn.Module):
    outputs: Any
    channels: int
    average: Any
    architecture: Chain

    @nn.compact
    def __call__(self, images, train, path_scale=None):
        rows = [[1.0 if operation == own else None for operation in OPERATIONS] for own in self.architecture.operations]
        return Chained(self.outputs, self.channels, self.average, train, name="chain")(images, rows), None


# %% [markdown]
# Around it the functions that every space offers. `encode` and `decode` lead from an architecture to the weights of
# the operations and back; the labels are what reports show.


# %%
@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a configuration may say of this space, and of its networks."""

    layers: Count = 4
    channels: Count = 8


RULES = ((r".*/weight", 0), (r".*/(scale|bias)", None))  # what may be pruned


def space(c: Sizes, outputs: Any, average: Any = layers.one_device, dtype: Any = None) -> spaces.Space:
    rows = tuple(f"layer {n}" for n in range(c.layers))
    choices = {"chain": spaces.Choice("the chain", rows, OPERATIONS)}
    init, apply = spaces.space.of_module(Supernet(outputs, c.channels, average), choices, RULES)

    def encode(a: Chain) -> dict[str, np.ndarray]:
        return {"chain": np.eye(len(OPERATIONS), dtype=np.float32)[[OPERATIONS.index(own) for own in a.operations]]}

    def decode(choice: Any) -> Chain:
        return Chain(tuple(OPERATIONS[column] for column in np.asarray(choice["chain"]).argmax(1)))

    return spaces.Space(
        init=init,
        apply=apply,
        encode=encode,
        decode=decode,
        settle=decode,
        sample=lambda generator: Chain(tuple(generator.choice(OPERATIONS, c.layers).tolist())),
        choices=choices,
        rules=RULES,
    )


def network(a: Chain, c: Sizes, outputs: Any, auxiliary: bool, average: Any, dtype: Any) -> networks.Model:
    return of_module(Network(outputs, c.channels, average, a), ())


spaces.SPACES["chain"] = spaces.Entry(Sizes, space)
networks.NETWORKS["chain"] = networks.Entry(Sizes, network)

# %% [markdown]
# ## 3. The strongest test there is
# The supernet with `encode(a)` computes what the network of `a` computes on the weights that both have, for random
# `a`.

# %%
sizes, average = Sizes(LAYERS, CHANNELS), layers.one_device
supernet = space(sizes, 10)
v = supernet.init(jax.random.key(0), (8, 8, 1))
images = jax.random.normal(jax.random.key(1), (1, 8, 8, 16))
for seed in range(3):
    a = supernet.sample(np.random.default_rng(seed))
    small = network(a, sizes, 10, False, average, None)
    own = small.init(jax.random.key(0), (8, 8, 1))
    shared = {
        kind: {"chain": {name: v[kind]["chain"][name] for name in own[kind]["chain"]}}
        for kind in ("params", "batch_stats")
    }
    wanted, *_ = small.apply(shared["params"], shared["batch_stats"], images, True)
    found, _ = supernet.apply(v["params"], v["batch_stats"], supernet.encode(a), images, True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert supernet.decode(supernet.encode(a)) == a
    print("equal for", ", ".join(a.operations))

# %% [markdown]
# ## 4. A method
# DARTS' search, but with a softmax whose temperature falls: at the end it all but chooses. The temperature is a rate,
# a function of progress: numbers that change are data of a step, so one compiled program serves the whole phase.
#
# A method is a table of fields and a function from these to phases. It knows the space as functions only, and so
# works in every relaxed space, also in those of the package.


# %%
@dataclasses.dataclass(frozen=True)
class Tempered(relaxed.Bilevel):
    """DARTS with a softmax that becomes sharper."""

    last_temperature: Rate = 0.05
    """The softmax's at the end of the search; it falls from 1."""


def tempered(c: Tempered, problem: methods.Problem) -> Search:
    own = problem.space()

    def choice(v: Any) -> dict[str, jax.Array]:
        return relaxation.softmax(jax.tree.map(lambda x: x / v["rates"]["temperature"], v["alpha"]))

    def plain(v: Any) -> dict[str, jax.Array]:
        return relaxation.softmax(v["alpha"])

    loss = relaxed.supernet_loss(own.apply, problem.task, choice, relaxed.dense_weights)
    algorithm = darts.step("params", bilevel.accumulated(loss, c.accumulate), c, problem)
    learning_rates = relaxed.rates(c, c.epochs, lower=c.theta_lr)
    phase = Phase(
        name="tempered",
        title="A search that becomes sharper",
        epochs=c.epochs,
        algorithm=algorithm,
        begin=lambda key, _: algorithm.init(relaxed.fresh(problem, own, key)),
        feeds=relaxed.feeds(c, "lower"),
        rates=lambda progress: {**learning_rates(progress), "temperature": c.last_temperature**progress},
        curves=relaxed.bilevel_curves(own, problem.task),
        matrices=relaxed.matrices(own),
        observe=relaxed.observing(own, plain, own.decode),
    )
    return Search((phase,), lambda v, seed: own.decode(plain(v)))


methods.METHODS["tempered"] = methods.Entry("a sharper search", Tempered, tempered, lambda c: c.epochs)

# %% [markdown]
# ## 5. A run
# A configuration names both like any other. Here it is a file; its space, method and network are the tables above.

# %%
folder.mkdir(parents=True, exist_ok=True)
(folder / "mine.toml").write_text(f"""
controls = ["random"]
data = {{ source = "digits", limit = {LIMIT}, crop_padding = 0, flip = false }}
space = {{ name = "chain", layers = {LAYERS}, channels = {CHANNELS} }}
sparsity = {{ keep = 0.2 }}
network = {{ layers = {LAYERS}, channels = {CHANNELS} }}
[method]
name = "tempered"
epochs = {EPOCHS}
batch_size = 32
alpha_lr = 0.01
[train]
batch_size = 32
pretrain_epochs = {EPOCHS}
score_epochs = {EPOCHS}
finetune_epochs = {EPOCHS}
""")
results = notebook.run(["--config", str(folder / "mine.toml")], folder / "run")

# %%
notebook.show(*notebook.drawings(folder / "run"))
print(report.table(results))
