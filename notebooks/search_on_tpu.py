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
# # Search for a sparse network, on a TPU
#
# DASS looks for a cell that is still good when most of its weights are gone. This notebook searches one, trains and
# prunes its network, and shows each of these while it happens. It runs on a TPU, on a GPU and on a CPU: in Colab
# choose *Runtime → Change runtime type* first. Every step is shared out over all devices that are found.
#
# With the settings below, the digits, it ends within minutes. Interrupt it, close the page, let Colab disconnect: run
# all cells again, and it resumes where it was.

# %% tags=["parameters"]
# Where the package comes from, if it is not installed: a checkout, a wheel, an address (git+https://…) or its name in
# an index. In Colab a wheel can be put into /content by the folder icon on the left.
PACKAGE = ".."
# The words of `python -m dass_jax.train`. For CIFAR-10 at the paper's size, hours on an accelerator:
# WORDS = ["--config", "cifar10_dass_small", "--data.source", "tfds:cifar10", "--runtime.precision", "bfloat16"]
WORDS = ["--config", "digits_dass", "--controls"]
# The run and the compiled programs are kept here. What is on Drive is still there after Colab has disconnected.
DRIVE, FOLDER = "/content/drive", "runs/notebook"

# %% [markdown]
# ## The package
# JAX comes with Colab. If it has to be another version, the one for the accelerator is installed.

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

# %% [markdown]
# ## Where things are kept, and on what JAX computes
# Compiled programs are kept too: the first run compiles for a minute or more, a second one takes them from the
# folder.

# %%
from dass_jax import notebook, report

folder = pathlib.Path(FOLDER)
if "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount(DRIVE)
    folder = pathlib.Path(DRIVE, "MyDrive", FOLDER)
print("JAX computes on", notebook.start(folder / "compiled"))
print("kept in", folder)

# %% [markdown]
# ## Data
# The digits come along. What tensorflow-datasets has is prepared once, into `~/tensorflow_datasets`; in Colab that
# takes TensorFlow, which is there.

# %%
source = next((WORDS[n + 1] for n, word in enumerate(WORDS) if word == "--data.source"), "")
if source.startswith("tfds:"):
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(source.removeprefix("tfds:"), file_format="array_record")
    builder.download_and_prepare()

# %% [markdown]
# ## The run
# *Step 1* searches with all weights, *step 2* with pruned ones. Then the network of the found cell is trained, its
# pruning is learned, and the weights that are left are trained once more.
#
# The same cell once more, now or tomorrow in another session, resumes after the last epoch that was finished. A run
# that is finished is only read.

# %%
results = notebook.run(WORDS, folder / "run")

# %% [markdown]
# ## What was found

# %%
notebook.show(*notebook.drawings(folder / "run"))

# %% [markdown]
# The table compares the network with all of its weights and with those that are kept. `report.html` in the folder has
# the curves, the weights of all operations over time and what each layer kept.

# %%
print(report.table(results))
print(folder / "run" / "report.html")
