"""What the peers' results make of docs/evidence.md: the texts between its markers, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import figures, tables
from benchmarks.peers.summary import Summary
from benchmarks.peers.target import DEFAULTS


def texts(whole: Summary, partial: Sequence[str], trials: int) -> dict[str, str]:
    """The text of each marker.

    Args:
        whole: what was measured whole.
        partial: the names of the workloads that were measured in part.
        trials: the budget that settings were chosen with.
    """
    return {
        "made": _made(whole, partial, trials),
        "overview": tables.overview(whole),
        "speed": tables.speed(whole),
        "goals": tables.goals(whole),
        "ablation": tables.ablation(whole),
        "groups": _groups(whole),
    }


def draw(whole: Summary, folder: Path) -> None:
    """The figures."""
    figures.profile(whole, folder / "profile")
    figures.ablation(whole, folder / "ablation")
    for group, names in _by_group(whole).items():
        figures.curves(whole, names, folder / _file(group), group)


def _by_group(whole: Summary) -> dict[str, list[str]]:
    """The names of each group's workloads."""
    groups: dict[str, list[str]] = {}
    for name, found in whole.items():
        groups.setdefault(found[DEFAULTS.name].workload.group, []).append(name)
    return groups


def _file(group: str) -> str:
    return "-".join(group.lower().replace(",", "").split())


def _groups(whole: Summary) -> str:
    """A section for each group: its curves and its table."""
    parts = []
    for group, names in _by_group(whole).items():
        picture = f"![Test metric of all contenders against steps and seconds: {group}](evidence/{_file(group)}.png)"
        parts += [f"### {group}", picture, tables.group_table(whole, names)]
    return "\n" + "\n\n".join(parts) + "\n"


def _made(whole: Summary, partial: Sequence[str], trials: int) -> str:
    """How many workloads, trials and seeds the page is made of."""
    seeds = sorted({len(one.lines) for found in whole.values() for one in found.values()})
    lines = [line for found in whole.values() for one in found.values() for line in one.lines]
    versions, threads = ({str(line[key]) for line in lines} for key in ("torch", "threads"))
    text = (
        f"Measured so far: {len(whole)} workloads, at most {trials} trials and {' to '.join(map(str, seeds))} seeds "
        f"for each contender, torch {', '.join(sorted(versions))}, {', '.join(sorted(threads))} processor thread."
    )
    return text + (f" Begun, and not on this page: {', '.join(partial)}." if partial else "")
