"""What ``predict`` found, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from ts_lightning.amount import amount


class PredictionFile(BasePredictionWriter):
    """Writes what ``predict_step`` returned, a list over batches, to ``predictions.pt`` (one file for each process).

    Args:
        folder: where the file goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(write_interval="epoch")
        self.folder = folder

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the file."""
        folder = trainer.strategy.broadcast(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = "predictions.pt" if trainer.world_size == 1 else f"predictions_{trainer.global_rank}.pt"
        torch.save(predictions, folder / name)
        print(
            f"{folder / name}: what predict_step returned, {amount(len(predictions), 'batch', 'batches')} (torch.load)"
        )
