"""The packages, among them configs/ as `dass_jax.configs` (setup.cfg says the rest)."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["dass_jax*"]),
        "dass_jax.configs",
        "dass_jax.configs.experiments",
        "dass_jax.configs.sparsebench",
    ]
)
