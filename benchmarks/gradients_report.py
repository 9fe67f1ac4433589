"""The table of docs/claims.md and docs/evidence/gradients.png, from what ``benchmarks/gradients.py`` measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gradients import NETWORKS, SPACES, Line
from benchmarks.pages import fill, markdown

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "evidence" / "gradients"
PAGE = ROOT / "docs" / "claims.md"


DEEPEST = ("tanh-100", "relu-100", "rnn-196")


def write(lines: Sequence[Line], page: Path = PAGE, stem: Path = FIGURE, profiles: Sequence[str] = DEEPEST) -> None:
    """Draw, with the profiles of these networks, and fill the page."""
    draw(lines, stem, profiles)
    fill(page, {"gradients": rows(lines)})


def tail(values: Sequence[float]) -> float:
    """The largest over the median; infinity where a value is not finite."""
    return max(values) / statistics.median(values) if all(map(math.isfinite, values)) else math.inf


def rows(lines: Sequence[Line]) -> str:
    """The table, for each network and space the start and what is there after training; medians over seeds."""

    def shown(some: Sequence[Line], value: Callable[[Line], float]) -> str:
        stages = sorted({line["step"] for line in some})
        return "\u00a0→\u00a0".join(
            _short(statistics.median(value(li) for li in some if li["step"] == s)) for s in stages
        )

    columns: dict[str, Callable[[Line], float]] = {
        "layers, largest / smallest": lambda line: max(line["layers"]) / max(min(line["layers"]), 1e-30),
        "relative gradient": lambda line: statistics.median(line["batches"]),
        "random changes, largest / median": lambda line: tail(line["changes"]),
        "mini-batches, largest / median": lambda line: tail(line["batches"]),
        "input, first step / last": lambda line: (
            line["inputs"][0] / max(line["inputs"][-1], 1e-30) if "inputs" in line else math.nan
        ),
        "loss": lambda line: line["loss"],
    }
    found = []
    for name, network in NETWORKS.items():
        for space, label in SPACES.items():
            some = [line for line in lines if line["network"] == name and line["space"] == space]
            if some:
                cells = ["" if (cell := shown(some, value)).startswith("nan") else cell for value in columns.values()]
                found.append([network.title if space == "usual" else "", label, *cells])
    return markdown(["network", "space", *columns], found)


def _short(value: float) -> str:
    """Two digits, without an exponent where the number is not small."""
    return f"{value:.1g}" if 0 < value < 1e-3 else f"{float(f'{value:.2g}'):,.10g}"


_STYLES = {"usual": ("weight", "--"), "good": ("weight", "-"), "target": ("target", "-")}


def draw(lines: Sequence[Line], stem: Path, names: Sequence[str]) -> None:
    """Profiles over layers and over steps of some networks, and the tails of all."""
    from ts_lightning.report.drawing import SPACES as COLOURS
    from ts_lightning.report.drawing import figure

    stages = sorted({line["step"] for line in lines})
    when = {stage: "at the start" if stage == 0 else f"after {stage} steps" for stage in stages}
    stem.parent.mkdir(exist_ok=True)
    title = "Gradients in both spaces; a line or dot for each seed"
    with figure(stem, title, [4.7] * 2 * (len(names) + 1), 3.0) as panels:
        for row, name in enumerate(names):
            key = "inputs" if NETWORKS[name].steps is not None else "layers"
            for panel, stage in zip(panels[2 * row : 2 * row + 2], stages, strict=True):
                some = [line for line in lines if line["network"] == name and line["step"] == stage]
                for space, (colour, dashes) in _STYLES.items():
                    drawn = [(key, dashes, SPACES[space] + (" (targets)" if space == "target" else ""))]
                    if space == "target" and key == "layers":
                        drawn.append(("solved", ":", "target (solved weights)"))
                    for what, dash, label in drawn:
                        for line in (line for line in some if line["space"] == space):
                            values = [value or math.nan for value in line[what]]  # 0 where the gradient underflows
                            style = {"color": COLOURS[colour], "linestyle": dash, "linewidth": 1.2, "alpha": 0.85}
                            panel.plot(range(1, len(values) + 1), values, label=label, **style)
                            label = "_"
                panel.set_yscale("log")
                panel.set_title(f"{NETWORKS[name].title}, {when[stage]}", fontsize=10)
                panel.set_xlabel("step of the input" if key == "inputs" else "layer")
            left, right = panels[2 * row : 2 * row + 2]
            left.set_ylabel("|gradient of a step's input|" if key == "inputs" else "|g| |p| / loss")
            limits = [*left.get_ylim(), *right.get_ylim()]
            for panel in (left, right):
                panel.set_ylim(min(limits), max(limits))
        for panel, stage in zip(panels[-2:], stages, strict=True):
            _tails(panel, [line for line in lines if line["step"] == stage], COLOURS)
            panel.set_title(f"random changes by a tenth, {when[stage]}", fontsize=10)
        panels[-2].set_ylabel("gradient, largest / median")
        handles, labels = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    stem.with_name(f"{stem.name}.svg").unlink()


def _tails(panel: Any, lines: Sequence[Line], colours: dict[str, str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    names = [name for name in NETWORKS if any(line["network"] == name for line in lines)]
    for shift, (space, (colour, dashes)) in zip((-0.2, 0.0, 0.2), _STYLES.items(), strict=True):
        some = [line for line in lines if line["space"] == space]
        face = "none" if dashes == "--" else colours[colour]
        places = [names.index(line["network"]) + shift for line in some]
        style = {"s": 22, "facecolors": face, "edgecolors": colours[colour]}
        panel.scatter(places, [tail(line["changes"]) for line in some], **style)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
