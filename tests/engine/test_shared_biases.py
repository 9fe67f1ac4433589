"""A bias of a recurrent layer that a function adds as well: the two biases were solved as one, and outputs changed."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

KINDS = [nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.RNN, nn.LSTM, nn.GRU]


class Beside(nn.Module):
    """A recurrent layer, and a function that adds one of its biases; it may stand for the layer."""

    def __init__(self, kind, bias, called=True):
        super().__init__()
        self.cell, self.bias, self.called = kind(3, 6), bias, called
        wide = len(next(self.cell.parameters()))
        self.weight, self.last = nn.Parameter(torch.randn(wide, 3) / 2), nn.Linear(wide + 6, 2)

    def forward(self, x):
        bias = next(p for name, p in self.cell.named_parameters() if name.startswith(self.bias))
        z = torch.tanh(functional.linear(x, self.weight, bias))
        h = self.cell(x) if self.called else x.repeat(1, 2)
        while isinstance(h, tuple):
            h = h[0]
        return self.last(torch.cat([h, z], 1))


def made(*args):
    torch.manual_seed(0)
    return Beside(*args).double(), torch.randn(40, 3, dtype=torch.float64)


@pytest.mark.parametrize("bias", ["bias_ih", "bias_hh"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_is_left_and_given_weights_stay(kind, bias):
    model, x = made(kind, bias)
    before = model(x).detach()
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert space.left == [("cell", f"nn.{kind.__name__}", "a bias that a function adds, too")]
    assert list(space.targets) == ["weight", "last"]
    assert space.layers[0].bias is None  # which the layer in weight space has
    assert torch.allclose(model(x), before)
    with pytest.raises(TargetSpaceError, match=r"layer 'cell.*': a function adds one of its two biases.*exclude"):
        TargetSpace(made(kind, bias)[0], x, TargetSpaceConfig(layers=["cell"]))


def test_of_a_layer_that_is_not_called_the_bias_is_the_functions():
    model, x = made(nn.GRUCell, "bias_ih", False)
    before = model(x).detach()
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert [left.reason for left in space.left] == ["not called in the reference forward"]
    assert space.layers[0].bias is model.cell.bias_ih
    assert torch.allclose(model(x), before)
