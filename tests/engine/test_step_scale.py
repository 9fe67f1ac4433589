"""The step scale: the unit of the targets, by the model's depth and kinds of layers, and nothing else."""

import pytest
import torch
from torch import nn

from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


class Last(nn.Module):
    """Of a recurrent layer's result, the output."""

    def forward(self, result):
        return result[0]


class Final(nn.Module):
    """Of outputs at every step, the last step's."""

    def forward(self, output):
        return output[:, -1]


class Kept(nn.Module):
    """The same with a dimension of one step."""

    def forward(self, output):
        return output[:, -1:]


LAYERS = {
    "linear": (lambda: nn.Linear(3, 6), (3,), "auto"),
    "linear at every step, sampled rows": (lambda: nn.Linear(3, 6), (5, 3), 30),
    "conv": (lambda: nn.Conv1d(3, 6, 2), (3, 5), "auto"),
    "conv, sampled rows": (lambda: nn.Conv1d(3, 6, 2), (3, 5), 30),
    "rnn": (lambda: nn.Sequential(nn.RNN(3, 6, batch_first=True), Last()), (5, 3), "auto"),
    "lstm": (lambda: nn.Sequential(nn.LSTM(3, 6, batch_first=True), Last()), (5, 3), "auto"),
    "gru": (lambda: nn.Sequential(nn.GRU(3, 6, batch_first=True), Last()), (5, 3), "auto"),
}


@pytest.mark.parametrize(
    ("layer", "depth", "unit"), [("linear", 1, 50.0), ("linear", 16, 25.0), ("lstm", 1, 5.0), ("gru", 16, 2.5)]
)
def test_the_unit_falls_with_depth_and_is_a_tenth_for_recurrent_layers(layer, depth, unit):
    kinds = {"linear": nn.Linear(3, 3), "lstm": nn.LSTM(3, 3), "gru": nn.GRU(3, 3)}
    first = nn.Sequential(kinds[layer], Last(), Final()) if layer != "linear" else kinds[layer]
    model = nn.Sequential(first, *(nn.Linear(3, 3) for _ in range(depth - 1)))
    assert list(TargetSpace(model, torch.randn(9, 4, 3)).units.values()) == pytest.approx([unit] * depth)


def test_a_convolution_at_sampled_rows_has_three_times_the_unit_and_half_the_mean_eigenvalue_as_ridge():
    def tuned(rows="auto", **settings):
        model = nn.Sequential(nn.Conv1d(3, 6, 2), nn.Flatten(), nn.Linear(24, 2))
        config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows), **settings)
        space = TargetSpace(model, torch.randn(9, 3, 5), config)
        return [(layer.unit, layer.solver.ridge) for layer in space.layers]

    unit = 50 / 2**0.25
    assert tuned("all") == tuned() == [(pytest.approx(unit), 1.0)] * 2  # fewer rows than a sample has
    assert tuned(30) == [(pytest.approx(3 * unit), 0.5 * 30 / 7), (pytest.approx(unit), 1.0)]
    assert (
        tuned(7)
        == tuned(5)
        == tuned(30, cascade_gradient=False)
        == [(pytest.approx(3 * unit), 0.5), (pytest.approx(unit), 1.0)]
    )
    assert tuned(30, ridge=0.1, step_scale=4.0) == [(4.0, 0.1)] * 2


def test_a_dense_layer_at_a_sample_of_all_steps_has_their_share_as_ridge():
    def tuned(samples, rows="auto", **settings):
        model = nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 2))
        config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows), **settings)
        space = TargetSpace(model, torch.randn(*samples, 3), config)
        assert len(set(space.units.values())) == 1
        return [(len(space.targets[layer.name]), layer.solver.ridge) for layer in space.layers]

    assert tuned((50, 40)) == [(50, 1.0)] * 2  # fewer rows than a sample has
    assert tuned((50, 50)) == [(2048, 2048 / 2500), (32 * 71, 32 * 71 / 2500)]
    assert tuned((50, 50), "all") == tuned((50, 50), method="ocu") == [(50, 1.0)] * 2
    assert tuned((2500,)) == [(2500, 1.0)] * 2
    assert tuned((2500,), 30) == [(30, 1.0)] * 2
    assert tuned((50, 50), 30, ridge=0.1) == [(30, 0.1)] * 2


@pytest.mark.parametrize(("scale", "share"), [("absolute", 0.5), ("variance", 0.5), ("mean", 1.0), ("feature", 1.0)])
@pytest.mark.parametrize("layer", ["linear", "gru"])
def test_the_ridge_is_the_share_where_it_does_not_grow_with_the_rows_itself(layer, scale, share):
    module = nn.Linear(3, 6) if layer == "linear" else nn.GRU(3, 6)
    config = TargetSpaceConfig(ridge_scale=scale, reference=ReferenceConfig(rows=60))
    (layer,) = TargetSpace(module, torch.randn(10, 12, 3), config).layers
    assert len(layer.rows) == 60
    assert layer.solver.ridge == share


def test_a_reference_batch_of_few_steps_has_the_ridge_of_all_of_them_again():
    space = TargetSpace(nn.Linear(3, 2), torch.randn(50, 50, 3))
    assert space.layers[0].solver.ridge == 2048 / 2500
    space.refresh(torch.randn(9, 50, 3))
    assert space.layers[0].solver.ridge == 1


@pytest.mark.parametrize("rows", ["auto", 60])
def test_a_dense_layer_at_every_step_behind_a_recurrent_one_has_three_times_its_unit(rows):
    def units(last, **settings):
        model = nn.Sequential(nn.GRU(3, 6, batch_first=True), Last(), last, nn.Linear(6, 2))
        config = TargetSpaceConfig(reference=ReferenceConfig(rows=rows), **settings)
        return list(TargetSpace(model, torch.randn(9, 20, 3), config).units.values())

    unit = 5 / 2**0.25
    assert units(nn.Identity()) == pytest.approx([unit, 3 * unit])
    assert units(Final()) == pytest.approx([unit, unit])
    assert units(Kept()) == pytest.approx([unit, unit])
    assert units(nn.Identity(), step_scale=4.0) == [4.0, 4.0]


@pytest.mark.parametrize(("layer", "method"), [*((name, "scu") for name in LAYERS), ("conv", "ocu"), ("lstm", "ocu")])
def test_step_scale_is_the_unit_of_the_targets_and_nothing_else(layer, method):
    build, shape, rows = LAYERS[layer]

    def loss(model):
        return model(torch.ones(4, *shape).double()).square().sum()

    spaces, models = [], []
    for scale in (1.0, 20.0):
        torch.manual_seed(0)
        model = nn.Sequential(build(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
        x = torch.randn(9, *shape).double()
        model(x)
        reference = ReferenceConfig(rows=rows)
        config = TargetSpaceConfig(step_scale=scale, init_std=0.6, method=method, reference=reference)
        space = TargetSpace(model, x, config)
        loss(model).backward()
        space.pullback()
        spaces.append(space)
        models.append(model)
    for own, scaled in zip(spaces[0].targets.values(), spaces[1].targets.values(), strict=True):
        torch.testing.assert_close(scaled.data * 20, own.data, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(scaled.grad / 20, own.grad, rtol=1e-10, atol=1e-12)
    for own, scaled in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(scaled, own, rtol=1e-10, atol=1e-12)
