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
# # Every system on one small data set
#
# All search methods of the package on the handwritten digits, side by side: what each finds, how good the trained
# network is with the weights that are kept, what it costs. Each takes a few minutes on a CPU; strike out what you do
# not want.
#
# It is a demonstration, not a comparison of methods: their spaces, budgets and sizes differ, there is one seed, and
# one of the 360 test images is 0.28 points.

# %% tags=["parameters"]
# Where the package comes from, if it is not installed: a checkout, a wheel, an address (git+https://…) or its name in
# an index. In Colab a wheel can be put into /content by the folder icon on the left.
PACKAGE = ".."
FOLDER = "runs/systems"
# Name → the words of `python -m dass_jax.train`. A new system is a line here.
SYSTEMS = {
    "DASS, DARTS, random": ["--config", "digits_dass", "--controls", "darts", "random"],
    "DASS, unrolled": ["--config", "digits_dass_unrolled", "--controls"],
    "DASS, masks fixed": ["--config", "digits_dass", "--method", "dass_op", "--controls"],
    "DASS, one problem": ["--config", "digits_dass", "--method", "dass_joint", "--controls"],
    "SCAS on DARTS": ["--config", "digits_scas", "--controls"],
    "α-entmax": ["--config", "digits_entmax", "--controls"],
    "DSO-NAS": ["--config", "digits_dso", "--controls", "whole"],
    "DSO-NAS, mobile": ["--config", "digits_mobile", "--controls"],
    "ENAS, networks": ["--config", "digits_enas", "--controls", "shared_random"],
    "ENAS, cells": ["--config", "digits_enas_micro", "--controls"],
    "SCAS on ENAS": ["--config", "digits_enas", "--method", "scas_enas", "--controls"],
    "SMASH": ["--config", "digits_smash", "--controls"],
    "SCAS on SMASH": ["--config", "digits_smash", "--method", "scas_smash", "--controls"],
}

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
from IPython.display import HTML, Markdown, display

from dass_jax import config, notebook
from dass_jax.report.markup import rows_table

folder = pathlib.Path(FOLDER)
print("JAX computes on", notebook.start(folder / "compiled"))
places = {name: folder / name for name in SYSTEMS}

# %% [markdown]
# ## The runs
# What is finished is only read: the cell may be interrupted and started again.

# %%
results = {}
for name, words in SYSTEMS.items():
    display(Markdown(f"**{name}**"))
    results[name] = notebook.run(words, places[name])

# %% [markdown]
# ## One table
# Accuracy at the last evaluation, that is after pruning where a method or its training prunes; all weights that are
# kept; multiply-accumulates for one image of weights that are not zero; seconds of search and training, without
# compiling.

# %%
rows = []
for name, found in results.items():
    own = config.load(places[name] / "config.toml")
    for method, one in {found["method"]: found, **found["controls"]}.items():
        last = list(one["evaluations"].values())[-1]
        seconds = sum(value for clock, value in one["seconds"].items() if clock != "compile")
        cost = f"{one['parameters']['kept']:,}", f"{one['macs']['nonzero'] / 1e6:.3f}", f"{seconds:.1f}"
        rows.append((name, method, own.space.name, f"{last['accuracy']:.2f}", *cost))
rows.sort(key=lambda row: -float(row[3]))
header = (("system", ""), ("method", ""), ("space", ""), ("accuracy", "[%]"), ("weights", "kept"))
display(HTML(rows_table((*header, ("MACs", "non-zero [M]"), ("time", "[s]")), rows)))

# %% [markdown]
# ## What they found

# %%
for name, place in places.items():
    display(Markdown(f"**{name}**"))
    notebook.show(*notebook.drawings(place))
