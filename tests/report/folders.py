"""Folders as runs leave them, written by hand."""

import csv

from ts_lightning.report import Run, Summary

CONFIG = """\
# ts_lightning 0.1.0, torch 2.8.0, lightning 2.5.5, 1 CPU threads
seed_everything: 3
title: <b>bold</b> & "quoted"
target_space:
  ridge: 0.001
  layers: null
  reference:
    size: 194
"""


def summary(space="target", **changes):
    values = {"title": f"spirals, {space} space", "space": space, "steps": 100, "step_seconds": 0.005, "seconds": 2.0}
    return Summary(**{**values, **changes})


def rows(name, values, *, every=10, seconds=0.02):
    """Measurements with the clock's columns beside them; ``seconds`` for each step."""
    return [
        {"step": every * i - 1, "steps": float(every * i), "seconds": seconds * every * i, name: value}
        for i, value in enumerate(values, 1)
    ]


def run(folder, metrics=(), config=CONFIG, **changes):
    """A run whose ``metrics.csv`` has these rows, as CSVLogger writes them: columns by name, empty where not logged."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    if metrics:
        with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, sorted({name for row in metrics for name in row}))
            writer.writeheader()
            writer.writerows(metrics)
    summary(**changes).write(folder)
    return Run.read(folder)
