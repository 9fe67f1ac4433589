"""Pictures, tables, histograms and checkpoints for Weights & Biases, through every WandbLogger of a Trainer.

Each function writes in the process of rank zero, and does nothing if the Trainer has no WandbLogger. wandb is imported
only if it has one. Runs online and offline are treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

#: the preset that ``wandb.plot.confusion_matrix`` draws, and the columns that it reads
_CONFUSION = "wandb/confusion_matrix/v1"
_CONFUSION_COLUMNS = ("Actual", "Predicted", "nPredictions")


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """The Trainer's WandbLoggers in the process of rank zero; none in other processes."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)] if trainer.is_global_zero else []


def log_image(trainer: Trainer, key: str, file: Path) -> None:
    """Log a picture from its file."""
    for logger in wandb_loggers(trainer):
        logger.log_image(key, [str(file)], step=trainer.global_step)


def log_table(trainer: Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Log a table, which W&B lets its readers sort and filter."""
    for logger in wandb_loggers(trainer):
        logger.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=trainer.global_step)


def log_confusion_matrix(trainer: Trainer, key: str, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Log W&B's own chart of a confusion matrix, from its counts: true classes in rows, predicted ones in columns.

    A matrix of more cells than W&B's tables for charts hold is left out.
    """
    rows = [
        [actual, predicted, count]
        for actual, line in zip(labels, counts, strict=True)
        for predicted, count in zip(labels, line, strict=True)
    ]
    for logger in wandb_loggers(trainer):
        import wandb

        if len(rows) > wandb.Table.MAX_ROWS:
            continue
        table = wandb.Table(columns=list(_CONFUSION_COLUMNS), data=rows)
        chart = wandb.plot_table(_CONFUSION, table, {name: name for name in _CONFUSION_COLUMNS}, {"title": ""})
        logger.log_metrics({key: chart}, step=trainer.global_step)  # type: ignore[dict-item]


def log_histograms(trainer: Trainer, histograms: Mapping[str, tuple[Tensor, Tensor]], step: int) -> None:
    """Log histograms by key, each given as counts (bins,) and edges (bins + 1,)."""
    for logger in wandb_loggers(trainer):
        import wandb

        panels: dict[str, Any] = {
            key: wandb.Histogram(np_histogram=(counts.numpy(), edges.numpy()))
            for key, (counts, edges) in histograms.items()
        }
        logger.log_metrics(panels, step=step)


def log_artifact(trainer: Trainer, checkpoint: Path) -> None:
    """Log a checkpoint as an artifact of type ``model``, named as Lightning names its own: ``model-<run's id>``.

    Lightning's ``log_model=True`` does so for checkpoints of ModelCheckpoint only, and never offline.

    Args:
        trainer: the Trainer whose WandbLoggers get the artifact.
        checkpoint: the checkpoint's file.
    """
    for logger in wandb_loggers(trainer):
        import wandb

        run = logger.experiment
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={"steps": trainer.global_step})
        artifact.add_file(str(checkpoint), name="model.ckpt")
        run.log_artifact(artifact, aliases=["latest"])
