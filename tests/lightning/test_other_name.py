"""Modules, callbacks and loggers of ``pytorch_lightning``, Lightning's other name, are named with what to write."""

import warnings

import pytest
import torch
from torch import nn

from tests.support.fits import Lit, Plain, loader, trainer
from ts_lightning import TargetSpaceError, TargetSpaceMixin, convert, inspect
from ts_lightning.cli.meant import classes

pl = pytest.importorskip("pytorch_lightning")
WRITE = r"found \w+, a class of pytorch_lightning\. .*Write import lightning\.pytorch as pl"


class Other(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()


class Finetuning(pl.callbacks.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


@pytest.mark.parametrize(
    ("use", "where"),
    [
        (
            lambda: type("Lit", (TargetSpaceMixin, pl.LightningModule), {"training_step": Other.training_step}),
            "class Lit",
        ),
        (lambda: type("Lit", (TargetSpaceMixin, Other), {}), "class Lit"),
        (lambda: convert(Other()), "convert"),
        (lambda: inspect(Other(), torch.rand(5, 3)), "inspect"),
    ],
    ids=["the mixin", "the mixin on a class", "convert", "inspect"],
)
def test_a_module_is_refused_where_it_is_used(use, where):
    """The first had an error on configure_sharded_model, the second one on a missing training_step."""
    with pytest.raises(TargetSpaceError, match=f"{where}: {WRITE}"):
        use()


def test_the_command_line_says_what_is_wrong_with_a_class():
    found = classes(f"{__name__}.Other", "lightning.pytorch.LightningModule")
    assert found.startswith("found a class of pytorch_lightning.")
    assert "lightning.pytorch as pl" in found


def taken_by_lightning(options):
    """Whether Lightning takes it in weight space; some versions refuse callbacks of the other name themselves."""
    try:
        trainer(**options()).fit(Plain(), loader())
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"callbacks": [pl.callbacks.Timer()]},
        lambda: {"callbacks": [Finetuning()], "max_epochs": 3},
        lambda: {"logger": pl.loggers.CSVLogger("logs")},
    ],
    ids=["a callback", "a finetuning callback", "a logger"],
)
def test_callbacks_and_loggers_are_named_and_a_fit_goes_on(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not taken_by_lightning(options):
        pytest.skip("this Lightning refuses it itself")
    with pytest.warns(UserWarning, match=r"Found \w+ of pytorch_lightning in a Trainer of lightning\.pytorch"):
        trainer(**options()).fit(Lit(), loader())


@pytest.mark.parametrize(("space", "other"), [(None, True), (Lit.target_space, False)])
def test_nothing_is_said_in_weight_space_or_without_them(space, other, tmp_path):
    model = Lit()
    model.target_space = space
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer(logger=pl.loggers.CSVLogger(tmp_path) if other else False).fit(model, loader())
    assert not any("pytorch_lightning in a" in str(one.message) for one in said)
