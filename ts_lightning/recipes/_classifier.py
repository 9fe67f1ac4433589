"""What the recipes' classifiers share: cross-entropy, Adam, accuracy on the test split."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from ts_lightning import TargetSpaceConfig, TargetSpaceMixin


class Classifier(TargetSpaceMixin, LightningModule):
    """A network that gives one logit per class, trained with cross-entropy and Adam.

    Logs ``train/loss`` and ``train/accuracy`` at steps, ``test/loss`` and ``test/accuracy`` over the test split, both
    when validating and when testing.

    Args:
        network: from a batch of inputs to logits (batch, classes).
        classes: the number of classes.
        lr: Adam's learning rate.
        target_space: settings of target space; ``None`` trains in weight space.
    """

    def __init__(self, network: nn.Module, classes: int, lr: float, target_space: TargetSpaceConfig | None) -> None:
        super().__init__()
        self.network = network
        self.lr = lr
        self.target_space = target_space
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The loss, and beside it the share of the batch that is classified rightly before this step's update."""
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        accuracy = (logits.detach().argmax(dim=1) == y).float().mean()
        self.log("train/loss", loss.detach())
        self.log("train/accuracy", accuracy)
        return {"loss": loss, "accuracy": accuracy}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and accuracy on the test split."""
        x, y = batch
        logits = self(x)
        self.test_accuracy(logits, y)
        self.log("test/loss", cross_entropy(logits, y), on_epoch=True, batch_size=len(y))
        self.log("test/accuracy", self.test_accuracy, on_epoch=True, prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)
