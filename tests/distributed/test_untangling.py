"""Two processes untangle when one does, and train as it does in between."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.support.equality import run
from tests.support.processes import run as in_processes
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.ridge.kept import ExplicitMap

OWN = {"cascade_gradient": False}
HOW = [
    {"untangle": 3},
    {"untangle": "auto"},
    *({"untangle": untangle, **OWN} for untangle in (1, 3, "auto")),
    {"untangle": 3, "shard": False, **OWN},
]


@pytest.mark.parametrize("options", HOW, ids=str)
@pytest.mark.parametrize("name", ["MLP", "Wide", "CNN", "Steps", "Parts"])
def test_two_processes_train_as_one(name, options):
    expected = run(name, 2, **options)
    for found in in_processes(run, name, 2, ranks=2, **options):
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


def kept(samples, rows, untangle, dtype):
    """Weights by kept maps, how many of each layer's rows this process has, and which of its maps are explicit."""
    several = "WORLD_SIZE" in os.environ
    if several:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model, x = Alike().to(dtype), torch.randn(samples, 4, 5, dtype=torch.float64).to(dtype)
    reference = ReferenceConfig(rows=rows)
    config = TargetSpaceConfig(untangle=untangle, reference=reference, solve_dtype="float64")
    space = TargetSpace(model, x, config, group=dist.group.WORLD if several else None)
    with torch.no_grad():
        for target in space.targets.values():
            target.mul_(1.1)
    space.solve()
    assert space.cascade.solution.kept
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = [len(space.targets[f"layers.{n}"]) for n in range(4)]
    forms = {layer.name: stack.map for stack in space.cascade.untangling._maps._stacks for layer in stack.layers}
    explicit = [isinstance(forms[f"layers.{n}"], ExplicitMap) for n in range(4)]
    if several:
        dist.destroy_process_group()
    return weights, found, explicit


def same_weights(found, expected, **tolerance):
    for weights, _, _ in found:
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, **tolerance)


def test_layers_of_one_shape_whose_rows_are_spread_otherwise():
    expected, whole, _ = kept(7, 11, 50, torch.float64)
    found = in_processes(kept, 7, 11, 50, torch.float64, ranks=3)
    shares = [rows for _, rows, _ in found]
    assert [sum(each) for each in zip(*shares, strict=True)] == whole == [11] * 4
    # those that are one product in a process are not in another
    alike = [{(i, j) for i in range(4) for j in range(i) if rows[i] == rows[j]} for rows in shares]
    assert alike[0] != alike[1]
    same_weights(found, expected, rtol=1e-9, atol=1e-11)


def test_dual_layers_of_one_shape_whose_rows_begin_elsewhere():
    expected, whole, _ = kept(7, 4, 50, torch.float64)
    found = in_processes(kept, 7, 4, 50, torch.float64, ranks=3)
    assert [sum(each) for each in zip(*(rows for _, rows, _ in found), strict=True)] == whole == [4] * 4
    same_weights(found, expected, rtol=1e-9, atol=1e-11)


def with_large_maps(*given):
    """The same where maps are explicit only if that pays, which the rows of a process decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ts_lightning.ridge.kept._SMALL", 0)
        return kept(*given)


def test_processes_whose_maps_have_other_forms_and_another_precision_than_targets():
    expected, _, _ = kept(22, 44, 4, torch.float32)
    found = in_processes(with_large_maps, 22, 44, 4, torch.float32, ranks=2)
    assert any(found[0][2])
    assert not any(found[1][2])
    same_weights(found, expected, rtol=1e-4, atol=1e-5)
