"""A module that is converted to another precision, or moved, within a fit or between two."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tests.support.fits import CONFIG, Lit, Plain, assert_solved, build, fit, loader
from ts_lightning import TargetAdam, TargetSpaceError, TargetSpaceMixin

CONVERT = {
    "double": nn.Module.double,
    "to": lambda module: module.to(torch.float64),
    "half": nn.Module.half,
    "bfloat16": nn.Module.bfloat16,
}
OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.002, eps=1e-4),  # which float16 holds
    "SGD": lambda p: torch.optim.SGD(p, lr=0.002, momentum=0.9),
    "TargetAdam": lambda p: TargetAdam(p, lr=0.002, eps=1e-4),
}


class Casting(Lit):
    """Casts its inputs to the precision of its weights."""

    def forward(self, x):
        return self.net(x.to(self.net[0].weight.dtype)).float()


class Hooked(TargetSpaceMixin, Plain):
    """Casts its batches in a hook."""

    target_space = CONFIG

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0].to(self.net[0].weight.dtype), batch[1]


class Once(Callback):
    """Does something once, in the second epoch."""

    def __init__(self, place, do):
        self.left = 1

        def hook(trainer, module, *args):
            if trainer.current_epoch == 1 and self.left:
                self.left = 0
                do(module)

        setattr(self, place, hook)


def trained(kind=Casting, place=None, convert=None, optimizer="SGD", norm=True, **options):
    model = build(kind, optimizer=OPTIMIZERS[optimizer], norm=norm)
    callbacks = [Once(place, convert)] if place else []
    run = fit(model, val=loader(), max_epochs=3, callbacks=callbacks, **options)
    return model, run


CONVERTED = r"converted during the fit \(float32 to \w+\)\. Targets, moments and the reference batch are converted"


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("how", CONVERT)
@pytest.mark.parametrize("place", ["on_train_epoch_start", "on_train_batch_end"])
def test_a_fit_goes_on_in_another_precision(place, how, optimizer, norm):
    """With a norm it ended with an error for loops of one's own; without one targets stayed in float32."""
    with pytest.warns(UserWarning, match=CONVERTED):
        model, run = trained(place=place, convert=CONVERT[how], optimizer=optimizer, norm=norm)
    near = 1e-4 if how in ("double", "to") else 0.05
    torch.testing.assert_close(model.losses, trained(optimizer=optimizer, norm=norm)[0].losses, rtol=near, atol=near)
    expected = torch.promote_types(model.net[0].weight.dtype, torch.float32)
    assert {target.dtype for target in model.target_space_engine.targets.values()} == {expected}
    for parameter, state in run.optimizers[0].state.items():
        assert {v.dtype for name, v in state.items() if name != "step" and torch.is_tensor(v)} <= {parameter.dtype}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("on_train_epoch_start", Hooked),
        ("on_train_batch_start", Casting),  # where the batch of a hook has its precision already
        ("on_train_batch_end", Hooked),
        ("on_validation_epoch_start", Casting),
        ("on_validation_epoch_end", Hooked),
    ],
)
def test_wherever_it_is_between_two_steps(place, kind):
    with pytest.warns(UserWarning, match=CONVERTED):
        model, _ = trained(kind, place, nn.Module.double)
    torch.testing.assert_close(model.losses, trained(kind)[0].losses, rtol=1e-4, atol=1e-4)
    assert_solved(model)


@pytest.mark.parametrize("place", ["on_after_backward", "on_before_optimizer_step"])
def test_within_a_step_it_is_said_where_to(place):
    with pytest.raises(TargetSpaceError, match=r"In a fit convert the model between steps, as in on_train_batch_end"):
        trained(place=place, convert=nn.Module.double)


def test_back_in_full_precision_no_weight_counts_as_written():
    """Weights of bfloat16 are rounded, which no one has written."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = build(Casting, optimizer=OPTIMIZERS["SGD"]).bfloat16()
        fit(model, max_epochs=3, callbacks=[Once("on_train_batch_end", nn.Module.float)])
    told = [str(one.message) for one in said]
    assert any("converted during the fit (bfloat16 to float32)" in one for one in told)
    assert not any("were changed since the last optimizer step" in one for one in told)
    assert_solved(model)


def test_weights_that_are_written_with_it_are_kept():
    def halve(module):
        module.double()
        with torch.no_grad():
            module.net[0].weight.mul_(0.5)
        module.written = module.net[0].weight.detach().clone()

    class Looking(Casting):
        def on_before_backward(self, loss):
            if hasattr(self, "written"):
                assert torch.equal(self.net[0].weight, self.written)
                del self.written

    with pytest.warns(UserWarning, match="were changed since the last optimizer step"):
        model, _ = trained(Looking, "on_train_batch_end", halve)
    assert not hasattr(model, "written")


@pytest.mark.parametrize("kind", [Casting, Hooked])
def test_between_two_fits_targets_go_on(kind):
    """A hook that casts batches left the reference batch in the precision of before, and the weights were started."""
    runs = []
    for change in (nn.Module.double, lambda module: None):
        model = build(kind, optimizer=OPTIMIZERS["SGD"], norm=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*Target space starts from the weights")
            fit(model)
            change(model)
            fit(model)
        runs.append(model.losses)
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_behind_is_resumed(tmp_path):
    saving = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    model = build(Casting, optimizer=OPTIMIZERS["Adam"], norm=True)
    once = Once("on_train_epoch_start", nn.Module.double)
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    with pytest.warns(UserWarning, match=CONVERTED):
        fit(model, max_epochs=4, callbacks=[once, saver], **saving)
    again = build(Casting, optimizer=OPTIMIZERS["Adam"], norm=True).double()
    fit(again, max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert again.losses == model.losses[8:]


def test_a_module_that_was_moved_is_named():
    """It was taken for a module with other parameters, which no optimizer trains."""
    with pytest.raises((NotImplementedError, TargetSpaceError)) as raised:  # Lightning's, which cleans up behind it
        trained(place="on_train_batch_end", convert=lambda module: module.to("meta"))
    error = raised.value
    while error is not None and not isinstance(error, TargetSpaceError):
        error = error.__context__
    assert "moved during the fit: found net.0.weight on meta, expected cpu" in str(error)
