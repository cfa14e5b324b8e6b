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
# # Bi-level optimisation without a network
#
# $$\min_u F(u, v^*(u)) \quad\text{such that}\quad v^*(u) = \arg\min_v f(u, v)$$
#
# In architecture search $u$ is the architecture and $v$ the weights. `dass_jax.bilevel` knows neither: it works on
# named collections and any losses. Here are three small problems, on which every estimator of the hypergradient
# $dF/du$ is compared with the exact one, by how wrong it is and how long it takes.

# %% tags=["parameters"]
# Where the package comes from, if it is not installed: a checkout, a wheel, an address (git+https://…) or its name in
# an index. In Colab a wheel can be put into /content by the folder icon on the left.
PACKAGE = ".."
# Terms, iterations and steps of the estimators that have some; turns of each search; calls that are timed.
KNOBS, TURNS, CALLS = (1, 3, 10, 30, 100), 300, 20

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
import functools
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from dass_jax import bilevel, notebook

jax.config.update("jax_enable_x64", True)  # errors far below what float32 can show
KEY = jax.random.key(0)

# %% [markdown]
# ## What a problem is
# Two losses, where $u$ begins, and what solves the lower level. The exact hypergradient comes from the implicit
# function theorem with the whole Hessian, which only small problems have:
#
# $$\frac{dF}{du} = \frac{\partial F}{\partial u} - \frac{\partial^2 f}{\partial u\,\partial v}
#   \Big(\frac{\partial^2 f}{\partial v^2}\Big)^{-1} \frac{\partial F}{\partial v}$$
#
# Where $v^*(u)$ has a closed form, this is checked against the derivative of $F(u, v^*(u))$ itself.


# %%
class Problem(NamedTuple):
    upper: Any  # F(u, v)
    lower: Any  # f(u, v)
    u: jax.Array
    solve: Any  # u → v*(u)
    rate: float  # of the lower level's gradient descent


def exact(p: Problem, u: jax.Array, v: jax.Array) -> jax.Array:
    hessian = jax.hessian(p.lower, 1)(u, v)
    mixed = jax.jacobian(jax.grad(p.lower, 1), 0)(u, v)
    return jax.grad(p.upper, 0)(u, v) - mixed.T @ jnp.linalg.solve(hessian, jax.grad(p.upper, 1)(u, v))


def levels(p: Problem) -> tuple[bilevel.Level, bilevel.Level]:
    def loss(function):
        return lambda variables, batch, key: (function(variables["u"], variables["v"]), ({}, {}))

    upper = bilevel.Level("u", loss(p.upper), optax.adam(0.1))
    return upper, bilevel.Level("v", loss(p.lower), optax.sgd(p.rate))


def estimators(rate: float) -> dict[str, dict[int, Any]]:
    """Name → knob → estimator."""
    series = {
        "unrolled": bilevel.unrolled,
        "neumann": functools.partial(bilevel.neumann, lr=rate),
        "conjugate_gradient": bilevel.conjugate_gradient,
    }
    alone = {"first_order": {0: bilevel.first_order()}, "finite_difference": {0: bilevel.finite_difference(1e-4)}}
    alone["amended"] = {0: bilevel.amended(rate)}
    return {**alone, **{name: {knob: make(knob) for knob in KNOBS} for name, make in series.items()}}


# %% [markdown]
# An estimator is a function of two levels and a point. All are asked at $v^*(u)$.


# %%
def compared(p: Problem) -> dict[str, list[tuple[int, float, float]]]:
    """Name → (knob, relative error, milliseconds)."""
    upper, lower = levels(p)
    v = p.solve(p.u)
    truth, found = exact(p, p.u, v), {}
    for name, own in estimators(p.rate).items():
        for knob, estimator in own.items():
            sample = bilevel.Sample(None, KEY)

            @jax.jit
            def estimate(u, v, estimator=estimator, sample=sample):
                point = bilevel.Point({"u": u, "v": v}, lower.transform.init(v), sample, sample, {})
                return estimator(upper, lower, point, lambda tree: tree)[0]

            error = jnp.linalg.norm(estimate(p.u, v) - truth) / jnp.linalg.norm(truth)
            seconds = []
            for _ in range(CALLS):
                began = time.perf_counter()
                jax.block_until_ready(estimate(p.u, v))
                seconds.append(time.perf_counter() - began)
            found.setdefault(name, []).append((knob, float(error), 1000 * statistics.median(seconds)))
    return found


def searched(p: Problem, estimator: Any, lower_steps: int = 20) -> jax.Array:
    """u after some turns: a step of u, then some of v."""
    upper, lower = levels(p)
    search = bilevel.alternate(upper, lower._replace(steps=lower_steps), estimator)
    batches = {"upper": None, "lower": None}

    def turn(state, key):
        return search.update(state, batches, key)[0], None

    start = search.init({"u": p.u, "v": p.solve(p.u)})
    return jax.jit(lambda s: jax.lax.scan(turn, s, jax.random.split(KEY, TURNS)))(start)[0].variables["u"]


# %% [markdown]
# ## 1. A penalty for each weight of a ridge regression
# Of ten features only the first three matter. The lower level is linear regression with a penalty of $2\\sigma(u_i)$
# on each weight, the upper one the error on other data. It should learn to let the first three be.

# %%
rng = np.random.default_rng(0)
truth = np.r_[rng.normal(size=3) + 2, np.zeros(7)]
x, x_valid = rng.normal(size=(30, 10)), rng.normal(size=(300, 10))
y, y_valid = (rows @ truth + rng.normal(size=len(rows)) for rows in (x, x_valid))


def ridge_solution(u):
    return jnp.linalg.solve(x.T @ x / 30 + jnp.diag(2 * jax.nn.sigmoid(u)), x.T @ y / 30)


ridge = Problem(
    upper=lambda u, v: ((x_valid @ v - y_valid) ** 2).mean(),
    lower=lambda u, v: ((x @ v - y) ** 2).mean() / 2 + (jax.nn.sigmoid(u) * v**2).sum(),
    u=jnp.full(10, -1.0),
    solve=ridge_solution,
    rate=0.2,
)
closed = jax.grad(lambda u: ridge.upper(u, ridge_solution(u)))(ridge.u)
np.testing.assert_allclose(exact(ridge, ridge.u, ridge_solution(ridge.u)), closed, rtol=1e-9)
penalties = 2 * jax.nn.sigmoid(searched(ridge, bilevel.conjugate_gradient(10)))
print("penalties", penalties.round(3))

# %% [markdown]
# ## 2. Which rows are wrong?
# A third of the training rows have the wrong sign. The upper level trusts each row by $\sigma(u_i)$, and knows only
# how good the fit is on clean data. First order stays where it began: $F$ does not mention $u$.

# %%
wrong = np.arange(60) < 20
rows, rows_valid = rng.normal(size=(60, 6)), rng.normal(size=(20, 6))
line = rng.normal(size=6)
values, values_valid = np.where(wrong, -1, 1) * (rows @ line), rows_valid @ line


def weighted_solution(u):
    weights = jax.nn.sigmoid(u)[:, None] * rows
    return jnp.linalg.solve(weights.T @ rows / 60 + 1e-3 * jnp.eye(6), weights.T @ values / 60)


reweighting = Problem(
    upper=lambda u, v: ((rows_valid @ v - values_valid) ** 2).mean(),
    lower=lambda u, v: (jax.nn.sigmoid(u) * (rows @ v - values) ** 2).mean() / 2 + 5e-4 * (v**2).sum(),
    u=jnp.zeros(60),
    solve=weighted_solution,
    rate=0.5,
)
closed = jax.grad(lambda u: reweighting.upper(u, weighted_solution(u)))(reweighting.u)
np.testing.assert_allclose(exact(reweighting, reweighting.u, weighted_solution(reweighting.u)), closed, rtol=1e-9)
trust = {
    name: jax.nn.sigmoid(searched(reweighting, estimator))
    for name, estimator in (("first order", bilevel.first_order()), ("implicit", bilevel.conjugate_gradient(10)))
}
for name, found in trust.items():
    print(f"{name}: trust in wrong rows {found[wrong].mean():.2f}, in right ones {found[~wrong].mean():.2f}")

# %% [markdown]
# ## 3. How much augmentation a small network needs
# Two rings of points. Those for training lie on one side, those for validation all over a half circle. The lower
# level trains a small network on points that are turned by $e^u$ times random angles, the upper level learns how far
# to turn them. There is no closed form: the lower level is solved by Newton's method.

# %%
rng = np.random.default_rng(0)
angles = rng.uniform(-1, 1, size=200) * np.pi / 2
radius = np.repeat([1.0, 2.0], 100) + 0.15 * rng.normal(size=200)
classes = np.repeat([0.0, 1.0], 100)
some = np.r_[0:20, 100:120]  # for training
others = np.setdiff1d(np.arange(200), some)
spread = rng.normal(size=(4, 40))  # each is seen turned by four angles


def points(angle, radius):
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], -1)


def network(v, x):
    hidden = jnp.tanh(x @ v[:16].reshape(2, 8) + v[16:24])
    return hidden @ v[24:32] + v[32]


def cross_entropy(v, x, labels):
    logits = network(v, x)
    return (jnp.logaddexp(0, logits) - labels * logits).mean()


def lower(u, v):
    turned = points(0.1 * angles[some] + jnp.exp(u) * spread, radius[some])
    return cross_entropy(v, turned, classes[some]) + 5e-3 * (v**2).sum()


@jax.jit
def newton(u):
    def step(v, _):
        gradient, hessian = jax.grad(lower, 1)(u, v), jax.hessian(lower, 1)(u, v)
        # Downhill in every direction of the Hessian, also where the loss is not convex.
        values, vectors = jnp.linalg.eigh(hessian)
        move = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), 1e-2))
        return v - move / jnp.maximum(1, jnp.linalg.norm(move)), None

    return jax.lax.scan(step, jnp.asarray(np.random.default_rng(1).normal(size=33)), length=200)[0]


augmentation = Problem(
    upper=lambda u, v: cross_entropy(v, points(angles[others], radius[others]), classes[others]),
    lower=lower,
    u=jnp.asarray([-1.0]),
    solve=newton,
    rate=0.5,
)
slope = jnp.linalg.norm(jax.grad(lower, 1)(augmentation.u, newton(augmentation.u)))
turned = float(jnp.exp(searched(augmentation, bilevel.conjugate_gradient(20, damping=0.01)))[0])
print(f"slope at Newton's solution {slope:.0e}; points are turned by {turned:.2f} instead of {np.exp(-1):.2f} radians")

# %% [markdown]
# ## Error and cost
# A line for each estimator, a point for each number of terms, iterations or steps. Cost is the time of one estimate
# on this machine: with problems this small most of it is the start of a program.
#
# First order is cheapest, and on these problems sees nothing at all: its relative error is 1. Conjugate gradient is
# exact after about as many iterations as the lower level has weights. The series and the unrolled steps are one and
# the same at $v^*(u)$, and need the more terms the flatter the lower loss is.

# %%
problems = {"ridge": ridge, "reweighting": reweighting, "augmentation": augmentation}
measured = {name: compared(p) for name, p in problems.items()}
figure = Figure(figsize=(13, 4.2), layout="constrained", facecolor="white")
axes_of = figure.subplots(1, 3, sharey=True)
for axes, (name, found) in zip(axes_of, measured.items(), strict=True):
    for estimator, marker in zip(found, "osv^Dx", strict=True):
        _, errors, milliseconds = zip(*found[estimator], strict=True)
        axes.loglog(milliseconds, np.maximum(errors, 1e-16), marker=marker, label=estimator)
    axes.set(title=name, xlabel="milliseconds")
    axes.grid(alpha=0.3)
axes_of[0].set_ylabel("relative error")
axes_of[0].legend(fontsize=8)
notebook.show(figure)
for name, found in measured.items():
    best = {estimator: min(error for _, error, _ in each) for estimator, each in found.items()}
    print(name, {estimator: f"{error:.1e}" for estimator, error in best.items()})
