"""Fits that resume while a layer is called no more: its targets wait, and it is bound where it is called again."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.lightning.test_no_longer_called import AuxiliaryHead, Recurrent, Skipped
from tests.support.fits import CONFIG, assert_equal, build, fit, loader
from ts_lightning import TargetSpace

EPOCHS = 5


class Convolution(Skipped):
    def __init__(self, **options):
        super().__init__(**options)
        self.second = nn.Conv1d(1, 1, 3, padding=1)

    def use_second(self, h):
        return torch.tanh(self.second(h[:, None]))[:, 0]


class Attention(Skipped):
    def __init__(self, **options):
        super().__init__(**options)
        self.second = nn.MultiheadAttention(8, 2, batch_first=True)

    def use_second(self, h):
        return torch.tanh(self.second(*[h[:, None]] * 3)[0][:, 0])


def trained(cls, config=CONFIG, again=True, save=None, at=1, **options):
    """The module behind some epochs, in the second and third of which, or from the second on, a layer is not called."""

    class Once(cls):
        def called(self):
            return self.current_epoch == 0 or (again and self.current_epoch > 2)

        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            if save and self.current_epoch == at:
                self.trainer.save_checkpoint(save)

    model = build(Once)
    model.target_space = config
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, loader(), max_epochs=EPOCHS, **options)
    return model, [str(one.message) for one in said]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("cls", [Skipped, AuxiliaryHead, Recurrent, Convolution, Attention])
def test_a_fit_goes_on_bit_for_bit(cls, again, tmp_path):
    """It started from the weights, with a warning, and the layer trained in weight space from then on."""
    whole, _ = trained(cls, again=again, save=tmp_path / "kept.ckpt")
    resumed, said = trained(cls, again=again, ckpt_path=tmp_path / "kept.ckpt")
    assert not any("starts from the weights" in text for text in said)
    assert not any("does not call second" in text for text in said)  # which the fit before has said
    assert_equal(resumed, whole)
    spaces = resumed.target_space_engine, whole.target_space_engine
    assert_equal(*[dict(space.targets) for space in spaces])
    assert resumed.target_space_engine.units == whole.target_space_engine.units


@pytest.mark.parametrize(
    "config",
    [replace(CONFIG, untangle="auto"), replace(CONFIG, untangle=3), replace(CONFIG, cascade_gradient=False)],
    ids=["auto", "period", "own gradients"],
)
def test_whatever_the_settings(config, tmp_path):
    whole, _ = trained(Skipped, config, save=tmp_path / "kept.ckpt")
    assert_equal(trained(Skipped, config, ckpt_path=tmp_path / "kept.ckpt")[0], whole)


def test_from_a_checkpoint_of_a_fit_that_was_resumed_itself(tmp_path):
    one, other = tmp_path / "one.ckpt", tmp_path / "other.ckpt"
    whole, _ = trained(Skipped, save=one)
    trained(Skipped, ckpt_path=one, save=other, at=2)
    state = torch.load(other)["target_space"]
    assert state["idle"] == ["second"]
    again = build(Skipped)
    again.load_state_dict(torch.load(other)["state_dict"])
    again.called = lambda: False
    space = TargetSpace(again, state["reference"][0], CONFIG, state=state)
    assert space.state_dict()["places"] == state["places"]
    assert whole.target_space_engine.targets.keys() == space.targets.keys()
