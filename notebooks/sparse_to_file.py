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
# # From a sparse network to a small, fast file
#
# A pruned network is dense arrays with zeros in them: as large as before, and as slow. Here one is trained and
# pruned, then turned into files that are small and fast and say the same, and the last of them is run without JAX.

# %% tags=["parameters"]
# Where the package comes from, if it is not installed: a checkout, a wheel, an address (git+https://…) or its name in
# an index. In Colab a wheel can be put into /content by the folder icon on the left.
PACKAGE = ".."
# The words of `python -m dass_jax.train`: a cell of the paper, nothing is searched.
WORDS = ["--config", "digits_dass", "--architecture", "dass_99", "--space.nodes", "4", "--controls"]
FOLDER = "runs/sparse_to_file"
# Calls of each form that are timed; there are as many before that are not.
CALLS = 300

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
import json

from matplotlib.figure import Figure

from dass_jax import notebook, report
from dass_jax.deploy.__main__ import main as deploy
from dass_jax.latency.__main__ import main as latency

folder = pathlib.Path(FOLDER)
print("JAX computes on", notebook.start(folder / "compiled"))

# %% [markdown]
# ## A pruned network

# %%
results = notebook.run(WORDS, folder / "run")
print(report.table(results))

# %% [markdown]
# ## The files
# A channel that no live weight leads to, or from, is taken out (compaction). Then each format is written, loaded back
# and checked on the whole test set: the exact ones must say what the pruned network said, the rounded ones are
# measured.

# %%
files = folder / "files"
if files.exists():
    shutil.rmtree(files)
formats = ["--formats", "stablehlo", "packed", "onnx", "--values", "float32", "float16", "int8"]
_ = deploy([str(folder / "run"), "--out", str(files), *formats])

# %% [markdown]
# ## What compaction leaves
# Multiply-accumulates for one image: in the dense kernels of the pruned network as it was trained, in those of the
# compacted one, and of the weights that are not zero. The picture has a bar for each layer of the compacted network.

# %%
found = json.loads((files / "report.json").read_text())
for name in ("masked", "compacted"):
    size = found[name]
    print(
        f"{name:10} dense {size['macs'] / 1e6:.3f} M, of weights that are not zero {size['macs_nonzero'] / 1e6:.3f} M"
    )
layers = found["layers"]
figure = Figure(figsize=(12, 3), layout="constrained", facecolor="white")
axes = figure.subplots()
for name, label, colour in (
    ("weights", "compacted, dense", "#c9d6e8"),
    ("live", "not zero", "#0072B2"),
):
    axes.bar(range(len(layers)), [layer["pixels"] * layer[name] for layer in layers], color=colour, label=label)
axes.set(xlabel="layer, from the image to the classes", ylabel="multiply-accumulates")
axes.legend()
notebook.show(figure)

# %% [markdown]
# ## How fast they are
# One image at a time, the forms alternating. Dense kernels do not gain from zeros; the sparse form works through the
# live weights alone.

# %%
figures = folder / "latency.json"
figures.unlink(missing_ok=True)
calls = ["--warm-up", str(CALLS), "--repetitions", str(CALLS), "--no-memory"]
_ = latency([str(folder / "run"), *calls, "--out", str(figures)])

# %% [markdown]
# ## Without JAX
# ONNX Runtime reads the file anywhere. How a picture becomes the network's input, and what the classes are called, is
# in the file. What follows runs in an interpreter of its own, with NumPy and ONNX Runtime.

# %%
from sklearn.datasets import load_digits

digit = load_digits().images[7]
(folder / "digit.json").write_text(json.dumps((digit * 255 / 16).round().tolist()))
program = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
told = json.loads(session.get_modelmeta().custom_metadata_map["dass_jax"])
how = told["preparation"]
image = np.float32(json.load(open(sys.argv[2]))).reshape(how["shape"]) / 255
image = (image - np.float32(how["mean"])) / np.float32(how["std"])
(logits,) = session.run(["logits"], {"images": image.transpose(2, 0, 1)[None]})
print("class", told["classes"][logits[0].argmax()], "- JAX is loaded:", "jax" in sys.modules)
"""
arguments = [str(files / "network.onnx"), str(folder / "digit.json")]
said = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True).stdout
print(said)
