"""The short table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ts_lightning.recipes._training import Outcome


def table(title: str, outcome: Outcome, metrics: Sequence[str], extra: Mapping[str, str], folder: Path) -> str:
    """The table as text.

    Args:
        title: what was run.
        outcome: what it reached.
        metrics: names of metrics to give the final and best value of; losses are best when smallest.
        extra: further lines, by their label.
        folder: where the run's files are.
    """
    lines: list[tuple[str, str]] = [("", f"{'final':>9}{'best':>9}{'at step':>10}")]
    for metric in metrics:
        final = outcome.history.final(metric)
        best = outcome.history.best(metric, min if metric.endswith("loss") else max)
        label = metric.replace("/", " ")
        if final is None or best is None:
            lines.append((label, "not measured yet"))
        else:
            lines.append((label, f"{final.value:>9.4f}{best.value:>9.4f}{best.step:>10,}"))
    lines += [(label, f"  {value}") for label, value in extra.items()]
    if outcome.step_seconds is not None:
        lines.append(("time per step", f"  {duration(outcome.step_seconds)} (median; without loading and validation)"))
    lines.append(("training time", f"  {duration(outcome.seconds)}, {outcome.steps:,} steps"))
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    lines.append(("files", f"  {folder}/: {', '.join(names)}"))
    width = max(len(label) for label, _ in lines) + 1
    head = f"{title}: {'interrupted' if outcome.interrupted else 'done'} after {outcome.steps:,} steps"
    return "\n".join(["", head, "-" * len(head), *(f"{label:<{width}}{value}" for label, value in lines)])


def duration(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"
