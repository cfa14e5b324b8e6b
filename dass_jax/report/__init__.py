"""Tables and figures from a run folder alone: no JAX, no network, one self-contained HTML file.

It draws what a run declares in its own files and knows no space, method, phase, metric or task. `build` writes the
report, `table` is the final table as plain text, `graph_figure` draws the graph of one part of an architecture.
"""

from dass_jax.report.graphs import graph_figure
from dass_jax.report.page import build
from dass_jax.report.tables import table

__all__ = ["build", "graph_figure", "table"]
