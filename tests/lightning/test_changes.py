"""What is changed in mid-fit: written, pruned and averaged weights, and parameters that join."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging
from torch import nn
from torch.nn import functional

from tests.support.fits import CONFIG, Lit, Plain, build, data, fit, loader
from ts_lightning import TargetSpace

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.002)}


WRITES = {
    "in place": lambda p: p.clamp_(-0.3, 0.3),
    "data": lambda p: p.data.clamp_(-0.3, 0.3),
    "copy": lambda p: p.copy_(p.clamp(-0.3, 0.3)),
    "other data": lambda p: setattr(p, "data", p.data.clamp(-0.3, 0.3)),
}


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("write", WRITES)
def test_written_weights_are_kept_and_said(write, hook):
    """As the critic of a Wasserstein GAN is clamped."""

    class Clamping(Lit):
        def loss(self, batch):
            self.largest = [*getattr(self, "largest", []), float(self.net[2].weight.detach().abs().max())]
            return super().loss(batch)

    def clamp(self, *args, **kwargs):
        with torch.no_grad():
            WRITES[write](self.net[2].weight)

    setattr(Clamping, hook, clamp)
    model = build(Clamping, **ADAM)
    with pytest.warns(
        UserWarning, match=r"weights of net\.2 were changed since the last optimizer step.*kept.*exclude"
    ):
        fit(model, max_epochs=10)
    assert max(model.largest[1:]) <= 0.3 + 1e-6
    assert model.losses[-1] < model.losses[0]


def test_weights_and_a_norm_written_between_two_steps():
    class Writing(Lit):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 2:
                with torch.no_grad():
                    self.net[0].weight.mul_(0.9)
                    self.net[1].weight.mul_(1.1)
                self.written = self.net[0].weight.detach().clone()

        def on_before_backward(self, loss):
            if hasattr(self, "written"):
                assert torch.equal(self.net[0].weight, self.written)
                del self.written

    model = build(Writing, norm=True, **ADAM)
    with pytest.warns(UserWarning, match="were changed since the last optimizer step"):
        fit(model, max_epochs=1)


class Independent(Lit):
    """Two networks in one module; the first is stepped between the second's forward and its backward."""

    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False
        self.other = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def reference_forward(self, batch):
        return self.net(batch[0]), self.other(batch[0])

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        losses = [functional.cross_entropy(net(batch[0]), batch[1]) for net in (self.net, self.other)]
        for optimizer, loss in zip((first, second), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.losses.append(float(losses[1].detach()))

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=0.002) for net in (self.net, self.other)]


def test_independent_networks_step_before_each_others_backward():
    model = build(Independent)
    fit(model, max_epochs=5)
    assert model.losses[-1] < model.losses[0]


def test_pruned_weights_stay_pruned():
    model = build(**ADAM)
    pruning = ModelPruning(
        "l1_unstructured",
        parameters_to_prune=[(model.net[2], "weight")],
        amount=0.5,
        make_pruning_permanent=True,
        prune_on_train_epoch_end=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, max_epochs=3, callbacks=[pruning])
    assert 0.4 < float((model.net[2].weight == 0).float().mean()) < 1


@pytest.mark.parametrize("norm", [False, True])
def test_averaged_weights_are_the_last_word(norm):
    """With batch norms Lightning runs another epoch without gradients; its step with those before moves norms alone."""
    averaging = StochasticWeightAveraging(swa_lrs=0.001, swa_epoch_start=2)
    model = build(norm=norm, **ADAM)
    fit(model, max_epochs=4, callbacks=[averaging])
    solved = {id(p) for layer in model.target_space_engine.layers for p in layer.parameters}
    for p, q in zip(model.parameters(), averaging._average_model.parameters(), strict=True):
        if id(p) in solved:
            assert torch.equal(p, q)


@pytest.mark.parametrize("written", ["before it", "behind it"])
def test_a_layer_frozen_since_the_last_solve_stays_when_written_weights_are_adopted(written):
    """Found by tests/engine/test_random_use.py: adopting one layer's weights solved the frozen one anew."""
    model = build(Plain, norm=True, dtype=torch.float64)
    model.net[1] = nn.LayerNorm(8).double()
    batch = data(dtype=torch.float64)
    space = TargetSpace(model, batch[0][:32], CONFIG)
    model.net[3].requires_grad_(False)
    frozen = model.net[3].weight.detach().clone()
    name = "net.0" if written == "before it" else "net.5"
    with torch.no_grad():
        model.get_submodule(name).weight.mul_(0.9)
        model.net[1].weight.mul_(1.1)
    model.loss(batch).backward()
    with pytest.warns(UserWarning, match=rf"weights of {name} were changed"):
        space.pullback(keep=True)
    assert torch.equal(model.net[3].weight, frozen)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_weights_written_between_reading_gradients_and_the_step_are_kept(clip):
    """As weight decay by hand is, behind the clipping that has pulled back already; the step goes on from them."""

    class Decaying(Lit):
        def on_before_optimizer_step(self, optimizer):
            assert all(target.grad is not None for target in self.target_space_engine.targets.values())
            if self.written is None:
                with torch.no_grad():
                    self.net[0].weight.mul_(0.5)
                self.written = self.net[0].weight.detach().clone()

        def on_train_batch_end(self, *args):
            moved = (self.net[0].weight.detach() - self.written).norm() / self.written.norm()
            self.moved = [*self.moved, float(moved)]  # 1 where the step went on from the weights of before

    model = build(Decaying, **ADAM)
    model.written, model.moved = None, []
    with pytest.warns(UserWarning, match=r"weights of net\.0 were changed since the last optimizer step"):
        fit(model, max_epochs=1, gradient_clip_val=clip)
    assert 0 < model.moved[0] < 0.4
    assert model.moved == sorted(set(model.moved))


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_weights_written_behind_the_last_step_are_kept_in_the_next_fit(hook):
    class Halved(Lit):
        def __init__(self):
            super().__init__(**ADAM)
            self.written = []

    def halve(self):
        with torch.no_grad():
            self.net[2].weight.mul_(0.5)
        self.written.append(self.loss(data()).item())

    setattr(Halved, hook, halve)
    model = build(Halved)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*changed since")
        fit(model, max_epochs=1)
    del model.losses[:]
    with pytest.warns(UserWarning, match=r"weights of net\.2 were changed since the last optimizer step"):
        fit(model, loader(64), max_epochs=1)
    assert model.losses[0] == pytest.approx(model.written[0], rel=1e-5)
