"""From architecture parameters to edge weights, outside any network: a space's `apply` receives the result."""

from dass_jax.relaxation.weights import entropy, init, softmax

__all__ = ["entropy", "init", "softmax"]
