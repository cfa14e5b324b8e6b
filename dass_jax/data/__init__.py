"""Images: reading them (`arrays`, NumPy on the host) and augmenting them (`augment`, JAX on the device)."""
