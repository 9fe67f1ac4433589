"""Another Trainer evaluates a module in the midst of its fit: the fit goes on as without it, in both spaces."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.support.fits import Lit, SavedAt, build, fit, loader, trainer

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.002)}


class Whole(Lit):
    """Logs in its steps, which takes the Trainer of the fit."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss

    def test_step(self, batch, batch_idx):
        self.log("test", self.loss(batch))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])


class Other(Lit):
    """Its evaluation evaluates a part of it by a third Trainer."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def on_validation_epoch_end(self):
        trainer().validate(self.part, loader(), verbose=False)


def validated(module, own):
    trainer().validate(module, loader(), verbose=False)


def put_back(module, own):
    """As in weight space, where Lightning leaves the module with the other Trainer."""
    validated(module, own)
    module.trainer = own


def by_test(module, own):
    trainer().test(module, loader(), verbose=False)


def by_predict(module, own):
    trainer().predict(module, loader())


def nested(module, own):
    trainer().validate(Other(module), loader(), verbose=False)


class Evaluated(Callback):
    def __init__(self, how, hook):
        self.how = how
        setattr(self, hook, self.evaluate)

    def evaluate(self, own, module, *rest):
        self.how(module, own)
        assert module.trainer is own


@pytest.mark.parametrize("space", ["target", "weight"])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_epoch_end", "on_validation_end"])
@pytest.mark.parametrize("how", [validated, put_back, by_test, by_predict, nested])
def test_the_fit_goes_on(how, hook, space, tmp_path):
    models = [build(Whole, **ADAM) for _ in range(3)]
    if space == "weight":
        for model in models:
            model.target_space = None
    whole, evaluated, resumed = models
    path = tmp_path / "middle.ckpt"
    fit(whole, val=loader(), max_epochs=4)
    fit(evaluated, val=loader(), max_epochs=4, callbacks=[Evaluated(how, hook), SavedAt(path, epoch=1)])
    fit(resumed, val=loader(), max_epochs=4, ckpt_path=path)
    assert (evaluated.target_space_engine is None) == (space == "weight")
    for model in (evaluated, resumed):
        torch.testing.assert_close(list(model.parameters()), list(whole.parameters()), rtol=0, atol=0)


def test_behind_a_fit_the_module_stays_with_the_trainer_that_evaluates_it():
    model = build(Whole, **ADAM)
    fit(model, max_epochs=1)
    other = trainer()
    other.validate(model, loader(), verbose=False)
    assert model.trainer is other
    copy.deepcopy(other)
