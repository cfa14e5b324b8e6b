"""The looks that all figures share. Figures are made without pyplot: there is no global figure to leak or to close."""

import functools
import io
import re
import zlib
from contextlib import AbstractContextManager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3B9FD0", "#444444", "#882255", "#CCBB44")
"""Colours of the methods, the main one first; they stay apart for colour-blind readers (Okabe and Ito; the last two:
Tol)."""

INK = "#222222"
FONT = "DejaVu Sans"
"""The font that matplotlib brings along: a figure is the same everywhere."""

_LABELS = (
    ("#A61E4D", "#FBE3EA"),
    ("#B35900", "#FFE9D1"),
    ("#666666", "#EEEEEE"),
    ("#0B7A75", "#D5F0EE"),
    ("#7A5195", "#EFE3F5"),
    ("#1F6FA8", "#DDEEF9"),
    ("#7A6A00", "#F5EFC6"),
    ("#1B7F4B", "#DCF3E6"),
)
_SALT = "5"  # of those tried the first that gives the families of common search spaces colours of their own


def colour(index: int) -> str:
    """The colour of method number `index`."""
    return COLOURS[index % len(COLOURS)]


def label_colours(text: str) -> tuple[str, str]:
    """Colours of a label's line and ground: the same for texts that are equal up to their first digit."""
    family = re.split(r"\d", text, maxsplit=1)[0].rstrip("_- ")
    return _LABELS[zlib.crc32((_SALT + family).encode()) % len(_LABELS)]


def literal(text: str) -> str:
    """`text` as matplotlib shows it letter by letter: a dollar sign would start a formula, and what cannot be printed
    has no place in an SVG file."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace("$", r"\$")


def formula(text: str) -> str:
    """`text` letter by letter, but with its letters of an index, c_k or c_{k-2}, as matplotlib sets formulas."""
    return re.sub(r"(?<![\w$\\])[A-Za-z]_(?:\{[A-Za-z0-9+\-, ]+\}|[A-Za-z0-9])(?!\w)", r"$\g<0>$", literal(text))


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Inches that matplotlib needs for `text` in letters of `size` points."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=FONT, weight="bold" if bold else None))
    return float(path.get_extents().width) / 72 if len(path.vertices) else 0.0


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
            "font.family": FONT,
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
