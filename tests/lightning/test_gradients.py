"""Gradients where people look for them: read, changed, clipped, accumulated and copied."""

import copy

import pytest
import torch
from lightning.pytorch.utilities import grad_norm
from torch import nn
from torch.nn import functional

from tests.support.fits import CONFIG, Lit, Plain, build, data, fit, loader
from ts_lightning import TargetSpace, TargetSpaceError

SGD = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}


def moved(model, before):
    return max(float((p - q).detach().abs().max()) for p, q in zip(model.parameters(), before, strict=True))


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def weight_gradients(model, batch):
    """The gradients of the weights by autograd alone."""
    twin = build(Plain)
    twin.load_state_dict(model.state_dict())
    twin.loss(batch).backward()
    return [p.grad for p in twin.parameters()]


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_after_backward", "optimizer_step", "zero_grad"])
def test_weights_have_their_gradients_from_backward_to_zero_grad(hook):
    seen = []

    class Watched(Lit):
        def look(self, batch):
            expected = weight_gradients(self, batch)
            seen.append(all(torch.allclose(p.grad, e) for p, e in zip(self.parameters(), expected, strict=True)))
            assert list(grad_norm(self, 2)) == [
                *(f"grad_2.0_norm/{name}" for name, _ in self.named_parameters()),
                "grad_2.0_norm_total",
            ]

        def training_step(self, batch, batch_idx):
            self.batch = batch
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer):
            if hook == "on_before_optimizer_step":
                self.look(self.batch)

        def on_after_backward(self):
            if hook == "on_after_backward":
                self.look(self.batch)

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            def closure():
                loss = optimizer_closure()
                if hook == "optimizer_step":
                    self.look(self.batch)
                return loss

            optimizer.step(closure=closure)

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            if hook == "zero_grad" and len(self.seen) > 1:  # behind a step
                assert all(p.grad is not None for p in self.parameters())
                seen.append(True)
            optimizer.zero_grad()
            assert all(p.grad is None for p in self.parameters())

    fit(build(Watched, **SGD), max_epochs=1)
    assert seen == [True] * (3 if hook == "zero_grad" else 4)


CHANGES = {
    "clip": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 1e-8),
    "clip value": lambda m: nn.utils.clip_grad_value_(m.parameters(), 1e-9),
    "scale": lambda m: [p.grad.mul_(1e-8) for p in m.parameters()],
    "another": lambda m: [setattr(p, "grad", p.grad * 1e-8) for p in m.parameters()],
    "none": lambda m: [setattr(p, "grad", None) for p in m.parameters()],
    "zero": lambda m: [p.grad.zero_() for p in m.parameters()],
    # of which no version tells
    "data": lambda m: [p.grad.data.clamp_(-1e-9, 1e-9) for p in m.parameters()],
    "another data": lambda m: [setattr(p.grad, "data", 1e-8 * p.grad) for p in m.parameters()],
    "numpy": lambda m: [p.grad.numpy().fill(0) for p in m.parameters()],
    "reversed and halved": lambda m: [p.grad.data.mul_(-1e-8) for p in m.parameters()],
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", ["configure_gradient_clipping", "on_before_optimizer_step", "on_after_backward"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_gradients_of_weights_are_what_trains(change, place, after):
    """Also where the targets' gradients had been read before, so that they had been pulled back."""

    class Changing(Lit):
        def change(self):
            if after:
                assert all(t.grad is not None for t in self.target_space_engine.targets.values())
            CHANGES[change](self)

        def configure_gradient_clipping(self, *args, **kwargs):
            if place == "configure_gradient_clipping":
                self.change()

        def on_before_optimizer_step(self, optimizer):
            if place == "on_before_optimizer_step":
                self.change()

        def on_after_backward(self):
            if place == "on_after_backward":
                self.change()

        def on_train_start(self):
            super().on_train_start()
            self.before = values(self)

    model = build(Changing, **SGD)
    fit(model, max_epochs=1)
    assert moved(model, model.before) < 1e-5


def test_reversed_gradients_are_seen_behind_a_pull_back():
    class Reversing(Lit):
        def on_after_backward(self):
            before = {name: t.grad.clone() for name, t in self.target_space_engine.targets.items()}
            for parameter in self.parameters():
                parameter.grad.data.neg_()
            self.before = before

        def on_train_batch_end(self, *args):
            for name, target in self.target_space_engine.targets.items():
                torch.testing.assert_close(target.grad, -self.before[name])
            self.checked = True

    model = build(Reversing, **SGD)
    fit(model, max_epochs=1)
    assert model.checked


def test_gradients_that_are_not_finite_may_be_mended_behind_a_pull_back():
    class Mending(Lit):
        def on_after_backward(self):
            for parameter in self.parameters():
                parameter.grad.fill_(torch.nan)
            assert all(not t.grad.isfinite().all() for t in self.target_space_engine.targets.values())
            for parameter in self.parameters():
                parameter.grad.data.nan_to_num_(0)

        def on_train_start(self):
            super().on_train_start()
            self.before = values(self)

    model = build(Mending, **SGD)
    fit(model, max_epochs=1)
    assert moved(model, model.before) < 1e-5


def test_halved_gradients_are_half_the_rate():
    class Halving(Lit):
        def on_after_backward(self):
            for parameter in self.parameters():
                parameter.grad *= 0.5

    halved, slow = build(Halving, **SGD), build(optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    for model in (halved, slow):
        fit(model, max_epochs=1)
    for p, q in zip(halved.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_targets_moved_between_solve_and_step_are_refused_by_name():
    model = build(Plain)
    space = TargetSpace(model, data()[0][:32], CONFIG)
    model.loss(data()).backward()
    with torch.no_grad():
        space.targets["net.2"].add_(0.1)
    with pytest.raises(TargetSpaceError, match=r"targets of net\.2 were changed after.*solve\(\)"):
        space.pullback()


@pytest.mark.parametrize("manual", [False, True])
def test_second_derivatives_are_refused_by_name(manual):
    class Second(Lit):
        def __init__(self, **options):
            super().__init__(**options)
            self.automatic_optimization = not manual

        def backward(self, loss):
            loss.backward(create_graph=True)

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if manual:
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

    with pytest.raises(TargetSpaceError, match=r"create_graph=True.*target_space=None"):
        fit(build(Second, **SGD), max_epochs=1)


def test_penalised_gradients_of_inputs_train():
    """create_graph=True on the way to a loss, as gradient penalties have it, is no second derivative of weights."""

    class Penalised(Lit):
        def loss(self, batch):
            x = batch[0].clone().requires_grad_()
            out = self(x)
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            return functional.cross_entropy(out, batch[1]) + slope.square().mean()

    model = build(Penalised, optimizer=lambda p: torch.optim.SGD(p, lr=0.001))
    fit(model, loader(64), max_epochs=5)
    assert model.losses[-1] < model.losses[0]


def test_accumulated_and_read_between_backward_passes():
    """Reading a target's gradient between two backward passes pulls back twice, and the sum is the same."""
    found = []
    for reads in (False, True):
        model = build(Plain)
        space = TargetSpace(model, data()[0][:32], CONFIG)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        handle = space.attach(optimizer)
        for batch in loader():
            model.loss(batch).backward()
            if reads:
                assert space.targets["net.0"].grad is not None
        found.append({name: t.grad.clone() for name, t in space.targets.items()})
        handle.remove()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_copies_and_pickles_of_targets_are_plain(tmp_path):
    model = build(Plain)
    space = TargetSpace(model, data()[0][:32], CONFIG)
    optimizer = torch.optim.Adam(space.parameters())
    twin = copy.deepcopy(optimizer)
    torch.save([p for g in optimizer.param_groups for p in g["params"]], tmp_path / "targets.pt")
    loaded = torch.load(tmp_path / "targets.pt", weights_only=True)
    for target, copied, kept in zip(space.parameters(), twin.param_groups[0]["params"], loaded, strict=True):
        assert torch.equal(target, copied)
        assert torch.equal(target, kept)
        assert type(kept) is nn.Parameter
