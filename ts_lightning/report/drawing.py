"""Figures of runs, in files of any name and as pictures within a page; axes that suit what is drawn."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ts_lightning.callbacks.pictures.style import SPACES, SPLITS, figure, literal

__all__ = ["SPACES", "SPLITS", "Picture", "axes", "figure", "literal"]
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """A picture within a page.

    Attributes:
        title: what it shows.
        address: its content, as an address of scheme ``data``, so that a page needs no other file.
    """

    title: str
    address: str

    @classmethod
    def read(cls, title: str, file: Path) -> Picture:
        """The picture in a PNG or SVG file."""
        content = base64.b64encode(file.read_bytes()).decode()
        return cls(title, f"data:{_TYPES[file.suffix]};base64,{content}")

    @classmethod
    def drawn(
        cls, title: str, draw: Callable[..., None], *arguments: Any, size: tuple[float, float] = (5.0, 3.3)
    ) -> Picture:
        """A panel of its own, as SVG.

        Args:
            title: what it shows; it is not in the picture.
            draw: is called with the panel's axes and the arguments.
            arguments: what to draw.
            size: width and height in inches.
        """
        with TemporaryDirectory() as place:
            with figure(Path(place) / "panel", "", size[:1], size[1], [".svg"]) as [panel]:
                draw(panel, *arguments)
            return cls.read(title, Path(place) / "panel.svg")


def markers(values: Sequence[float], few: int) -> dict[str, Any]:
    """The markers of a line: on all of a few values, else on those that no line reaches, between NaN or infinite ones.

    Args:
        values: along the line.
        few: so many values, or fewer, have a marker each.
    """
    if len(values) <= few:
        return {"marker": "o"}
    finite = [False, *map(math.isfinite, values), False]
    alone = [place for place in range(len(values)) if finite[place : place + 3] == [False, True, False]]
    return {"marker": "o", "markevery": alone} if alone else {}


def axes(panel: Any, values: Iterable[float], *, x: str = "steps", log: bool = False) -> None:
    """Finish a panel: what its horizontal axis shows, from 0 on, and a vertical axis that suits the values.

    Args:
        panel: the axes.
        values: all that is drawn.
        x: the horizontal axis.
        log: take a logarithmic axis where the values are positive and span more than a factor of ten.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    panel.set_xlabel(x)
    panel.set_xlim(left=0)
    if panel.dataLim.xmax == panel.dataLim.xmin == 0:  # the first step alone
        panel.set_xlim(right=1)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=x == "steps"))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.10g}"))
    finite = [value for value in values if math.isfinite(value)]
    if log and finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(finite) < 100 * min(finite) else (1,)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda place, _: _short(place)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    elif all(value == int(value) for value in finite):
        panel.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    elif finite and max(finite) - min(finite) < 1e-6 * abs(finite[0]):  # one value, but for rounding
        panel.set_ylim(sorted((0.9 * finite[0], 1.1 * finite[0])))


def _short(place: float) -> str:
    """A power of ten and what is between, without the padding of exponents."""
    return f"{place:g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
