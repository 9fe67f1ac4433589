"""Networks with any forward between two dense layers, and steps of them."""

from types import SimpleNamespace

import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig

EXACT = TargetSpaceConfig(ridge=0.1, step_scale=1.0)


class Middle(nn.Module):
    """``run(module, h)`` between two dense layers, on (samples, 6)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run, self.calls = run, 0
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, h):
        self.calls += 1
        return self.run(self, h)


def net(run, **parts):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), Middle(run, **parts), nn.Tanh(), nn.Linear(6, 2)).double()


def batch(samples=20, seed=1):
    return torch.randn(samples, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def steps(model, x, count=2, config=EXACT, before=lambda step: None):
    """Some steps on other samples, which ``before`` is called ahead of; the space."""
    space = TargetSpace(model, x, config)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    for n in range(count):
        before(n)
        optimizer.zero_grad()
        model(batch(8, seed=n + 2)).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return space


def noting(seen):
    """A hook that takes part, and writes the input of 20 samples where nothing is undone: in an object of a library."""
    held = SimpleNamespace(seen=seen)

    def hook(module, args, output):
        if len(output) == 20:
            held.seen[0], held.seen[1][:, : output.shape[1]] = args[0].detach().numpy(), output.detach().numpy()
        return output

    return hook
