"""Pictures of the recipes: one look for all, drawn without a display. matplotlib is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ts_lightning.recipes._history import History

#: first and second series, and the two classes of two_spirals: told apart by colour-blind readers too
BLUE, ORANGE, INK = "#2166ac", "#d6604d", "#333333"
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
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def figure(folder: Path, title: str, widths: list[float], height: float) -> Iterator[list[Any]]:
    """A figure with panels side by side, written as ``figure.png`` and ``figure.svg`` when the block ends.

    Args:
        folder: where the files go.
        title: over all panels.
        widths: of each panel, in inches.
        height: in inches.

    Yields:
        The panels' axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(sum(widths), height), layout="constrained")
        panels = drawn.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        drawn.suptitle(title, fontsize=12, x=0.01, ha="left", color=INK)
        yield list(panels)
        drawn.savefig(folder / "figure.png", dpi=110)
        drawn.savefig(folder / "figure.svg")


def curves(panel: Any, history: History, metric: str, title: str, *, batches: int = 1) -> None:
    """Draw a metric of training and of the test split against steps.

    Args:
        panel: the axes.
        history: the metrics.
        metric: ``accuracy`` or ``loss``.
        title: of the panel.
        batches: training values are means over this many batches, drawn at their middle.
    """
    training, test = history.points(f"train/{metric}"), history.points(f"test/{metric}")
    spans = [training[i : i + batches] for i in range(max(len(training) - batches, 0) + 1)] if training else []
    panel.plot(
        [sum(point.step for point in span) / len(span) for span in spans],
        [sum(point.value for point in span) / len(span) for span in spans],
        label="training" if batches == 1 else f"training (mean of {batches} batches)",
        color=ORANGE,
        linewidth=1.2,
    )
    panel.plot(
        [point.step for point in test],
        [point.value for point in test],
        label="test",
        color=BLUE,
        linewidth=1.8,
        marker="o" if len(test) <= 40 else None,
        markersize=3,
    )
    panel.set_title(title)
    panel.set_xlabel("steps")
    panel.set_xlim(left=0)
    panel.legend(loc="best")
