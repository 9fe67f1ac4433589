"""The tables of docs/evidence.md from the peers' results."""

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
_MANY = 10  # epochs, from which on no decimal is shown
_USUAL = (("start", "own"), ("ridge", "auto"), ("cascade_gradient", True))  # need no words


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in per cent; of an R² beyond all bounds no digits."""
    if statistics.fmean(values) < _DIVERGED:
        return "diverged"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def duration(value: float, *, seconds: bool) -> str:
    """A number of steps or seconds; "never" for infinity, and nothing where it was not measured."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if not seconds else f"{value:.{2 if value < 1 else 1}f}"


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


def fastest_peer(found: Mapping[str, Reported], *, seconds: bool) -> str:
    """Steps or seconds to the middle level of the peer that is there first, and its name; "never" if none is."""
    quickest = fastest(found, PEER_NAMES, seconds=seconds)
    value = middle(quickest, seconds=seconds)
    text = duration(value, seconds=seconds)
    return f"{text} ({quickest.contender.label})" if math.isfinite(value) else text


def emphasised(ones: Sequence[Reported]) -> list[str]:
    """The test metric at the end of each; bold where the mean is, as it is printed, the best of these."""
    means = [f"{100 * one.mean:.1f}" for one in ones]
    top = max(means, key=float)
    texts = [percent(one.final) for one in ones]
    return [f"**{text}**" if mean == top else text for text, mean in zip(texts, means, strict=True)]


def overview(whole: Summary) -> str:
    """Each workload: its budget in epochs, and the test metric at the end."""

    def rows() -> Iterator[list[str]]:
        for found in whole.values():
            peer = best_peer(found)
            *own, theirs = emphasised([*(found[one.name] for one in OWN), peer])
            title, epochs = peer.workload.title, peer.workload.epochs
            shown = f"{epochs:,.0f}" if epochs >= _MANY else f"{epochs:.1f}"
            yield [title, shown, *own, f"{theirs} ({peer.contender.label})"]

    return markdown(["workload", "epochs", *(one.label for one in OWN), "best peer"], rows())


def speed(whole: Summary) -> str:
    """Steps and seconds to the middle level of each workload, and what target space has when the best peer ends."""

    def rows() -> Iterator[list[str]]:
        for found in whole.values():
            workload, peer = found[DEFAULTS.name].workload, best_peer(found)
            cells = [workload.title, f"{100 * workload.levels[1]:.0f}"]
            for seconds in (False, True):
                own = (middle(found[one.name], seconds=seconds) for one in (DEFAULTS, TUNED))
                cells += [*(duration(value, seconds=seconds) for value in own), fastest_peer(found, seconds=seconds)]
            ends = math.nan if peer.ms is None else workload.steps * peer.ms / 1e3
            reached = found[DEFAULTS.name].after(ends)
            there = (
                "" if math.isnan(reached) else f"{100 * reached:.1f}; {100 * peer.mean:.1f} ({peer.contender.label})"
            )
            yield [*cells, there]

    who = (DEFAULTS.label, TUNED.label, "fastest peer")
    head = ["workload", "level", *(f"{unit}: {one}" for unit in ("steps", "seconds") for one in who)]
    return markdown([*head, f"test when the best peer ends: {DEFAULTS.label}; this peer"], rows())


def goals(whole: Summary) -> str:
    """How often target space ends as high as the best peer or close to it, and is fast."""
    count = len(whole)
    untuned = (DEFAULTS, FAST, ADAM)
    high, close = ({one.name: 0 for one in untuned} for _ in range(2))
    quick = {one.name: 0 for one in (TUNED, *untuned)}
    for found in whole.values():
        peer = best_peer(found).mean
        for one in untuned:
            high[one.name] += found[one.name].mean >= peer
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
            *(row(f"{one.label}, untuned: at least as high as the best peer", high[one.name], 60) for one in untuned),
            *(
                row(f"{one.label}, untuned: at most a point below the best peer", close[one.name], 85)
                for one in untuned
            ),
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
            ends = emphasised(list(found.values()))
            levels = next(iter(found.values())).workload.levels
            for place, one in enumerate(found.values()):
                steps = " / ".join(duration(one.steps_to(level), seconds=False) for level in levels)
                shown = ", ".join(f"{100 * level:.0f}" for level in levels)
                title = f"{one.workload.title}; levels {shown}" if place == 0 else ""
                failed = sum(line["failed"] is not None for line in one.lines)
                yield [
                    title,
                    one.contender.label + (f" ({failed} of {len(one.lines)} failed)" if failed else ""),
                    setting(one.setting),
                    ends[place],
                    percent(one.at_best),
                    steps,
                    duration(middle(one, seconds=True), seconds=True),
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
            steps = {name: duration(found[name].steps_to(level), seconds=False) for name in names}
            cells = [f"{percent(found[name].final)}; {steps[name]}" for name in names]
            yield [found[DEFAULTS.name].workload.title, *cells]

    return markdown(["test at the end; steps to the middle level", *(CONTENDERS[n].label for n in names)], rows())
