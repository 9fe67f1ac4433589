"""Weights that every process writes alike in a loop of one's own: all go on from them alike."""

import os
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.processes import run
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


def clamped(shard):
    """The weights after steps with whole gradients, behind each of which they are clamped past autograd."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        dist.init_process_group("gloo")
    x = torch.randn(40, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    config = TargetSpaceConfig(reference=ReferenceConfig(size=20, shard=shard))
    space = TargetSpace(model, x[:20], config, group=dist.group.WORLD if several else None)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (model(x) - x[:, :1]).square().mean().backward()
        space.pullback()
        optimizer.step()
        space.solve()
        for parameter in model[0].parameters():
            parameter.data.clamp_(-0.2, 0.2)
    if several:
        dist.destroy_process_group()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def quietly(shard):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = clamped(shard)
    return found, sum("They are kept" in str(one.message) for one in said)


@pytest.mark.parametrize("shard", [True, False])
def test_weights_that_all_processes_clamp_are_kept_as_by_one(shard):
    ((alone, times),) = run(quietly, shard)
    several = run(quietly, shard, ranks=2)
    assert times == 1
    assert float(alone[:24].abs().max()) == 0.2
    for found, said in several:
        assert said == 1
        torch.testing.assert_close(found, alone, atol=1e-10, rtol=1e-8)
