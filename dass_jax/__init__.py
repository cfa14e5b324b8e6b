"""Differentiable architecture search for sparse neural networks (DASS, arXiv 2207.06968) in JAX and Flax."""

import sys

__version__ = "0.2.0"

if sys.argv[:1] == ["-m"]:  # so it is while `python -m` imports the package of a command, before what that needs
    from dass_jax import environment
    from dass_jax.errors import guarded

    if code := guarded(environment.check):
        sys.exit(code)
