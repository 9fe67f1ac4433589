"""The short table at the end of a run, as text, and its rows for the report."""

from __future__ import annotations

from dataclasses import dataclass

from ts_lightning.amount import amount
from ts_lightning.report.run import Run
from ts_lightning.report.units import counted, duration, memory, plain

#: in the order in which a run with ``until`` trains in them
_SPACES = ("target", "weight")


@dataclass(frozen=True)
class MetricRow:
    """What a run reached in one metric, as text: its last and its best value, and the step of the best."""

    label: str
    final: str
    best: str
    step: str


def metric_rows(run: Run) -> list[MetricRow]:
    """A row for every metric of validation and testing that has a value, or of training where there are none."""
    rows = []
    for metric in run.history.measured:
        final, best = run.history.final(metric.name), run.history.best(metric.name)
        if final is not None:
            written = (plain(best.value)(best.value), counted(best.step)(best.step)) if best else ("none", "none")
            rows.append(MetricRow(metric.label, plain(final.value)(final.value), *written))
    return rows


def facts(run: Run) -> list[tuple[str, str]]:
    """What else is known: the summary's further lines, times and memory, by their label."""
    summary = run.summary
    lines = list(run.remarks.items())
    medians = [summary.step_seconds, summary.later_step_seconds]
    told = ["" if value is None else duration(value)(value) for value in medians]
    if summary.later_step_seconds is not None:
        told = [f"{text} in {space} space" if text else "" for text, space in zip(told, _SPACES, strict=True)]
    if any(told):
        lines.append(("time per step", f"{', '.join(filter(None, told))} (median; without loading and validation)"))
    lines.append(("training time", f"{duration(summary.seconds)(summary.seconds)}, {amount(summary.steps, 'step')}"))
    if summary.peak_memory is not None:
        text = memory(summary.peak_memory)(summary.peak_memory)
        lines.append(("memory added", f"{text} (peak of training, above what the process held before)"))
    return lines


def table(run: Run) -> str:
    """The table as text."""
    rows = metric_rows(run)
    lines = [("", f"{'final':>9}{'best':>11}{'at step':>10}")] if rows else [("metrics", "  not measured yet")]
    lines += [(row.label, f"{row.final:>9}{row.best:>11}{row.step:>10}") for row in rows]
    lines += [(label, f"  {text}") for label, text in [*facts(run), *run.commands.items()]]
    lines.append(("files", f"  {run.folder}/: {', '.join(run.files)}"))
    width = max(len(label) for label, _ in lines) + 1
    head = f"{run.summary.title}: {run.state}"
    return "\n".join(["", head, "-" * len(head), *(f"{label:<{width}}{text}" for label, text in lines)])
