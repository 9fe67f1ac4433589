"""docs/evidence.md and its figures, from the results' file. Tables are written between markers; other text stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages import fill
from benchmarks.peers import figures, tables
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Summary, summary
from benchmarks.peers.target import DEFAULTS
from benchmarks.peers.workload import Workload

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence.md"


def write(results: Results, workloads: Sequence[Workload], trials: int, page: Path = PAGE) -> None:
    """Fill the page with what was measured whole.

    Args:
        results: the lines.
        workloads: that the page is about.
        trials: the budget that settings were chosen with.
        page: has the markers ``made``, ``overview``, ``goals``, ``ablation`` and ``groups``.
    """
    whole, partial = summary(results, workloads, list(CONTENDERS.values()), trials)
    if not whole:
        raise SystemExit(f"{results.file}: no workload was measured whole with {trials} trials. Use run, then time.")
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    figures.profile(whole, folder / "profile")
    figures.ablation(whole, folder / "ablation")
    texts = {
        "made": _made(whole, partial, trials),
        "overview": tables.overview(whole),
        "goals": tables.goals(whole),
        "ablation": tables.ablation(whole),
        "groups": _groups(whole, folder),
    }
    fill(page, texts)


def _groups(whole: Summary, folder: Path) -> str:
    """A section for each group: its curves and its table."""
    groups: dict[str, list[str]] = {}
    for name, found in whole.items():
        groups.setdefault(found[DEFAULTS.name].workload.group, []).append(name)
    parts = []
    for group, names in groups.items():
        file = "-".join(group.lower().replace(",", "").split())
        figures.curves(whole, names, folder / file, group)
        picture = f"![Test metric of all contenders against steps and seconds: {group}]({folder.name}/{file}.png)"
        parts += [f"### {group}", picture, tables.group_table(whole, names)]
    return "\n" + "\n\n".join(parts) + "\n"


def _made(whole: Summary, partial: Sequence[str], trials: int) -> str:
    """How many workloads, trials and seeds the page is made of."""
    seeds = sorted({len(one.lines) for found in whole.values() for one in found.values()})
    lines = [line for found in whole.values() for one in found.values() for line in one.lines]
    versions, threads = ({str(line[key]) for line in lines} for key in ("torch", "threads"))
    text = (
        f"Measured so far: {len(whole)} workloads, {trials} trials and {' to '.join(map(str, seeds))} seeds for each "
        f"contender, torch {', '.join(sorted(versions))}, {', '.join(sorted(threads))} processor thread."
    )
    return text + (f" Begun, and not on this page: {', '.join(partial)}." if partial else "")
