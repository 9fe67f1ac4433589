"""Weights that a forward reads without a gradient ahead of their layer: each solve followed from the one before.

Four solves in a row moved the weights by up to their own size, and nothing was said.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.engine.test_loops_that_change import Stepwise
from tests.support.exactness import check_each_target, random_targets
from tests.support.middles import EXACT, batch
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.survey import read_ahead

READ = "read by forward before it is solved"


class Net(nn.Module):
    """Three dense layers, and what ``run(net, h)`` makes of the first one's activations ahead of the second one."""

    def __init__(self, run=None, behind=None, before=None, middle=None):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 4), middle or nn.Linear(4, 4), nn.Linear(4, 2)
        self.run, self.behind, self.before = run, behind, before
        self.register_buffer("average", torch.zeros(4, 4))

    def forward(self, x):
        x = x if self.before is None else self.before(self, x)
        h = torch.tanh(self.first(x))
        h = h if self.run is None else self.run(self, h)
        h = torch.tanh(self.middle(h))
        return self.last(h if self.behind is None else self.behind(self, h))


def net(*args, **kwargs):
    torch.manual_seed(0)
    return Net(*args, **kwargs).double()


def solved(model, config=EXACT, x=None):
    """The space of a model, of which solves without a step change nothing."""
    space = TargetSpace(model, batch() if x is None else x, config)
    random_targets(space, torch.Generator().manual_seed(1))
    weights = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        space.solve()
        assert all(map(torch.equal, weights, model.parameters()))
    return space


def without_gradients(m, h):
    with torch.no_grad():
        size = m.middle.weight.norm()
    return h / size


def copied(m, h):
    other = torch.empty_like(h[:4])
    other.copy_(m.middle.weight.detach())
    return h / other.norm()


def in_a_buffer(m, h):
    with torch.no_grad():
        m.average.copy_(m.middle.weight)
    return functional.linear(h, m.average)


def averaged(m, h):
    with torch.no_grad():
        average = m.average.lerp(m.middle.weight, 0.5)
    return h + functional.linear(h, average)


def checkpointed(m, h):
    return checkpoint(lambda h: h / m.middle.weight.detach().norm(), h, use_reentrant=False)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, w):
        ctx.size = w.norm()
        return h / ctx.size

    @staticmethod
    def backward(ctx, gradient):
        return gradient / ctx.size, None


READS = {
    "detach": lambda m, h: h / m.middle.weight.detach().norm(),
    "data": lambda m, h: h / m.middle.weight.data.norm(),
    "no_grad": without_gradients,
    "item": lambda m, h: h * m.middle.weight[0, 0].item(),
    "float": lambda m, h: h * float(m.middle.weight.sum()),
    "tolist": lambda m, h: h / np.linalg.norm(m.middle.weight.tolist()),
    "NumPy": lambda m, h: h / np.linalg.norm(m.middle.weight.detach().numpy()),
    "asarray": lambda m, h: h / np.linalg.norm(np.asarray(m.middle.weight.data)),
    "DLPack": lambda m, h: h / torch.from_dlpack(m.middle.weight.detach()).norm(),
    "copy": copied,
    "buffer": in_a_buffer,
    "average": averaged,
    "applied": lambda m, h: torch.tanh(functional.linear(h, m.middle.weight.detach())),
    "cosines": lambda m, h: functional.linear(functional.normalize(h), functional.normalize(m.middle.weight.detach())),
    "gradient lost behind": lambda m, h: h + functional.linear(torch.ones_like(h), m.middle.weight).detach(),
    "spectral norm": lambda m, h: h / torch.linalg.svdvals(m.middle.weight.detach())[0],
    "state dictionary": lambda m, h: h / m.middle.state_dict()["weight"].norm(),
    "copy of the module": lambda m, h: h / copy.deepcopy(m.middle).weight.detach().norm(),
    "parameters": lambda m, h: h / nn.utils.parameters_to_vector(m.middle.parameters()).detach().norm(),
    "checkpoint": checkpointed,
    "function": lambda m, h: Straight.apply(h, m.middle.weight.detach()),
    "sign": lambda m, h: h if m.middle.weight.detach().sum() > 0 else -h,
    "bound": lambda m, h: h * (9 / m.middle.weight.detach().norm()).clamp(max=1.0),
    "bias": lambda m, h: h + m.middle.bias.detach(),
}


@pytest.mark.parametrize("read", READS)
def test_a_layer_that_is_read_ahead_of_its_solve_is_left_and_the_others_are_exact(read):
    model = net(READS[read])
    space = solved(model)
    assert space.left == [("middle", "nn.Linear", READ)]

    def loss():
        return model(batch(8, seed=2)).square().sum()

    loss().backward()
    space.pullback()
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-7)
    with pytest.raises(TargetSpaceError, match=r"layer 'middle': forward reads its weight.*add 'middle' to exclude"):
        TargetSpace(net(READS[read]), batch(), TargetSpaceConfig(layers=["middle"]))


LATER = {
    "of the input": {"before": lambda m, x: x * m.last.weight.detach().norm()},
    "of an activation": {"run": lambda m, h: h / m.last.weight.data.norm()},
    "behind another layer": {"behind": lambda m, h: h + m.last.weight.detach()[0]},
}


@pytest.mark.parametrize("where", LATER)
def test_a_weight_of_a_later_layer_is_left(where):
    assert solved(net(**LATER[where])).left == [("last", "nn.Linear", READ)]


def test_of_several_weights_that_are_read_those_are_left_that_a_solve_depends_on():
    def every(m, h):
        return h / sum(float(p.detach().norm()) for p in m.parameters())

    space = solved(net(every))
    assert [left.name for left in space.left] == ["middle", "last"]
    assert list(space.targets) == ["first"]


def test_weights_that_matter_only_together_are_left_together():
    def bounded(m, h):
        return h / min(w.detach().norm().clamp(min=6) for w in (m.middle.weight, m.last.weight))

    space = solved(net(bounded))
    assert [left.name for left in space.left] == ["middle", "last"]


def logged(m, h):
    m.size = m.middle.weight.detach().norm().item()
    m.penalty = m.middle.weight.norm() + sum(p.square().sum() for p in m.parameters())
    return h


RIGHT = {
    "behind": {"behind": lambda m, h: h / m.middle.weight.detach().norm()},
    "behind, as a number": {"behind": lambda m, h: h * m.middle.weight[0, 0].item()},
    "of an earlier layer": {"run": lambda m, h: h / m.first.weight.detach().norm()},
    "penalty and norm": {"run": logged},
    "cancelled": {"run": lambda m, h: h + 0 * m.middle.weight.detach().norm()},
    "type": {"run": lambda m, h: h.type_as(m.middle.weight).to(m.last.weight)},
}


@pytest.mark.parametrize("where", RIGHT)
def test_reads_that_no_solve_depends_on_leave_nothing(where):
    assert solved(net(**RIGHT[where])).left == []


def test_a_forward_that_is_another_one_in_every_pass_leaves_nothing():
    """Of numbers that are no part of the model; a norm that it logs was taken for their cause."""
    passes = []

    def counted(m, h):
        passes.append(m.middle.weight.detach().norm().item())
        return h * len(passes)

    assert TargetSpace(net(counted), batch(), EXACT).left == []


def test_weights_are_as_they_were_where_a_forward_checks_them():
    def check(m, h):
        if m.middle.weight.detach().abs().max() > 1:
            raise ValueError("weights are too large")
        return h

    model = net(check)
    weights = [p.detach().clone() for p in model.middle.parameters()]
    assert TargetSpace(model, batch(), EXACT).left == [("middle", "nn.Linear", READ)]
    assert all(map(torch.equal, weights, model.middle.parameters()))


def test_a_model_without_such_reads_makes_no_pass(monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(read_ahead._Walks, "differ", never)
    assert TargetSpace(net(lambda m, h: h.to(m.middle.weight.dtype) * m.middle.weight.shape[0]), batch()).left == []
    TargetSpace(Stepwise(nn.LSTM), torch.randn(40, 4, 3))


@pytest.mark.parametrize("settings", [{"untangle": 3}, {"cascade_gradient": False}, {"method": "ocu"}])
def test_it_goes_on_from_a_state(settings):
    config = TargetSpaceConfig(**settings)
    model, other = net(READS["detach"]), net(READS["detach"])
    space = TargetSpace(model, batch(), config)
    other.load_state_dict(model.state_dict())
    resumed = TargetSpace(other, batch(), config, state=space.state_dict())
    assert resumed.left == space.left == [("middle", "nn.Linear", READ)]
