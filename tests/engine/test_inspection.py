"""What an inspection says is what a target space then does; the model stays as it is."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.zoo import own_language, own_others
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.inspection import inspect_model
from ts_lightning.layers.binding import Size

MODELS = {**own_language.MODELS, **own_others.MODELS}
NAMES = ["GPT-2", "Swin", "U-Net", "Siamese", "GAT", "attention to a projected LSTM", "tied readout", "Bilinear"]


@pytest.mark.parametrize("rows", ["auto", 12])
@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_a_target_space_does(name, rows):
    torch.manual_seed(0)
    model, arguments, _ = MODELS[name]()
    before = copy.deepcopy(model.state_dict())
    config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows))
    found = inspect_model(model, arguments, config)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    space = TargetSpace(model, arguments, config)
    solved = {row.name: row for row in found.rows if row.why is None}
    assert {name: row.targets for name, row in solved.items()} == {
        name: target.numel() * 4 for name, target in space.targets.items()
    }
    assert [(row.name, row.kind, row.why) for row in found.rows if row.why] == [
        (left.name or "(the model)", left.kind, left.reason) for left in space.left
    ]
    assert found.solved == sum(p.numel() for layer in space.layers for p in layer.parameters)
    for layer in space.layers:
        assert list(solved[layer.name].sizes) == layer.sizes()
        assert sum(size.inputs * size.outputs * size.groups for size in layer.sizes()) >= layer.parameters[0].numel()


def test_sizes_are_those_of_the_systems():
    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 3))
    found = inspect_model(model, torch.randn(5, 2, 4, 4), TargetSpaceConfig(exclude=["2"]))
    assert found.rows[0].sizes == (Size(2, 20, 20, 10, 3),)
    assert found.rows[0].forward == 5 * 4 * 6 * 10
    assert (found.rows[1].name, found.rows[1].why) == ("2", "excluded")
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen"):
        found = inspect_model(model, torch.randn(5, 2, 4, 4))
    assert [(row.name, row.why) for row in found.rows] == [("2", None), ("0", "frozen")]


def test_multiplications_of_a_dense_solve():
    """Counted by PyTorch's counter of floating-point operations, of which two are a multiplication here."""
    # a norm in front is trained, so that inputs change and take gradients
    model, x = nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 30, bias=False)), torch.randn(300, 40)
    found = inspect_model(model, x)
    space = TargetSpace(model, x)
    with FlopCounterMode(display=False) as counter:
        space.solve()
        model[1].weight.grad = torch.randn_like(model[1].weight)
        space.pullback()
    counted = counter.get_total_flops() / 2
    (size,) = found.rows[0].sizes
    # the counter knows products alone; neither factorisations nor what is added in place, one of two for A's gradient
    products = 300 * 40 * 40 + (1 + 1 + 1 + 1) * 300 * 40 * 30
    assert counted == pytest.approx(products, rel=0.1)
    assert products < size.products + found.rows[0].forward < 2 * products


def test_a_layer_whose_inputs_stay_takes_fewer():
    model, x = nn.Linear(40, 20, bias=False), torch.randn(300, 40)
    space = TargetSpace(model, x)
    with FlopCounterMode(display=False) as counter:
        space.solve()
    assert counter.get_total_flops() / 2 == 2 * 300 * 40 * 20  # A'T and A W; triangular solves are not counted


def test_cost_falls_with_the_batches_of_training():
    model, x = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 2)), torch.randn(100, 20)
    costs = [inspect_model(model, x, batch_size=size).cost for size in (10, 100, 1000)]
    assert costs[0] > costs[1] > costs[2] > 1
    assert inspect_model(model, x).cost == costs[1]
    assert costs[0] - 1 == pytest.approx(100 * (costs[2] - 1))


def test_nothing_to_solve_is_the_error_of_training():
    with pytest.raises(TargetSpaceError, match="No layer to solve"):
        inspect_model(nn.BatchNorm1d(3), torch.randn(5, 3))
