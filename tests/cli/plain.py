"""A LightningModule and its data that know nothing of this package."""

import time
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class Net(LightningModule):
    """A small classifier of points.

    Args:
        width: of the hidden layer.
        lr: Adam's learning rate.
    """

    def __init__(self, width: int = 8, lr: float = 0.02):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log_dict({"test/loss": cross_entropy(logits, batch[1]), "test/accuracy": _accuracy(logits, batch[1])})

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Narrow(Net):
    """Takes points of two numbers, whereas those of the data have three."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.Linear(2, 8)


class Waiting(Net):
    """Waits before its step ``at`` for Ctrl-C, once: it says so in the file ``flag``."""

    def __init__(self, flag: str, at: int = 5):
        super().__init__()
        self.flag, self.at = Path(flag), at

    def training_step(self, batch, batch_idx):
        if self.global_step == self.at and not self.flag.exists():
            self.flag.touch()
            time.sleep(120)
        return super().training_step(batch, batch_idx)


class Points(LightningDataModule):
    """Sixty-four points in a fixed order, four batches of them.

    Args:
        batch_size: points in a batch.
    """

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, (x.prod(1) > 0).long()), batch_size=self.batch_size)

    def val_dataloader(self):
        return self.train_dataloader()

    def test_dataloader(self):
        return self.train_dataloader()

    def predict_dataloader(self):
        return self.train_dataloader()


class Keyed(Net):
    """The same on batches that are dictionaries, with a forward whose arguments are their keys."""

    def forward(self, points):
        return super().forward(points)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(points=batch["points"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))


class KeyedPoints(LightningDataModule):
    """Sixteen points in dictionaries."""

    def train_dataloader(self):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader([{"points": point, "label": int(point.prod() > 0)} for point in x], batch_size=8)

    def val_dataloader(self):
        return self.train_dataloader()


def _accuracy(logits, y):
    return (logits.argmax(1) == y).float().mean()
