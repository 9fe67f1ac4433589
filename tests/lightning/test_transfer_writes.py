"""What transfer hooks write for the reference batch is undone: training sees the batches that weight space sees."""

import pytest
import torch
from lightning.pytorch import LightningDataModule

from tests.support.fits import Plain, build, fit, loader
from ts_lightning import TargetSpaceConfig, TargetSpaceMixin


def running(self, batch, dataloader_idx):
    """Standardise a batch by running statistics, and count."""
    self.mean.lerp_(batch[0].mean(0), 0.1)
    self.spread = 0.9 * self.spread + 0.1 * float(batch[0].std())
    self.calls.append(len(batch[0]))
    return [(batch[0] - self.mean) / self.spread, batch[1]]


class Running(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.spread, self.calls = 1.0, []


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
@pytest.mark.parametrize("refresh", [False, True])
def test_of_the_module(hook, refresh):
    models = []
    for bases in ((Running,), (TargetSpaceMixin, Running)):
        model = build(type("Model", bases, {hook: running}))
        if refresh and len(bases) > 1:
            given = {"size": 20, "selection": "random", "refresh": 1}
            model.target_space = TargetSpaceConfig.from_dict({"reference": given})
        fit(model, val=loader(64))
        models.append(model)
    plain, target = models
    assert target.calls == plain.calls
    assert torch.equal(target.mean, plain.mean)
    assert target.spread == plain.spread
    assert all(map(torch.equal, target.seen, plain.seen))
    assert "net.0" in target.target_space_engine.targets


def test_attributes_of_the_datamodule():
    class Data(LightningDataModule):
        def __init__(self):
            super().__init__()
            self.transferred = 0

        def train_dataloader(self):
            return loader()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.transferred += 1
            return batch

    counts = []
    for bases in ((Plain,), (TargetSpaceMixin, Plain)):
        given = Data()
        fit(build(type("Model", bases, {})), given)
        counts.append(given.transferred)
    assert counts == [8, 8]
