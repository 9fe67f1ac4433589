"""A classifier that knows nothing of pictures, and data to test it on: points, images and texts."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ts_lightning.recipes.data.text_set import TextSamples


class Classifier(LightningModule):
    """``calls`` counts the forwards; ``self(x)`` is called in each step unless ``hidden``, which calls the layer."""

    def __init__(self, inputs, classes, hidden=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(inputs, classes)
        self.hidden = hidden
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x.flatten(1).float())

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.layer(x.flatten(1).float()) if self.hidden else self(x)
        self.log("loss", cross_entropy(logits, y))

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def samples(*shape, classes, count=24):
    """Random inputs and classes, and for each a text that says which one it is."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *shape, generator=generator)
    y = torch.randint(classes, (count,), generator=generator)
    return TextSamples(x, y, [f"text {i}" for i in range(count)])


def loader(data, batch=10, **options):
    return DataLoader(data, batch, **options)
