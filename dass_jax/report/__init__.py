"""Tables and figures from a run folder alone: no JAX, no network, one self-contained HTML file.

`build` writes the report, `table` is the final table as plain text, `cell_figure` draws one cell.
"""

from dass_jax.report.cells import cell_figure
from dass_jax.report.page import build
from dass_jax.report.results import table

__all__ = ["build", "cell_figure", "table"]
