"""Fits of modules that apply parts of their parameters."""

import pytest
import torch
from lightning.pytorch import LightningModule, callbacks
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.exactness import close
from tests.support.fits import assert_equal, from_2_6, trainer
from tests.support.parts import given, pair
from tests.support.resuming import every_step, everything
from ts_lightning import ReferenceConfig, TargetSpaceConfig, convert

HOW = {
    "": {},
    "from the weights": {"init": "weights"},
    "untangle": {"untangle": 3},
    "auto": {"untangle": "auto"},
    "own gradients": {"cascade_gradient": False, "untangle": "auto"},
}
OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,  # which makes its state when it is made
    "two groups": lambda parameters, lr: torch.optim.SGD([{"params": [p], "lr": lr} for p in parameters]),
}


class Plain(LightningModule):
    def __init__(self, which=0, optimizer="adam", forward="in_a_row", biases="own"):
        super().__init__()
        self.net = pair(forward, biases=biases)[which]
        self.optimizer = optimizer

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().sum(-1).sub(1).square().mean()

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer](self.parameters(), lr=0.02)


def batches(size=24):  # so that an epoch is a step
    return DataLoader(TensorDataset(given(24, seed=3)), size)


def build(which=0, how=None, **options):
    settings = {"init": "normalised", "reference": ReferenceConfig(size=20)} | (how or {})
    return convert(Plain(which, **options), TargetSpaceConfig(**settings))


def fit(model, ckpt_path=None, size=24, **options):
    run = trainer(**{"max_epochs": 7, "enable_checkpointing": "callbacks" in options, **options})
    run.fit(model, batches(size), ckpt_path=ckpt_path)
    return run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("forward", ["in_a_row", "recurrent"])
def test_parts_train_as_modules(forward, optimizer):
    models = [build(which, optimizer=optimizer, forward=forward) for which in (0, 1)]
    for model in models:
        fit(model, size=6, max_epochs=3, gradient_clip_val=0.5, accumulate_grad_batches=2)
    one, other = (model.net.weights() for model in models)
    assert all(close(a, b, 1e-9) for a, b in zip(one, other, strict=True))
    assert len(models[0].target_space_engine.targets) == 4


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_resuming_at_any_step_gives_the_same_bits(how, tmp_path):
    whole = fit(build(how=how), callbacks=[every_step(tmp_path)])
    files = sorted(tmp_path.iterdir())
    assert len(files) == whole.global_step == 7
    for file in files:
        run = fit(build(how=how), ckpt_path=file)
        assert_equal(everything(run), everything(whole))


def test_a_checkpoint_is_one_of_the_plain_module(tmp_path):
    model = build()
    fit(model, callbacks=[every_step(tmp_path)])
    state = torch.load(sorted(tmp_path.iterdir())[-1], weights_only=True)["state_dict"]
    plain = Plain()
    assert {*state} == {*plain.state_dict()}
    plain.load_state_dict(state)
    assert torch.equal(plain(given(4)), model(given(4)))


def test_a_checkpoint_of_weight_space_is_gone_on_with(tmp_path):
    plain = Plain()
    fit(plain, callbacks=[every_step(tmp_path)])
    model = build(how={"init": "auto"})
    run = trainer(max_epochs=7, enable_checkpointing=False)
    run.fit(model, batches(), ckpt_path=sorted(tmp_path.iterdir())[-1])
    assert close(model(given(4)), plain(given(4)), 1e-10)


@from_2_6
def test_the_average_of_weights_is_that_of_the_whole():
    averages = []
    for which in (0, 1):
        model = build(which)
        averaging = callbacks.WeightAveraging(avg_fn=get_ema_avg_fn(0.9))
        fit(model, callbacks=[averaging], enable_checkpointing=False)
        averages.append(model.net.weights())
    assert all(close(a, b, 1e-9) for a, b in zip(*averages, strict=True))


def test_a_second_fit_goes_on_from_the_weights():
    found = []
    for which in (0, 1):
        model = build(which)
        fit(model)
        fit(model)
        found.append(model.net.weights())
    assert all(close(a, b, 1e-8) for a, b in zip(*found, strict=True))
