"""Copies of modules that forward makes and calls: teachers, fast weights. They are no uses of the layers."""

import copy

import pytest
import torch
from torch import nn

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace

KINDS = {
    "dense": (lambda: nn.Linear(6, 6), lambda layer, h: layer(h)),
    "convolution": (lambda: nn.Conv1d(1, 1, 3, padding=1), lambda layer, h: layer(h[:, None])[:, 0]),
    "recurrent": (lambda: nn.LSTM(2, 2, batch_first=True), lambda layer, h: layer(h.view(-1, 3, 2))[0].flatten(1)),
    "attention": (
        lambda: nn.MultiheadAttention(2, 1, batch_first=True),
        lambda layer, h: layer(*[h.view(-1, 3, 2)] * 3)[0].flatten(1),
    ),
    "stack": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), lambda layer, h: layer(h)),
}


def weights_and_gradients(make, call, behind):
    """Of a layer that is called, and then, without gradients, in the way of ``behind`` with its present weights."""

    def run(m, h):
        found = call(m.layer, h)
        with torch.no_grad():
            beside = call(behind(m.layer), torch.tanh(h.flip(1)))
        return found + beside

    model = net(run, layer=make())
    space = TargetSpace(model, batch(), EXACT)
    model(batch(8, seed=2)).square().sum().backward()
    space.pullback()
    return list(model.parameters()), [target.grad for target in space.targets.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_behind_its_module_has_the_solved_weights(kind):
    """The start failed: the copy held what stands for the module's forward."""
    found, expected = (weights_and_gradients(*KINDS[kind], behind) for behind in (copy.deepcopy, lambda layer: layer))
    torch.testing.assert_close(found, expected)


def test_a_copy_ahead_of_its_module_leaves_it_in_weight_space():
    """The copy's call was taken for the layer's."""
    model = net(lambda m, h: m.layer(h) + copy.deepcopy(m.layer)(h).detach(), layer=nn.Linear(6, 6))
    assert TargetSpace(model, batch()).left == []
    model = net(lambda m, h: copy.deepcopy(m.layer)(h.flip(1)).detach() + m.layer(h), layer=nn.Linear(6, 6))
    assert TargetSpace(model, batch()).left == [("2.layer", "nn.Linear", "read by forward before it is solved")]


def test_a_copy_of_a_module_whose_forward_was_set_on_the_instance():
    layer = nn.Linear(6, 6)
    layer.forward = lambda x: 2 * nn.Linear.forward(layer, x)
    copies = []

    def run(m, h):
        copies.append((copy.deepcopy(m.layer)(h).detach(), 2 * nn.functional.linear(h, m.layer.weight, m.layer.bias)))
        return m.layer(h) + copies[-1][0]

    model = net(run, layer=layer)
    assert [name for name, _, _ in TargetSpace(model, batch()).left] == ["2.layer"]
    assert len(copies) > 1
    assert all(torch.equal(found, expected) for found, expected in copies)


def test_a_copy_that_shares_the_weights_is_a_use():
    model = net(lambda m, h: copy.copy(m.layer)(h), layer=nn.Linear(6, 6))
    assert list(TargetSpace(model, batch()).targets) == ["0", "2.layer", "4"]
