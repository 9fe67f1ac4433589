"""The style that all pictures share. They are drawn without a display; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: first and second series or class: told apart by colour-blind readers too
BLUE, ORANGE, INK = "#2166ac", "#d6604d", "#333333"
#: in every figure of a report: the spaces, and the data that a curve is measured on
SPACES = {"target": BLUE, "weight": ORANGE}
SPLITS = {"training": "#9a9a9a", "validation": "#117733", "test": "#882255"}
#: further classes (Tol's muted scheme)
COLOURS = (BLUE, ORANGE, "#117733", "#ddaa33", "#882255", "#44aa99", "#aa4499", "#999933", "#332288", "#777777")
_COLUMNS = 2
_DPI: Mapping[str, int | str] = {".png": 110, ".svg": "figure"}
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def figure(
    file_stem: Path, title: str, widths: Sequence[float], height: float, endings: Sequence[str] = (".png", ".svg")
) -> Iterator[list[Any]]:
    """A figure of panels, written as ``<file_stem>.png`` and ``.svg`` when the block ends.

    Two panels are side by side, and further ones in rows below, so that all can be read at the width of a page.

    Args:
        file_stem: where the files go, without suffix.
        title: over all panels.
        widths: of each panel, in inches; of more than two, all are equal.
        height: of a row, in inches.
        endings: of the files.

    Yields:
        The panels' axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        rows, columns = math.ceil(len(widths) / _COLUMNS), widths[:_COLUMNS]
        drawn = Figure(figsize=(sum(columns), rows * height), layout="constrained")
        panels = drawn.subplots(rows, len(columns), width_ratios=columns, squeeze=False).ravel()
        for empty in panels[len(widths) :]:
            empty.remove()
        drawn.suptitle(title, fontsize=12, x=0.01, ha="left", color=INK)
        yield list(panels[: len(widths)])
        for ending in endings:
            drawn.savefig(file_stem.with_name(f"{file_stem.name}{ending}"), dpi=_DPI[ending])
            drawn.set_layout_engine("none")  # everything has its place now, in all files the same


def literal(text: str) -> str:
    """A text with dollar signs escaped, which matplotlib would read as formulas."""
    return text.replace("$", r"\$")


def plain(text: str, longest: int) -> str:
    """A name in one line, whose middle is left out if it is longer than ``longest`` characters."""
    text = " ".join(text.split())
    half = (longest - 1) // 2
    return literal(text if len(text) <= longest else f"{text[: longest - 1 - half]}…{text[-half:]}")
