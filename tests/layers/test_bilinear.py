"""nn.Bilinear: gradients against finite differences, weights against a dense solve."""

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, close, gradients, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


class Pairs(nn.Module):
    """Two dense layers whose outputs are paired."""

    def __init__(self, bias):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 3)
        self.pair = nn.Bilinear(2, 3, 2, bias=bias)

    def forward(self, x):
        return self.pair(torch.tanh(self.one(x)), torch.tanh(self.other(x)))


@pytest.mark.parametrize(("method", "rows"), [("scu", "all"), ("scu", 12), ("ocu", "all")])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_and_weights(bias, method, rows):
    torch.manual_seed(0)
    model, generator = Pairs(bias).double(), torch.Generator().manual_seed(0)
    reference, x = torch.randn(20, 3).double(), torch.randn(7, 3).double()
    config = TargetSpaceConfig(
        ridge=0.3, ridge_scale="absolute", step_scale=1.0, method=method, reference=ReferenceConfig(rows=rows)
    )
    space = TargetSpace(model, reference, config)
    random_targets(space, generator)
    with torch.no_grad():
        h = [layer(reference) for layer in (model.one, model.other)]
        h = [space.targets[name].detach() for name in ("one", "other")] if method == "ocu" else h
        a = torch.einsum("ni,nj->nij", *map(torch.tanh, h)).flatten(1)
        a = torch.cat([a, torch.ones(20, 1).double()], 1) if bias else a
        a = a if space.layers[2].rows is None else a[space.layers[2].rows]
        w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(a.shape[1]).double(), a.T @ space.targets["pair"])
    assert close(model.pair.weight.flatten(1), w[:6].T)

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


def test_a_start_from_the_weights_keeps_the_function():
    torch.manual_seed(0)
    model, x = Pairs(True).double(), torch.randn(7, 3).double()
    before = model(x).detach()
    TargetSpace(model, torch.randn(20, 3).double(), TargetSpaceConfig(init="weights"))
    assert close(model(x), before)
