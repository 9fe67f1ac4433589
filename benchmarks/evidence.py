"""All tables and figures of docs/evidence.md and docs/evidence_settings.md, and README.md's picture, from the results.

    python -m benchmarks.evidence   # from the repository's root

Nothing is measured here: tables are written between the pages' markers, other text stays. The results are those of
``benchmarks/peers`` and of ``images.py``, ``permuted.py``, ``surface.py``, ``variations.py``, ``rest.py``,
``recurrent.py`` and ``adaptive.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import adaptive, first, images, permuted, recurrent, rest, surface, variations
from benchmarks.pages import fill
from benchmarks.peers import page
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.protocol import TRIALS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Summary, summary
from benchmarks.peers.workload import Workload
from benchmarks.peers.workloads import WORKLOADS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def measured(results: Results, workloads: Sequence[Workload], trials: int) -> tuple[Summary, list[str]]:
    """What was measured of the peers whole, and the names of the workloads that were measured in part."""
    whole, partial = summary(results, workloads, list(CONTENDERS.values()), trials)
    if not whole:
        raise SystemExit(f"{results.file}: no workload was measured whole with {trials} trials. Use run, then time.")
    return whole, partial


def write(docs: Path, whole: Summary, partial: Sequence[str], trials: int) -> None:
    """Fill the tables of both pages in.

    Args:
        docs: folder of the pages.
        whole: the peers' results.
        partial: the workloads that were measured in part.
        trials: the budget that the peers' settings were chosen with.
    """
    fill(docs / "evidence.md", page.texts(whole, partial, trials) | images.tables())
    settings = variations.tables() | rest.tables() | recurrent.tables() | adaptive.tables(whole)
    fill(docs / "evidence_settings.md", settings)


def draw(docs: Path, whole: Summary) -> None:
    """Draw the figures beside the pages."""
    folder = docs / "evidence"
    folder.mkdir(exist_ok=True)
    page.draw(whole, folder)
    images.draw(folder / "images")
    permuted.draw(folder / "permuted")
    surface.draw(folder / "surface")
    first.draw(whole, docs / "first")


def main() -> None:
    """Write the pages, and draw."""
    whole, partial = measured(Results(), list(WORKLOADS.values()), TRIALS)
    write(DOCS, whole, partial, TRIALS)
    draw(DOCS, whole)


if __name__ == "__main__":
    main()
