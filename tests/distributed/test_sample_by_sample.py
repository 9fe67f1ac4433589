"""A forward with a loop over the samples, whose uses are fewer on a share: each process keeps the whole."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.processes import run as in_processes
from ts_lightning import TargetSpace, TargetSpaceConfig


class Each(nn.Module):
    def __init__(self, *, batch_of_one):
        super().__init__()
        self.first, self.second, self.batch_of_one = nn.Linear(3, 4), nn.Linear(4, 2), batch_of_one

    def forward(self, x):
        parts = x.split(1) if self.batch_of_one else x
        found = [self.second(torch.tanh(self.first(part))) for part in parts]
        return torch.cat(found) if self.batch_of_one else torch.stack(found)


def trained(*, batch_of_one, group=False):
    """The weights after two steps of SGD on the same samples in every process."""
    if group:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = Each(batch_of_one=batch_of_one).double()
    x = torch.randn(11, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(), group=dist.group.WORLD if group else None)
    assert space.left == []
    assert space.shards is None
    optimizer = torch.optim.SGD(space.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    if group:
        dist.destroy_process_group()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("batch_of_one", [True, False])
def test_two_processes_train_as_one(batch_of_one):
    expected = trained(batch_of_one=batch_of_one)
    for found in in_processes(trained, batch_of_one=batch_of_one, group=True, ranks=2):
        torch.testing.assert_close(found, expected)
