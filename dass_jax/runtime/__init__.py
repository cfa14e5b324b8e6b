"""What runs a method: devices, compiled epochs, checkpoints, the run folder, progress."""
