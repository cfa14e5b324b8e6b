"""Trainable distributions over architectures that are integers: drawn from, and scored, as pure functions."""

from dass_jax.policies.policy import Policy, Score

__all__ = ["Policy", "Score"]
