"""Differentiable architecture search for sparse neural networks (DASS, arXiv 2207.06968) in JAX and Flax."""

__version__ = "0.2.0"
