"""Inputs of layers that forward moves along their derivatives, past the count of writes, as samples of a network."""

import pytest
import torch
from torch import nn

from tests.support.middles import batch, net
from ts_lightning import TargetSpace, TargetSpaceConfig

LAYERS = {
    "dense": (lambda: nn.Linear(6, 6, bias=False), lambda layer, h: layer(h)),
    "convolution": (lambda: nn.Conv1d(1, 1, 3, padding=1), lambda layer, h: layer(h[:, None])[:, 0]),
    "convolution of images": (
        lambda: nn.Conv2d(1, 1, 3, padding=1),
        lambda layer, h: layer(h.view(-1, 1, 2, 3)).flatten(1),
    ),
    "recurrent": (lambda: nn.GRU(2, 2, batch_first=True), lambda layer, h: layer(h.view(-1, 3, 2))[0].flatten(1)),
}


@torch.enable_grad()
def walked(m, h, call, start):
    """Langevin dynamics from the layer's own inputs, with its weights frozen, and the layer at the end of them."""
    x = start(h)
    for p in m.layer.parameters():
        p.requires_grad = False
    for _ in range(2):
        call(m.layer, x if m.moves else x.clone()).square().sum().backward(inputs=[x])
        x.data.add_(-10 * x.grad.data)
        x.grad.zero_()
    for p in m.layer.parameters():
        p.requires_grad = True
    return call(m.layer, h)


def gradients(name, moves, **settings):
    make, call = LAYERS[name]
    model = net(lambda m, h: walked(m, h, call, lambda h: h.detach().clone().requires_grad_()), layer=make())
    model[2].moves = moves
    space = TargetSpace(model, batch(), TargetSpaceConfig(ridge=0.1, step_scale=1.0, **settings))
    assert len(space.targets) == 3
    for _ in range(2):
        model(batch(8, seed=2)).square().sum().backward()
        space.pullback()
        space.solve()
    return [target.grad for target in space.targets.values()]


@pytest.mark.parametrize("settings", [{}, {"cascade_gradient": False}])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_solved_from_where_they_were_at_its_call(name, settings):
    """Gradients of targets were NaN: derivatives, which are not known in the pass, had been written to the input."""
    found, expected = gradients(name, moves=True, **settings), gradients(name, moves=False, **settings)
    assert all(bool(gradient.isfinite().all()) for gradient in found)
    torch.testing.assert_close(found, expected)
