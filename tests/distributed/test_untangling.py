"""Two processes untangle when one does, and train as it does in between."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.equality import run
from tests.support.processes import run as in_processes
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


@pytest.mark.parametrize("untangle", [3, "auto"])
@pytest.mark.parametrize("name", ["MLP", "Wide", "CNN", "Steps"])
def test_two_processes_train_as_one(name, untangle):
    expected = run(name, 2, untangle=untangle)
    for found in in_processes(run, name, 2, ranks=2, untangle=untangle):
        assert found["same"]
        for key in ("weights", "targets"):
            for part, value in expected[key].items():
                assert torch.allclose(found[key][part], value, rtol=1e-6, atol=1e-8), part


def not_finite():
    """What each process raises where one has a NaN among its targets, between two untanglings."""
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    space = TargetSpace(model, torch.randn(20, 3), TargetSpaceConfig(untangle=50), group=dist.group.WORLD)
    space.solve()
    assert space.cascade.solution.kept
    if dist.get_rank() == 1:
        with torch.no_grad():
            space.targets["2"][0] = torch.nan
    with pytest.raises(TargetSpaceError, match="layer '2'") as raised:
        space.solve()
    dist.destroy_process_group()
    return str(raised.value)


def test_a_target_that_is_not_finite_in_one_process_ends_all():
    for text in in_processes(not_finite, ranks=2):
        assert "a NaN or an infinity" in text
