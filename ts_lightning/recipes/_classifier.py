"""What the recipes' classifiers share: cross-entropy, Adam, test accuracy, a network built for its data."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from ts_lightning.errors import SettingError, expect
from ts_lightning.lightning.mixin import TargetSpaceMixin


class Classifier(TargetSpaceMixin, LightningModule):
    """A network that gives one logit per class, trained with cross-entropy and Adam.

    Logs ``train/loss`` and ``train/accuracy`` at steps, ``test/loss`` and ``test/accuracy`` over the test split, and
    ``val/loss`` and ``val/accuracy`` where the data module has a split for validation, which is else the test split.

    Args:
        lr: Adam's learning rate; ``None`` takes that of the space.

    Attributes:
        lr_target: Adam's learning rate in target space.
        lr_weight: and in weight space.
        network: from a batch of inputs to logits (batch, classes, ...).
    """

    lr_target: float
    lr_weight: float
    network: nn.Module

    def __init__(self, lr: float | None) -> None:
        super().__init__()
        if lr is not None:
            expect("lr", lr, 0, strict=True)
        self.lr = lr

    @property
    def given(self) -> Any:
        """The arguments, as they are after what the data said."""
        return self.hparams

    def configure_model(self) -> None:
        """Build the network for the Trainer's data, if the arguments did not say what it has to fit.

        Raises:
            SettingError: the arguments, as a checkpoint's, are of other data.
        """
        self.check_data(None if self._trainer is None else getattr(self.trainer, "datamodule", None))
        if not hasattr(self, "network"):
            self.build_for_data()

    def check_data(self, data: Any) -> None:
        """Refuse data that the arguments do not fit, as those of a checkpoint that was trained on other data.

        Args:
            data: the Trainer's data module; ``None`` without one.

        Raises:
            SettingError: they do not.
        """

    def build_for_data(self) -> None:
        """Complete the arguments with what the data says, see :meth:`described`, and :meth:`build` the network."""
        raise NotImplementedError

    def expect_of_data(self, name: str, fits: bool, value: Any) -> None:
        """Refuse an argument that is given and does not fit the data.

        Args:
            name: of the argument.
            fits: whether it does, if it is given.
            value: what the data says.

        Raises:
            SettingError: it does not.
        """
        given = self.given[name]
        if given is not None and not fits:
            raise SettingError(
                f"--model.{name}: found {given}, and the data has {value}. Expected the data that the module was made "
                f"for, or leave the option out."
            )

    def build(self, network: nn.Module, classes: int) -> None:
        """Take the network, and measure accuracy over so many classes."""
        self.network = network
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def described(self, kind: type[Any]) -> Any:
        """The Trainer's data module, which says what the network has to fit.

        Args:
            kind: its class.

        Raises:
            SettingError: there is none of that class.
        """
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if not isinstance(data, kind):
            raise SettingError(
                f"{type(self).__name__}: found no {kind.__name__} that says what the network has to fit. Train with "
                f"one, or give the arguments that are None by default."
            )
        return data

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes, ...)."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss; logs beside it the share of the batch that is classified rightly before this step's update."""
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        self.log("train/loss", loss.detach())
        self.log("train/accuracy", (logits.detach().argmax(dim=1) == y).float().mean())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and accuracy on the validation split, or on the test split where there is none."""
        self._measure(batch, getattr(getattr(self.trainer, "datamodule", None), "validates_on", "test"))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and accuracy on the test split."""
        self._measure(batch, "test")

    def _measure(self, batch: Any, split: str) -> None:
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log(f"{split}/loss", cross_entropy(logits, y), on_epoch=True, batch_size=len(y), sync_dist=True)
        self.log(f"{split}/accuracy", self.accuracy, on_epoch=True, prog_bar=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The probability of each class (batch, classes, ...)."""
        probabilities: Tensor = self(batch[0]).softmax(dim=1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        own = self.lr_weight if self.target_space is None else self.lr_target
        return torch.optim.Adam(self.parameters(), lr=own if self.lr is None else self.lr)
