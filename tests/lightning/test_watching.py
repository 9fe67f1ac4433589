"""Hooks of loggers and of users on parameters and modules: called as often as in weight space, and heeded."""

from collections import Counter

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from tests.support.exactness import close, gradients
from tests.support.fits import CONFIG, Lit, Plain, build, data, fit
from ts_lightning import TargetSpace

STEPS = 8


class Watch:
    """As ``wandb.watch`` does: a hook on every parameter for its gradient, and one on the module for its weights."""

    def __init__(self, model):
        self.calls = Counter()
        for name, parameter in model.named_parameters():
            parameter.register_hook(lambda gradient, name=name: self.log(name))
        model.register_forward_hook(self.forward)

    def log(self, name):
        self.calls[name] += 1

    def forward(self, module, args, output):
        self.calls["forward"] += 1


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}])
def test_hooks_are_called_as_often_as_in_weight_space(options):
    found = []
    for kind in (Lit, Plain):
        model = build(kind, norm=True)
        watch = Watch(model)
        fit(model, **options)
        found.append(watch.calls)
    assert found[0] == found[1]
    assert set(found[0].values()) == {STEPS}


def test_wandb_watch(offline, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.integration.torch.wandb_torch import TorchHistory

    seen = Counter()
    monkeypatch.setattr(TorchHistory, "log_tensor_stats", lambda self, tensor, name: seen.update([name]))
    model = build(norm=True)
    logger = WandbLogger(save_dir=offline)
    logger.watch(model, log="all", log_freq=1)
    fit(model, logger=logger, log_every_n_steps=1)
    wandb.finish()
    names = [name for name, _ in model.named_parameters()]
    assert {name: seen[f"gradients/{name}"] for name in names} == dict.fromkeys(names, STEPS)
    # that a library's hook on a module only looks is found in one pass, which it sees
    assert {name: seen[f"parameters/{name}"] for name in names} == dict.fromkeys(names, STEPS + 1)


class Rows(Plain):
    """Two rows of the embedding are kept by a mask on its gradient."""

    def __init__(self, **options):
        super().__init__(**options)
        self.table = nn.Embedding(4, 3)
        self.table.weight.register_hook(lambda gradient: gradient * torch.tensor([[0.0], [1.0], [1.0], [0.0]]))

    def forward(self, x):
        return self.net(x + self.table((x > 0).long() @ torch.tensor([1, 2, 0])))


def test_a_mask_on_a_gradient_holds_for_what_is_pulled_back():
    class Masked(Lit, Rows):
        pass

    model = build(Masked)
    start = model.table.weight.detach().clone()
    fit(model)
    moved = (model.table.weight.detach() - start).norm(dim=1)
    assert moved[0] == moved[3] == 0
    assert float(moved[1:3].min()) > 1e-3


@pytest.mark.parametrize("passes", [1, 2])
def test_a_hook_that_changes_gradients_changes_both_parts(passes):
    """Doubled by a hook, the gradient of a norm is twice what it is without; a hook beside it looks once a batch."""
    batch, found, looked = data(dtype=torch.float64), [], []
    for doubled in (False, True):
        model = build(Plain, norm=True, dtype=torch.float64)
        model.net[1] = nn.LayerNorm(8).double()
        space = TargetSpace(model, batch[0][:32], CONFIG)
        norm = model.net[1].weight
        if doubled:
            norm.register_hook(looked.append)
            norm.register_hook(lambda gradient: 2 * gradient)
            norm.register_hook(looked.append)
        for _ in range(passes):  # in the first one it is found what the hooks do
            space.solve()
            grads = gradients(space, model, lambda run: run.loss(batch))
        found.append(grads["net.1.weight"])
    assert close(found[1], 2 * found[0])
    assert len(looked) == 2 * passes
    assert torch.equal(looked[1], 2 * looked[0])


def test_a_hook_that_removes_itself_is_gone():
    batch, model, calls = data(), build(Plain, norm=True), []
    space = TargetSpace(model, batch[0][:32], CONFIG)

    def once(gradient):
        calls.append(1)
        handle.remove()
        return gradient

    handle = model.net[1].weight.register_hook(once)
    kept = model.net[1].weight.register_hook(lambda gradient: gradient)
    for _ in range(3):
        space.solve()
        gradients(space, model, lambda run: run.loss(batch))
    assert calls == [1]
    assert list(model.net[1].weight._backward_hooks) == [kept.id]
