"""Many runs from one file: `python -m dass_jax.experiment FILE` carries out what it says, one run after another."""
