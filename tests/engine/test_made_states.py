"""States that an optimizer's constructor has made of weights, in a loop of one's own."""

import pytest
import torch
from torch import nn

from tests.support.optimizer_states import KINDS, Anchored, Masked, network
from ts_lightning import TargetSpace, TargetSpaceError


def loop(kind, steps=3):
    model = network()
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    space = TargetSpace(model, x)
    optimizer = kind(model.parameters())
    space.attach(optimizer)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, space, optimizer, losses


@pytest.mark.parametrize("kind", [*KINDS, torch.optim.Adagrad])
def test_an_attached_optimizer_has_them_of_targets(kind):
    model, _, optimizer, losses = loop(kind)
    assert losses[-1] < losses[0]
    assert not {id(p) for p in optimizer.state} & {id(p) for p in model.parameters()}


def test_copies_of_zeros_are_copies_of_targets():
    """A branch that begins at zero; the copies of other weights tell that its own is one."""
    model = network()
    nn.init.zeros_(model[2].weight)
    optimizer = Anchored(model.parameters())
    space = TargetSpace(model, torch.randn(24, 3))
    for parameter in model.parameters():
        optimizer.state[parameter]["slow"].copy_(parameter.detach())
    space.attach(optimizer)
    for target in space.targets.values():
        assert torch.equal(optimizer.state[target]["slow"], target)


def test_masks_and_moved_states_are_refused_and_leave_the_optimizer_as_it_was():
    model = network()
    space = TargetSpace(model, torch.randn(24, 3))
    with pytest.raises(TargetSpaceError, match="Masked chooses among the numbers of each weight"):
        space.attach(Masked(model.parameters()))
    early = Anchored(model.parameters())
    with torch.no_grad():
        early.state[model[0].weight]["slow"].add_(torch.randn(8, 3))
    with pytest.raises(TargetSpaceError, match="already holds state for weights"):
        space.attach(early)
    assert set(early.state) == set(model.parameters())
    assert set(early.param_groups[0]["params"]) == set(model.parameters())
