"""How long a network takes for one image, in every form that `deploy` gives it; `python -m dass_jax.latency`.

`forms` writes and loads the forms, `clock` takes their times in turns, `peak` measures memory in a process of its own.
"""
