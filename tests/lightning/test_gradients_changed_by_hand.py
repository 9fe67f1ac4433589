"""All gradients changed by a training step by hand, with a norm that a pull-back adds to: as by another loss.

The norm's share was taken off and added anew as it had been before the change, without a word.
"""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.support.fits import loader, trainer
from ts_lightning import TargetSpaceConfig, convert


class ByHand(LightningModule):
    automatic_optimization = False

    def __init__(self, act):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        )
        self.act = act
        self.double()

    def forward(self, x):
        return self.net(x)

    def back(self, batch, factor=1.0):
        self.manual_backward(factor * cross_entropy(self(batch[0]), batch[1]))

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.act(self, batch)
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


def third(module, batch):
    module.back(batch, 1 / 3)


def divided(module, batch):
    module.back(batch)
    for parameter in module.parameters():
        parameter.grad.div_(3)


def replaced(module, batch):
    module.back(batch)
    for parameter in module.parameters():
        parameter.grad = parameter.grad / 3


def averaged(module, batch):
    for _ in range(3):
        module.back(batch)
    for parameter in module.parameters():
        parameter.grad /= 9


def clipped(module, batch):
    module.back(batch)
    norm = torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm()
    clip_grad_norm_(module.parameters(), float(norm) / 3)


def ended(act):
    torch.manual_seed(0)
    module = convert(ByHand(act), TargetSpaceConfig())
    trainer(max_epochs=2).fit(module, loader(dtype=torch.float64))
    return [parameter.detach() for parameter in module.parameters()]


@pytest.mark.parametrize("act", [divided, replaced, averaged, clipped])
def test_a_multiple_is_that_of_the_loss(act):
    torch.testing.assert_close(ended(act), ended(third), rtol=1e-3, atol=1e-4)  # clipping adds 1e-6


def test_values_that_were_clipped_by_hand_stay_so():
    class Clipped(ByHand):
        def training_step(self, batch, batch_idx):
            self.optimizers().zero_grad()
            self.back(batch)
            clip_grad_value_(self.parameters(), 1e-3)
            kept = self.net[1].weight.grad.clone()
            self.optimizers().step()
            torch.testing.assert_close(self.net[1].weight.grad, kept)

    torch.manual_seed(0)
    trainer(max_epochs=1).fit(convert(Clipped(None), TargetSpaceConfig()), loader(dtype=torch.float64))
