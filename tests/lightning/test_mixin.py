"""The mixin's life in a Trainer: set up, refused, fitted twice, copied, saved; and plain Lightning where it is off."""

import copy
import pickle
import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.fits import Lit, Plain, assert_equal, build, data, fit, loader, trainer
from ts_lightning import ReferenceConfig, TargetSpaceConfig, TargetSpaceError, TargetSpaceMixin


@pytest.mark.parametrize("where", ["class", "instance"])
def test_without_target_space_it_is_plain_lightning(where):
    class Off(Lit):
        target_space = None

    model = build(Off if where == "class" else Lit)
    model.target_space = None
    torch.manual_seed(1)
    run = fit(model, loader(shuffle=True))
    plain = build(Plain)
    torch.manual_seed(1)
    other = fit(plain, loader(shuffle=True))
    assert_equal(model, plain)
    assert model.losses == plain.losses
    assert model.target_space_engine is None
    assert run.strategy.__dict__.keys() == other.strategy.__dict__.keys()


class Augmented(TensorDataset):
    """Draws from every generator whenever a sample is read."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + torch.rand(3) + random.random() + np.random.rand(), y  # noqa: NPY002 (the global state is meant)


@pytest.mark.parametrize("selection", ["first", "random", "balanced"])
def test_training_sees_its_data_and_random_numbers_in_the_same_order(selection):
    seen = []
    for cls in (Lit, Plain):
        model = build(cls)
        if cls is Lit:
            model.target_space = TargetSpaceConfig(reference=ReferenceConfig(size=20, selection=selection))
        seed_everything(2, verbose=False)
        fit(model, DataLoader(Augmented(*data()), 16, shuffle=True), max_epochs=3)
        seen.append((torch.cat(model.seen), torch.rand(3), random.random()))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert seen[0][2] == seen[1][2]


def test_validation_sees_the_solved_weights():
    class Validated(Lit):
        def on_validation_start(self):
            self.expected = copy.deepcopy(self.state_dict())

    model = build(Validated)
    fit(model, val=loader(64))
    with torch.no_grad():
        torch.testing.assert_close(model.validated[-1], model(data()[0]))
    assert_equal(model.expected, model.state_dict())


def test_a_checkpoint_loads_strictly_into_the_plain_class(tmp_path):
    model = build(norm=True)
    run = fit(model)
    run.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    plain = build(Plain, seed=5, norm=True)
    plain.load_state_dict(state["state_dict"], strict=True)
    assert_equal(model, plain)
    assert list(state["state_dict"]) == list(plain.state_dict())
    # the targets and the reference batch have a key of their own, as tensors
    assert_equal(state["target_space"]["targets"], model.target_space_engine.targets)
    assert torch.equal(state["target_space"]["reference"][0], data()[0][:32])


def test_fast_dev_run():
    model = build()
    run = fit(model, val=loader(), fast_dev_run=True)
    assert run.global_step == 1
    assert len(model.validated) == 1


def test_a_second_fit_goes_on_from_the_first():
    model = build(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    fit(model, max_epochs=2)
    left = copy.deepcopy(model.state_dict())
    targets = {n: t.detach().clone() for n, t in model.target_space_engine.targets.items()}

    class Found(Exception):
        pass

    def found():
        assert_equal(model.target_space_engine.targets, targets)
        assert_equal(model.state_dict(), left)
        raise Found

    model.on_train_epoch_start = found
    with pytest.raises(Found):
        fit(model)
    del model.on_train_epoch_start
    # two fits are one long one, since this optimizer has no state
    fit(model, max_epochs=1)
    other = build(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    fit(other, max_epochs=3)
    assert_equal(model, other)


def test_weights_loaded_between_two_fits_are_not_overwritten_by_old_targets():
    model = build()
    model.target_space = TargetSpaceConfig(init="weights")
    fit(model, max_epochs=1)
    given = build(Plain, seed=9)
    model.load_state_dict(given.state_dict())
    x, _ = data()
    expected = given(x)
    model.on_train_epoch_start = lambda: torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    fit(model, max_epochs=1)


def test_a_later_fit_in_weight_space_forgets_the_targets(tmp_path):
    model = build()
    fit(model, max_epochs=1)
    model.target_space = None
    run = fit(model, max_epochs=1)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert "target_space" not in torch.load(tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_the_solved_weights_and_no_engine(how):
    copies = []

    class Copied(Lit):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            copies.append((copy.deepcopy(self), copy.deepcopy(self.state_dict())))

    fit(build(Copied), max_epochs=1)
    for copied, state in copies:
        assert copied.target_space_engine is None
        assert_equal(copied.state_dict(), state)
    model = build()
    model.make = torch.optim.Adam
    fit(model)
    assert_equal(how(model), model)


def test_hooks_that_are_overridden_without_super_change_nothing():
    class Hiding(Lit):
        def on_fit_start(self):
            pass

        def on_train_start(self):
            pass

        def on_train_batch_start(self, batch, batch_idx):
            pass

        def configure_callbacks(self):
            return []

        def setup(self, stage):
            pass

    model, other = build(Hiding), build()
    fit(model)
    fit(other)
    assert_equal(model, other)
    assert_equal(model.target_space_engine.targets, other.target_space_engine.targets)


def test_a_layer_that_no_optimizer_trains_is_left_out():
    class Partly(Lit):
        def configure_optimizers(self):
            return torch.optim.SGD([*self.net[0].parameters(), *self.net[4].parameters(), self.net[2].bias], lr=0.1)

    model = build(Partly)
    kept = model.net[2].weight.clone()
    with pytest.warns(UserWarning, match=r"because no optimizer trains them: net\.2\."):
        run = fit(model)
    assert list(model.target_space_engine.targets) == ["net.0", "net.4"]
    assert torch.equal(model.net[2].weight, kept)
    # its bias is trained as it was asked to be
    assert any(p is model.net[2].bias for p in run.optimizers[0].param_groups[0]["params"])


def test_a_refusal_leaves_the_model_as_it_was():
    model = build()
    model.add_module("idle", nn.Linear(2, 2))
    kept, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    run = trainer()
    model.target_space = TargetSpaceConfig(layers=["net", "idle"])
    with pytest.raises(TargetSpaceError, match="did not reach idle"):
        run.fit(model, loader())
    assert_equal(model.state_dict(), kept)
    assert [m.training for m in model.modules()] == flags
    assert "optimizer_step" not in run.strategy.__dict__
    assert model.target_space_engine is None
    model.target_space = TargetSpaceConfig()
    fit(model)
    assert list(model.target_space_engine.targets) == ["net.0", "net.2", "net.4"]
    assert model.target_space_engine.left == [("idle", "nn.Linear", "not called in the reference forward")]


Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize("own", [False, True])
def test_the_reference_batch_keeps_its_type_and_takes_the_transfer_hooks(own):
    received = []

    class Scaled(Lit):
        def reference_batch(self):
            return Pair(data()[0][:9], data()[1][:9]) if own else super().reference_batch()

        def reference_forward(self, batch):
            assert isinstance(batch, Pair) or not own
            received.append(batch[0].clone())
            batch[0].zero_()  # a copy: the next pass finds it whole
            return self(received[-1])

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return type(batch)(*[batch[0] * 2, batch[1]]) if isinstance(batch, Pair) else [batch[0] * 2, batch[1]]

    model = build(Scaled)
    fit(model)
    assert all(torch.equal(x, 2 * data()[0][: 9 if own else 32]) for x in received)
    # and the reference is no part of the module's state
    assert set(model.state_dict()) == set(build(Plain).state_dict())
    assert not list(model.buffers())  # which averaging would average


def test_double_precision():
    model = build()
    fit(model, precision="64-true")
    assert all(target.dtype == torch.float64 for target in model.target_space_engine.targets.values())


def test_no_forward_and_steps_of_its_own():
    class NoForward(TargetSpaceMixin, LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = NoForward()
    fit(model, DataLoader(TensorDataset(*data()), 8))
    assert list(model.target_space_engine.targets) == ["layer"]

    def training_step(self, dataloader_iter):
        return self.layer(next(dataloader_iter)[0]).sum()

    NoForward.training_step = training_step
    with pytest.raises(TargetSpaceError, match=r"NoForward has no forward\(\).*reference_forward\(batch\)"):
        fit(NoForward(), DataLoader(TensorDataset(*data()), 8))


def test_a_plain_model_around_the_mixin_is_said_to_train_in_weight_space():
    class Parent(Plain):
        def __init__(self, inner):
            super().__init__()
            self.net = inner

    inner = build()
    with pytest.warns(UserWarning, match=r"Lit, which has TargetSpaceMixin, is part of Parent, which has not"):
        fit(Parent(inner))
    assert inner.target_space_engine is None
    quiet = build()
    quiet.target_space = None
    fit(Parent(quiet))
    assert isinstance(inner, Lit)
