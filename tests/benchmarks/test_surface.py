"""A distance along a direction is one in units of each layer's parameters, and leaves them as they were."""

import pytest
import torch
from torch import nn

from benchmarks.surface import loss_along


def test_every_layer_moves_by_the_same_share_of_its_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [list(layer.parameters()) for layer in model]
    before = [torch.cat([p.detach().flatten() for p in group]) for group in groups]
    direction = [[torch.randn(p.shape) for p in group] for group in groups]

    def moved():
        now = [torch.cat([p.detach().flatten() for p in group]) for group in groups]
        shares = [float((a - b).norm() / b.norm()) for a, b in zip(now, before, strict=True)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-4)
        return shares[0]

    assert loss_along(groups, direction, moved, [0.1, 0.25]) == pytest.approx([0.1, 0.25], rel=1e-4)
    for group, old in zip(groups, before, strict=True):
        assert torch.equal(torch.cat([p.detach().flatten() for p in group]), old)
