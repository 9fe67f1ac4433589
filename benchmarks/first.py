"""README.md's picture: target space and the strongest peers to the end of training, in two networks.

``python -m benchmarks.evidence`` draws it, from the results of ``benchmarks/peers`` and ``images.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.peers.figures import BLUES, colour, png
from benchmarks.peers.summary import Summary
from benchmarks.peers.target import DEFAULTS
from ts_lightning.callbacks.pictures.style import BLUE

WORKLOAD = "tanh-30"
PEERS = {"soap": "SOAP", "muon": "Muon", "adamw": "AdamW"}
_TARGET: dict[str, Any] = {"label": "target space", "color": BLUE, "linewidth": 2.6, "zorder": 3}
_HANDED: dict[str, Any] = {"label": "target space for 200 steps, then Muon", "color": BLUES[4], "linewidth": 2.6}

#: steps, seconds and test accuracy in per cent, and how they are drawn
Drawn = tuple[Sequence[float], Sequence[float], Sequence[float], dict[str, Any]]


def _peer(name: str) -> dict[str, Any]:
    return {"label": PEERS[name], "color": colour(name), "linewidth": 1.6}


def _deep(whole: Summary) -> Iterator[Drawn]:
    """The dense network of 30 layers."""
    for name in (DEFAULTS.name, *PEERS):
        one = whole[WORKLOAD][name]
        at, values = one.curve()
        seconds = [step * (one.ms or 0.0) / 1e3 for step in at]
        yield at, seconds, [100 * v for v in values], _TARGET if name == DEFAULTS.name else _peer(name)


def _images() -> Iterator[Drawn]:
    """The convolutional network: whole schedules of TargetAdam, Muon and AdamW, and the longest handed over."""
    curves = [one for one in map(images.curve, images.runs()) if one is not None]
    by = {one.run[0]: one for one in curves if one.steps == images.WHOLE or one.run[0] == "target-muon"}
    for name, style in (
        ("target-default", _TARGET),
        ("target-muon", _HANDED),
        ("muon", _peer("muon")),
        ("adamw", _peer("adamw")),
    ):
        yield by[name].at, by[name].seconds, by[name].test, style


def draw(whole: Summary, stem: Path) -> None:
    """A column for each network, against steps and against seconds."""
    from matplotlib.ticker import MultipleLocator

    columns = (
        ("30 tanh layers, MNIST: test accuracy, %", (80, 97), list(_deep(whole))),
        ("the paper's CNN, CIFAR-10: test accuracy, %", (45, 78), list(_images())),
    )
    with png(stem, "", 4, 2.9, columns=3) as panels:
        for place, (title, limits, curves) in enumerate(columns):
            for panel, x in zip(panels[place::2], ("steps", "seconds, one thread"), strict=True):
                for steps, seconds, test, style in curves:
                    panel.plot(steps if x == "steps" else seconds, test, **style)
                panel.set_xlim(left=0)
                panel.set_ylim(*limits)
                panel.yaxis.set_major_locator(MultipleLocator(5))
                panel.set_xlabel(x)
            panels[place].set_title(title)
