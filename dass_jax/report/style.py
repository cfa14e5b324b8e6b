"""The looks that all figures share. Figures are made without pyplot: there is no global figure to leak or to close."""

import io
from contextlib import AbstractContextManager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3B9FD0")
"""Colours of the methods, the main one first; they stay apart for colour-blind readers (Okabe and Ito)."""

INK = "#222222"


def colour(index: int) -> str:
    """The colour of method number `index`."""
    return COLOURS[index % len(COLOURS)]


def literal(text: str) -> str:
    """`text` as matplotlib shows it letter by letter: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def tidy(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, axis names and a light grid."""
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def settings() -> AbstractContextManager[None]:
    """Inside it figures are made and saved with the looks of the report, whatever the user's matplotlibrc says."""
    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",  # the font that matplotlib brings along: a figure is the same everywhere
            "svg.fonttype": "path",  # no font is needed to show it
            "svg.hashsalt": "dass",  # the same run gives the same bytes
            "path.simplify_threshold": 0.3,  # in pixels; keeps curves of 1,000 epochs small
        }
    )


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file; inside `settings()` the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
