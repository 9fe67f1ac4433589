"""The tables of docs/evidence.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages import markdown
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.peers import PEERS
from benchmarks.peers.summary import Reported, Summary
from benchmarks.peers.target import ABLATIONS, ADAM, DEFAULTS, FAST, SGD, TUNED

#: target space, in the order of the first table
OWN = (DEFAULTS, FAST, TUNED, ADAM)
PEER_NAMES = [one.name for one in PEERS]
_SHOWN = {
    "optimizer": "",
    "start": "",
    "weight_decay": "decay ",
    "damping": "damping ",
    "ridge": "ridge ",
    "untangle": "untangle ",
    "cascade_gradient": "cascade gradient ",
}
_DIVERGED = -10.0  # R²
_USUAL = (("start", "own"), ("ridge", "auto"), ("cascade_gradient", True))  # need no words


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in per cent; of an R² beyond all bounds no digits."""
    if statistics.fmean(values) < _DIVERGED:
        return "diverged"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def number(value: float, pattern: str) -> str:
    """A number of steps or seconds; "never" for infinity, and nothing where it was not measured."""
    return "" if math.isnan(value) else "never" if math.isinf(value) else format(value, pattern)


def setting(values: Mapping[str, Any]) -> str:
    """A setting in words."""
    rate = values["lr"] * (SGD if values.get("optimizer") == "SGD" else 1)
    rest = [f"{_SHOWN[name]}{value}" for name, value in values.items() if name != "lr" and (name, value) not in _USUAL]
    return ", ".join([f"{rate:g}", *rest])


def best_peer(found: Mapping[str, Reported]) -> Reported:
    """The weight-space contender with the best mean test metric at the end."""
    return max((found[name] for name in PEER_NAMES), key=lambda one: one.mean)


def fastest(found: Mapping[str, Reported], names: Sequence[str], *, seconds: bool) -> Reported:
    """Who reaches the middle level first of those named."""
    return min((found[name] for name in names), key=lambda one: middle(one, seconds=seconds))


def middle(one: Reported, *, seconds: bool) -> float:
    """Steps or seconds to the middle level."""
    level = one.workload.levels[1]
    return one.seconds_to(level) if seconds else one.steps_to(level)


def overview(whole: Summary) -> str:
    """Each workload: the test metric at the end, and seconds to the middle level."""

    def rows() -> Iterator[list[str]]:
        for found in whole.values():
            peer = best_peer(found)
            own = [found[one.name] for one in OWN]
            top = max(one.mean for one in (*own, peer))
            cells = [_bold(percent(one.final), one.mean == top) for one in (*own, peer)]
            cells[-1] += f" ({peer.contender.label})"
            for seconds, pattern in ((False, ",.0f"), (True, ".1f")):
                quickest = fastest(found, PEER_NAMES, seconds=seconds)
                ours = ", ".join(number(middle(one, seconds=seconds), pattern) for one in own)
                theirs = f"{number(middle(quickest, seconds=seconds), pattern)} ({quickest.contender.label})"
                cells.append(f"{ours}; {theirs}")
            yield [peer.workload.title, *cells, f"{100 * peer.workload.levels[1]:.0f}"]

    head = ["workload", *(one.label for one in OWN), "best peer", "steps: target space, fastest peer"]
    return markdown([*head, "seconds: the same", "to level"], rows())


def _bold(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def goals(whole: Summary) -> str:
    """How often target space is first, close to the first, and fast."""
    count = len(whole)
    untuned = (DEFAULTS, FAST, ADAM)
    first, close = ({one.name: 0 for one in untuned} for _ in range(2))
    quick = {one.name: 0 for one in (TUNED, *untuned)}
    for found in whole.values():
        peer = best_peer(found).mean
        for one in untuned:
            first[one.name] += found[one.name].mean >= peer
            close[one.name] += found[one.name].mean >= peer - 0.01
        names = [name for name in found if name not in {one.name for one in ABLATIONS}]
        least = middle(fastest(found, names, seconds=True), seconds=True)
        for name in quick:
            quick[name] += middle(found[name], seconds=True) <= 1.5 * least and math.isfinite(least)

    def row(what: str, reached: int, wanted: int | None) -> list[str]:
        goal = "" if wanted is None else f"{wanted} %"
        return [what, f"{reached} of {count}", f"{100 * reached / max(count, 1):.0f} %", goal]

    return markdown(
        ["", "workloads", "share", "goal"],
        [
            *(
                row(f"{one.label}, untuned: first by the test metric at the end", first[one.name], 60)
                for one in untuned
            ),
            *(row(f"{one.label}, untuned: first, or within a point of it", close[one.name], 85) for one in untuned),
            *(
                row(
                    f"{one.label}: within 1.5 times the fastest in seconds to the middle level",
                    quick[one.name],
                    80 if one is TUNED else None,
                )
                for one in (TUNED, *untuned)
            ),
        ],
    )


def group_table(whole: Summary, names: Sequence[str]) -> str:
    """All contenders on the workloads of a group."""

    def rows() -> Iterator[list[str]]:
        for name in names:
            found = whole[name]
            top = max(one.mean for one in found.values())
            levels = next(iter(found.values())).workload.levels
            for place, one in enumerate(found.values()):
                steps = " / ".join(number(one.steps_to(level), ",.0f") for level in levels)
                shown = ", ".join(f"{100 * level:.0f}" for level in levels)
                title = f"{one.workload.title}; levels {shown}" if place == 0 else ""
                failed = sum(line["failed"] is not None for line in one.lines)
                yield [
                    title,
                    one.contender.label + (f" ({failed} of {len(one.lines)} failed)" if failed else ""),
                    setting(one.setting),
                    _bold(percent(one.final), one.mean == top),
                    percent(one.at_best),
                    steps,
                    number(middle(one, seconds=True), ".1f"),
                    "" if one.ms is None else f"{one.ms:.1f}",
                ]

    head = ["workload", "contender", "setting", "test, end", "test at best validation", "steps to levels"]
    return markdown([*head, "s to middle level", "ms a step"], rows())


def ablation(whole: Summary) -> str:
    """What is left of target space, with Adam in all cases, when a part is taken away."""
    names = [ADAM.name, *(one.name for one in ABLATIONS), "foof", "adamw"]

    def rows() -> Iterator[list[str]]:
        for found in whole.values():
            level = found[DEFAULTS.name].workload.levels[1]
            cells = [f"{percent(found[n].final)}; {number(found[n].steps_to(level), ',.0f')}" for n in names]
            yield [found[DEFAULTS.name].workload.title, *cells]

    return markdown(["test at the end; steps to the middle level", *(CONTENDERS[n].label for n in names)], rows())
