"""From architecture parameters to edge weights, outside any network: a space's `apply` receives the result."""

from dass_jax.relaxation.entmax import entmax, support
from dass_jax.relaxation.weights import entmax_weights, entropy, init, sigmoid, softmax

__all__ = ["entmax", "entmax_weights", "entropy", "init", "sigmoid", "softmax", "support"]
