"""Points of two classes, a module with one layer for them, and a short fit."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from tests.support.fits import trainer
from ts_lightning import TargetSpaceMixin

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
PAIRS = list(zip(X, Y, strict=True))


class Base(TargetSpaceMixin, LightningModule):
    """``steps`` counts what training does; a list is none of the module's own attributes that a pass puts back."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        return self.net(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model, samples, collate=None, **options):
    run = trainer(max_epochs=2, **options)
    run.fit(model, DataLoader(samples, 8, collate_fn=collate))
    return run
