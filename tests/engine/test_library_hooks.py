"""Hooks that belong to a model: put by its library, or by its own forward the first time that it runs."""

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

STATES = []


def collect(module, args, output):
    STATES[-1].append(output)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(5, 5)

    def forward(self, x):
        return torch.tanh(self.dense(x))


class Collecting(nn.Module):
    """As models of transformers: hooks, put once, collect states that a later part of the forward reads."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.readouts = nn.ModuleList(nn.Linear(5, 2) for _ in range(2))

    def forward(self, x):
        if not getattr(self, "hooked", False):
            for block in self.blocks:
                block.register_forward_hook(collect)
            self.hooked = True
        STATES.append([])
        for block in self.blocks:
            x = block(x)
        return sum(readout(state) for readout, state in zip(self.readouts, STATES.pop(), strict=True))


@pytest.fixture
def library(monkeypatch):
    """All of it is a library's own."""
    for thing in (collect, Block, Collecting):
        monkeypatch.setattr(thing, "__module__", "torchmetrics.functional")


@pytest.mark.parametrize("ran_before", [False, True])
def test_states_that_hooks_collect_are_those_of_the_pass(library, ran_before):
    torch.manual_seed(0)
    model, x = Collecting().double(), torch.randn(20, 5, dtype=torch.float64)
    if ran_before:
        model(x)
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.3, step_scale=1.0))
    assert len(space.layers) == 4
    random_targets(space, torch.Generator().manual_seed(0))

    def loss(model):
        return model(x.flip(-1)).square().mean()

    check_differences(space, model, loss, gradients(space, model, loss), torch.Generator().manual_seed(1))
    assert [len(block._forward_hooks) for block in model.blocks] == [1, 1]


def test_a_hook_of_the_users_own_on_such_a_module_sees_no_reference_batch(library):
    torch.manual_seed(0)
    model, x, seen = Collecting(), torch.randn(20, 5), []
    model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    space = TargetSpace(model, x)
    model(x[:7]).sum().backward()
    space.pullback()
    space.solve()
    assert seen == [7]


class Registering(nn.Module):
    """Registers a buffer in its first forward."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(5, 2)

    def forward(self, x):
        if "mean" not in self._buffers:
            self.register_buffer("mean", x.mean(0))
        return self.dense(x - self.mean)


def test_what_the_first_forward_registers_is_the_training_batchs():
    torch.manual_seed(0)
    model, x, others = Registering(), torch.randn(20, 5), torch.randn(8, 5)
    space = TargetSpace(model, x)
    assert "mean" not in model._buffers
    model(others)
    space.solve()
    assert torch.equal(model.mean, others.mean(0))


def test_a_forward_that_writes_in_place_to_what_gradients_need_is_an_error_with_advice():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.sigmoid(self.first(x))
            out = self.second(h * h)
            if not self.training:
                h.zero_()
            return out

    torch.manual_seed(0)
    model, x = Caching(), torch.randn(20, 3)
    space = TargetSpace(model, x)
    model(x).sum().backward()
    with pytest.raises(TargetSpaceError, match=r"writes in place.*use_cache=False.*reference_forward"):
        space.pullback()
