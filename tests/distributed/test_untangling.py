"""Two processes untangle when one does, and train as it does in between."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.equality import run
from tests.support.processes import run as in_processes
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError


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


class Alike(nn.Module):
    """Dense layers of one shape on sequences, so that each is solved from steps of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(4)])
        self.readout = nn.Linear(5, 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return self.readout(x.mean(1))


def kept():
    """Weights by kept maps, and how many of each layer's rows this process has."""
    several = "WORLD_SIZE" in os.environ
    if several:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model, x = Alike().double(), torch.randn(7, 4, 5, dtype=torch.float64)
    config = TargetSpaceConfig(untangle=50, reference=ReferenceConfig(rows=11))
    space = TargetSpace(model, x, config, group=dist.group.WORLD if several else None)
    with torch.no_grad():
        for target in space.targets.values():
            target.mul_(1.1)
    space.solve()
    assert space.cascade.solution.kept
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [len(space.targets[f"layers.{n}"]) for n in range(4)]
    if several:
        dist.destroy_process_group()
    return weights, rows


def test_layers_of_one_shape_whose_rows_are_spread_otherwise():
    expected, whole = kept()
    found = in_processes(kept, ranks=3)
    shares = [rows for _, rows in found]
    assert [sum(each) for each in zip(*shares, strict=True)] == whole == [11] * 4
    # those that are one product in a process are not in another
    alike = [{(i, j) for i in range(4) for j in range(i) if rows[i] == rows[j]} for rows in shares]
    assert alike[0] != alike[1]
    for weights, _ in found:
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-11)
