"""Sparse gradients of tables where processes share a reference batch; test_equality.py has their sums."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.processes import run as in_processes
from ts_lightning import TargetSpace


def overflowed(*, alone):
    """Whether a process finds an overflow of the first one's table among the gradients that it trains."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 2))
    x = torch.randint(9, (11, 3))
    space = TargetSpace(model, x, group=dist.group.WORLD)
    model(x[dist.get_rank() :]).square().sum().backward()
    space.pullback()
    table = model[0].weight
    if dist.get_rank() == 0:
        table.grad._values()[0, 0] = torch.inf
    trained = [table] if alone else list(space.parameters())
    space.partition.agree_on_overflow(trained)
    gradients = [p.grad.to_dense() for p in trained if p.grad is not None]
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("alone", [False, True])
def test_all_processes_skip_a_step_for_one_that_overflows(alone):
    assert in_processes(overflowed, ranks=2, alone=alone) == [True, True]
