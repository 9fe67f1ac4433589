"""A module for which target space is weight space: the reference batch is a unit matrix and the ridge vanishes.

A layer without a bias that receives the identity has its weights, transposed, as targets. So any optimizer, and
whatever a user does in between, has to lead to the same weights in both spaces. ``shift`` and ``scale`` stay in weight
space.
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy

from tests.support.fits import loader, trainer
from ts_lightning import ReferenceConfig, TargetSpaceConfig, convert

CONFIG = TargetSpaceConfig(
    ridge=1e-13,
    ridge_scale="absolute",
    step_scale=1.0,
    init="weights",
    reference=ReferenceConfig(rows="all"),
)


class Habit(LightningModule):
    """Two layers on the same inputs; subclasses add what a user does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.scale, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.seen = []
        self.double()

    def forward(self, x):
        return torch.tanh(self.a(x)) * self.scale + self.b(x) + self.shift

    def loss(self, batch):
        loss = cross_entropy(self(batch[0]), batch[1])
        self.seen.append(loss.detach())
        return loss

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)

    def reference_batch(self):
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long)


class ByHand(Habit):
    """Manual optimisation; ``step`` is what the user does for a batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.step(self.optimizers(), batch)


class Subtracted(ByHand):
    """The gradient at weights that were moved along the gradient; rounding is left of moves that are taken back."""

    @torch.no_grad()
    def move(self, moves, sign):
        for parameter, move in zip(self.parameters(), moves, strict=True):
            parameter.add_(move, alpha=sign)

    def backward_elsewhere(self, optimizer, batch):
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        moves = [0.05 * parameter.grad for parameter in self.parameters()]
        self.move(moves, 1)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.move(moves, -1)

    def step(self, optimizer, batch):
        self.backward_elsewhere(optimizer, batch)
        optimizer.step()


def trained(cls, space, **options):
    """The losses and the last weights of a fit of one of these classes in a space."""
    torch.manual_seed(0)
    model = convert(cls(), CONFIG if space == "target" else None)
    trainer(**options).fit(model, loader(dtype=torch.float64))
    return model.seen, [parameter.detach() for parameter in model.parameters()]


def assert_same_in_both_spaces(cls, **options):
    """A fit in target space has the losses and the weights of one in weight space."""
    torch.testing.assert_close(trained(cls, "target", **options), trained(cls, "weight", **options))
