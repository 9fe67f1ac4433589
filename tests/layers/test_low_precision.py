"""Layers pass on tensors of the model's own type, whatever the type in which they are solved."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig


class Normed(nn.Module):
    """A layer, and behind it a norm, which takes one type only."""

    def __init__(self, layer, width):
        super().__init__()
        self.layer, self.norm, self.readout = layer, nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, x):
        found = self.layer(x)
        return self.readout(self.norm(found[0] if isinstance(found, tuple) else found))


class Applied(nn.Module):
    """A weight that ``run(x, weight)`` applies."""

    def __init__(self, run, *shape):
        super().__init__()
        self.run, self.weight = run, nn.Parameter(torch.randn(shape) / 2)

    def forward(self, x):
        return self.run(x, self.weight)


LAYERS = {
    "dense": lambda: Normed(nn.Linear(5, 6), 6),
    "convolution": lambda: Normed(nn.Conv1d(4, 3, 1), 5),
    "transposed convolution": lambda: Normed(nn.ConvTranspose1d(4, 3, 1), 5),
    "RNN": lambda: Normed(nn.RNN(5, 6, batch_first=True), 6),
    "LSTM": lambda: Normed(nn.LSTM(5, 6, batch_first=True), 6),
    "GRU": lambda: Normed(nn.GRU(5, 6, batch_first=True), 6),
    "einsum": lambda: Normed(Applied(lambda x, w: torch.einsum("btd,hdk->bthk", x, w).flatten(2), 2, 5, 3), 6),
    "heads in a batch": lambda: Normed(Applied(lambda x, w: torch.einsum("bhd,hdk->bhk", x, w), 4, 5, 6), 6),
    "scaled": lambda: Normed(Applied(lambda x, w: x @ (w / 2.2), 5, 6), 6),
    "projected LSTM": lambda: Normed(nn.LSTM(5, 8, proj_size=6, batch_first=True), 6),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_passed_on_has_the_type_of_the_model(layer, method, dtype):
    torch.manual_seed(0)
    model, x = LAYERS[layer]().to(dtype), torch.randn(30, 4, 5).to(dtype)
    space = TargetSpace(model, x, TargetSpaceConfig(method=method))
    model(x).float().sum().backward()
    space.pullback()
    assert all(float(target.grad.abs().sum()) > 0 for target in space.targets.values())
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
