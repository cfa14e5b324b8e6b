"""Images: where they come from (`load` chooses a form), reading them on the host (`pictures`, `stream`, NumPy and
Pillow) and augmenting them (`augment` and `colour`, JAX on the device)."""
