"""Networks that are trained once the architecture is known."""
