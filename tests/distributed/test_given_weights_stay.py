"""Given weights stay in several processes, too, where inputs change ahead of the first step."""

import pytest
import torch
from torch import nn

from tests.support.fits import Plain, fit, loader
from tests.support.processes import run
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceMixin


class Scaled(TargetSpaceMixin, Plain):
    def __init__(self, shard):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.0), norm=True)
        self.target_space = TargetSpaceConfig(init="weights", reference=ReferenceConfig(shard=shard))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        return super().forward(x * self.scale)

    def training_step(self, batch, batch_idx):
        self.scale.fill_(3.0)
        next(module for module in self.modules() if isinstance(module, nn.BatchNorm1d)).eval()
        return super().training_step(batch, batch_idx)


def trained(shard):
    torch.manual_seed(0)
    model = Scaled(shard)
    given = [p.detach().clone() for p in model.parameters()]
    fit(model, loader(8), strategy="ddp", devices=2, max_epochs=1)
    return max(float((p - q).abs().max()) for p, q in zip(model.parameters(), given, strict=True))


@pytest.mark.parametrize("shard", [True, False])
def test_in_two_processes(shard, tmp_path):
    assert max(run(trained, shard, ranks=2)) < 1e-6
