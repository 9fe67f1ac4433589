"""The figures of docs/evidence.md: curves, the performance profile, the ablation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.summary import Reported, Summary
from benchmarks.peers.tables import PEER_NAMES, middle
from benchmarks.peers.target import ABLATIONS, ADAM, DEFAULTS, DESCENT, FAST, TUNED
from ts_lightning.callbacks.pictures.style import BLUE, COLOURS
from ts_lightning.report.drawing import figure

#: shades of target space, from dark to light
BLUES = ("#08306b", "#3399e6", BLUE, "#5b6fc4", "#85bfe5", "#0f7f9e", "#45c4d8")
# "auto" alone, which goes along with the defaults, is in the tables
_OWN: dict[str, dict[str, Any]] = {
    DEFAULTS.name: {"color": BLUES[0], "marker": "o", "linestyle": "-"},
    FAST.name: {"color": BLUES[1], "marker": "^", "linestyle": "-"},
    TUNED.name: {"color": BLUES[2], "marker": "s", "linestyle": "--"},
    ADAM.name: {"color": BLUES[3], "marker": "D", "linestyle": "-"},
    DESCENT.name: {"color": BLUES[4], "marker": "v", "linestyle": ":"},
}
_COMPARED = [*_OWN, *PEER_NAMES]
_LARGEST = 32.0  # factor of the profile
_MARGIN = 1.1  # factor beside what is seen of curves


def _style(name: str) -> dict[str, Any]:
    """Target space in shades of blue, wide and with markers; everyone else with a colour of their own."""
    if name in _OWN:
        apart = (0.03 * list(_OWN).index(name), 0.15)  # of the picture, so that markers do not cover each other
        return {**_OWN[name], "linewidth": 2.0, "markersize": 5, "markevery": apart, "zorder": 3}
    return {"color": colour(name), "linewidth": 1.4}


def colour(name: str) -> str:
    """That of a peer or an ablation."""
    return COLOURS[1 + [*PEER_NAMES, *(one.name for one in ABLATIONS)].index(name)]


@contextmanager
def png(
    stem: Path, title: str, panels: int, height: float, columns: int = 4, widths: Sequence[float] = ()
) -> Iterator[list[Any]]:
    """Panels two in a row, and the names of all that they show in so many columns above them."""
    with figure(stem, "", widths or [4.7] * panels, height) as drawn:
        yield drawn
        named = {label: line for panel in drawn for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        legend = {"title": title, "title_fontsize": 12, "alignment": "left", "ncols": columns, "fontsize": 9}
        legend["columnspacing"] = 1.2
        drawn[0].figure.legend(named.values(), named.keys(), loc="outside upper left", **legend)
    stem.with_name(f"{stem.name}.svg").unlink()


def curves(whole: Summary, names: Sequence[str], stem: Path, group: str) -> None:
    """The mean test metric of each workload of a group, against steps and against seconds."""
    with png(stem, group, 2 * len(names), 3.1) as panels:
        for row, name in enumerate(names):
            found = whole[name]
            for column, x in enumerate(("steps", "seconds")):
                _curves(panels[2 * row + column], found, x)


def _curves(panel: Any, found: dict[str, Reported], x: str) -> None:
    drawn: list[tuple[list[float], list[float]]] = []
    for name in _COMPARED:
        one = found[name]
        at, values = one.curve()
        scale = 1.0 if x == "steps" else math.nan if one.ms is None else one.ms / 1e3
        if at and math.isfinite(scale):
            drawn.append(([scale * step for step in at], [100 * v for v in values]))
            panel.plot(*drawn[-1], label=one.contender.label, **_style(name))
    workload = found[DEFAULTS.name].workload
    top = max((max(ys) for _, ys in drawn), default=100.0)
    low = 2 * 100 * workload.levels[0] - top
    panel.set_ylim(low, top + 0.04 * (top - low))
    logarithmic(panel, 1, 2, 5)
    if seen := [edge for xs, ys in drawn for edge in _seen(xs, ys, low)]:
        panel.set_xlim(min(seen) / _MARGIN, max(seen) * _MARGIN)
    panel.set_xlabel(x)
    if x == "steps":
        panel.set_ylabel("test, R² in %" if workload.regression else "test accuracy, %")
        panel.set_title(workload.title, fontsize=10)


def _seen(xs: Sequence[float], ys: Sequence[float], low: float) -> list[float]:
    """Where a line above the lower edge of a panel begins and ends; nothing if it stays below."""
    above = [place for place, y in enumerate(ys) if y >= low]
    if not above:
        return []
    first, last = above[0], min(above[-1] + 1, len(xs) - 1)
    if first == 0:
        return [xs[0], xs[last]]
    share = (low - ys[first - 1]) / (ys[first] - ys[first - 1])
    return [xs[first - 1] * (xs[first] / xs[first - 1]) ** share, xs[last]]


def logarithmic(panel: Any, *ticks: int) -> None:
    """A logarithmic horizontal axis with plain numbers, at these multiples of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=ticks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def profile(whole: Summary, stem: Path) -> None:
    """The share of workloads whose middle level a contender reaches within a factor of the fastest's time."""
    title = "Share of workloads whose middle level is reached within a factor of the fastest contender's"
    with png(stem, title, 2, 3.3) as panels:
        for panel, seconds in zip(panels, (False, True), strict=True):
            ratios = _ratios(whole, seconds=seconds)
            for name in _COMPARED:
                reached = sorted(r for r in ratios[name] if r <= _LARGEST)
                xs, ys = [1.0], [0.0]
                for ratio in reached:
                    xs += [ratio, ratio]
                    ys += [ys[-1], ys[-1] + 1 / max(len(whole), 1)]
                panel.plot([*xs, _LARGEST], [*ys, ys[-1]], label=CONTENDERS[name].label, **_style(name))
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.set_xlim(0.97, _LARGEST)
            panel.set_ylim(-0.02, 1.02)
            panel.set_xlabel(f"factor in {'seconds' if seconds else 'steps'}")
        panels[0].set_ylabel("share of workloads")


def _ratios(whole: Summary, *, seconds: bool) -> dict[str, list[float]]:
    """For each contender and workload its time to the middle level over the least; infinity for never."""
    found: dict[str, list[float]] = {name: [] for name in _COMPARED}
    for reported in whole.values():
        times = {name: middle(reported[name], seconds=seconds) for name in _COMPARED}
        least = min(times.values())
        for name, value in times.items():
            found[name].append(value / least if math.isfinite(value) else math.inf)
    return found


def ablation(whole: Summary, stem: Path) -> None:
    """The test metric at the end and steps to the middle level, with parts of target space taken away."""
    names = [ADAM.name, *(one.name for one in ABLATIONS), "foof", "adamw"]
    titles = [next(iter(found.values())).workload.title for found in whole.values()]
    with png(stem, "What each part of target space gives", 2, 0.56 * len(titles) + 1.6, 3, [5.8, 3.6]) as panels:
        for line, name in enumerate(names):
            shade = BLUE if name == ADAM.name else colour(name)
            for row, found in enumerate(whole.values()):
                place, steps = row + 0.17 * (line - (len(names) - 1) / 2), middle(found[name], seconds=False)
                style = {"color": shade, "s": 26, "label": "_" if row else CONTENDERS[name].label}
                panels[0].scatter([100 * found[name].mean], [place], **style)
                if math.isfinite(steps):
                    panels[1].scatter([steps], [place], **style)
                else:
                    _never(panels[1], place, shade)
        panels[0].set_yticks(range(len(titles)), titles, fontsize=8)
        panels[1].set_yticks(range(len(titles)), [""] * len(titles))
        for panel in panels:
            panel.set_ylim(len(titles) - 0.5, -0.5)
            panel.grid(visible=False, axis="y")
            for row in range(0, len(titles), 2):
                panel.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
        panels[0].set_xlabel("test metric at the end, %")
        logarithmic(panels[1], 1)
        panels[1].set_xlim(right=6 * panels[1].get_xlim()[1])
        panels[1].set_xlabel("steps to the middle level")


def _never(panel: Any, place: float, shade: str) -> None:
    """At the right edge, for a level that was not reached."""
    style = {"color": shade, "ha": "right", "va": "center_baseline", "fontsize": 7}
    panel.annotate("never", (0.99, place), xycoords=("axes fraction", "data"), **style)
