"""``torch.compile`` of an optimizer's step trains as the step itself does, attached or with a pull-back by hand."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetAdam, TargetSpace

OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "TargetAdam": TargetAdam,
    "growing": lambda p: TargetAdam(p, adaptive_lr=True),
}


def losses(make, compiled, attached):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randn(40, 2)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))
    space = TargetSpace(model, x)
    optimizer = make(space.parameters())
    if attached:
        space.attach(optimizer)
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if not attached:
            space.pullback()
        step()
        if not attached:
            space.solve()
        found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_step_is_the_step(make, attached):
    """Attached, it ended in an error of the compiler's, and TargetAdam's forgot its moments in every step."""
    torch.testing.assert_close(losses(make, True, attached), losses(make, False, attached))
