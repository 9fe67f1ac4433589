"""Fits of recurrent networks of one's own: they learn, resume, and are judged on other lengths."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import assert_equal, trainer
from tests.support.loops import LOOPS
from ts_lightning import TargetAdam, TargetSpaceConfig, TargetSpaceMixin

CASES = ("cell of two layers", "LSTM cells", "translator", "convolutional cell")


class Lit(TargetSpaceMixin, LightningModule):
    def __init__(self, case, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.losses = LOOPS[case][0](), []
        self.target_space = TargetSpaceConfig(**settings)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = functional.mse_loss(self(batch[0]).flatten(1).mean(1), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.mse_loss(self(batch[0]).flatten(1).mean(1), batch[1]))

    def configure_optimizers(self):
        return TargetAdam(self.parameters(), lr=0.01)


def loader(steps=4):
    x = torch.randn(48, steps, 3, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.mean((1, 2))), batch_size=16)


def fit(model, **options):
    path = options.pop("ckpt_path", None)
    run = trainer(max_epochs=3, **options)
    run.fit(model, loader(), loader(7), ckpt_path=path)
    return run


@pytest.mark.parametrize("settings", [{}, {"untangle": 3}, {"cascade_gradient": False, "untangle": "auto"}])
@pytest.mark.parametrize("case", CASES)
def test_a_fit_learns_and_resumes_to_the_last_bit(case, settings, tmp_path):
    every = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)  # an epoch
    model = Lit(case, **settings)
    whole = fit(model, callbacks=[every], enable_checkpointing=True)
    assert whole.global_step == 9
    assert sum(model.losses[-3:]) < sum(model.losses[:3])
    for step in (3, 6):
        resumed = Lit(case, **settings)
        fit(resumed, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_equal(resumed, model)
        assert resumed.losses == model.losses[step:]
