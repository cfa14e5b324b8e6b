"""Layers of the networks. Activations are [C, H, W, N]: channels first, batch last, with leading axes where several
operations run side by side."""
