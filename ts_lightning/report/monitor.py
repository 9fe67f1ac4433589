"""Panels of what the monitor saw: every quantity over the steps, one line per layer, coloured by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ts_lightning.report.drawing import Picture, axes, markers
from ts_lightning.report.history import History, Point, means

#: in inches: three have room beside each other on a page
_SIZE = (3.9, 2.8)
#: of each layer, in the order of the panels
_QUANTITIES = {
    "residual": "relative residual",
    "condition": "condition number",
    "rank": "effective rank",
    "ridge": "ridge",
    "weight_norm": "norm of the weights",
    "target_norm": "norm of the targets",
    "weight_gradient_norm": "norm of the weights' gradient",
    "target_gradient_norm": "norm of the targets' gradient",
}
#: parts of a training step's time, and their colours
_SHARES = {"main": "#d9d9d9", "pullback": "#b7a6d6", "solve": "#6a51a3"}
_SHARE_LABELS = {"main": "forward and backward", "pullback": "pull-back", "solve": "solve"}


def panels(history: History) -> list[Picture]:
    """A panel for every quantity that was logged."""
    colours = dict(layers(history))
    drawn = []
    for quantity, title in _QUANTITIES.items():
        if lines := history.layers(quantity):
            drawn.append(Picture.drawn(title, _draw_layers, lines, colours, size=_SIZE))
    shares = history.layers("share")
    if set(shares) >= set(_SHARES):
        drawn.append(Picture.drawn("time of a step (rest: optimizer)", _draw_shares, shares, size=_SIZE))
    return drawn


def layers(history: History) -> list[tuple[str, str]]:
    """Every layer that the monitor saw, and its colour, from the first (blue) to the last (orange)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = list(dict.fromkeys(layer for quantity in _QUANTITIES for layer in history.layers(quantity)))
    colours = colormaps["plasma"]
    return [(name, to_hex(colours(0.75 * place / max(len(names) - 1, 1)))) for place, name in enumerate(names)]


def _draw_layers(panel: Any, lines: Mapping[str, Sequence[Point]], colours: Mapping[str, str]) -> None:
    for name, points in lines.items():
        groups = means(points)
        values = [fmean(point.value for point in group) for group in groups]
        panel.plot(
            [fmean(point.step for point in group) for group in groups],
            values,
            color=colours[name],
            linewidth=1.4 if len(lines) <= 8 else 1.0,
            **markers(values, few=2),
            markersize=4,
            clip_on=len(groups) > 2,
        )
    axes(panel, [point.value for points in lines.values() for point in points], log=True)


def _draw_shares(panel: Any, shares: Mapping[str, Sequence[Point]]) -> None:
    found = {name: {point.step: point for point in shares[name]} for name in _SHARES}
    common = sorted(set.intersection(*map(set, found.values())))
    groups = {name: means([points[step] for step in common]) for name, points in found.items()}
    steps = [fmean(point.step for point in group) for group in groups["main"]]
    areas = [[fmean(point.value for point in group) for group in groups[name]] for name in _SHARES]
    if len(steps) == 1:  # an area needs a width
        steps = [steps[0], steps[0] + 1]
        areas = [area * 2 for area in areas]
    panel.stackplot(steps, areas, colors=list(_SHARES.values()), labels=list(_SHARE_LABELS.values()), linewidth=0)
    axes(panel, [value for area in areas for value in area])
    panel.set_ylim(0, 1)
    panel.legend(loc="lower left", facecolor="white", frameon=True, framealpha=0.8, edgecolor="none")
