"""Whether weights of layers of all kinds are taken for a fresh start or for something that a user has put there."""

import math

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace


class Pairs(nn.Module):
    """Products of an input with its tanh."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.pair = nn.Bilinear(inputs, inputs, outputs)

    @property
    def weight(self):
        return self.pair.weight

    def forward(self, x):
        return self.pair(x, torch.tanh(x))


class Applied(nn.Module):
    """A weight (in, out) that a function applies, drawn as nobody else does."""

    def __init__(self, inputs, outputs, std):
        super().__init__()
        self.weight, self.bias = nn.Parameter(std * torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


#: layer, shape of a sample
KINDS = {
    "dense": (lambda: nn.Linear(60, 50), (60,)),
    "dense, small": (lambda: nn.Linear(6, 5), (6,)),
    "convolution": (lambda: nn.Conv2d(16, 20, 3), (16, 5, 5)),
    "bilinear": (lambda: Pairs(15, 20), (15,)),
    "bilinear, small": (lambda: Pairs(3, 4), (3,)),
    "transposed": (lambda: nn.ConvTranspose2d(32, 8, 3, stride=2), (32, 5, 5)),
    "transposed, groups, small": (lambda: nn.ConvTranspose1d(4, 8, 3, groups=2), (4, 5)),
    "as in GPT-2": (lambda: Applied(60, 50, 0.02), (60,)),
    "a function's, small": (lambda: Applied(6, 5, 0.37), (6,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_layer_starts_from_targets_around_zero(kind):
    build, shape = KINDS[kind]
    for seed in range(3):
        torch.manual_seed(seed)
        space = TargetSpace(build(), torch.randn(20, *shape))
        assert [layer.anchor for layer in space.layers] == [None]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "small" not in kind])
def test_weights_of_low_rank_are_kept(kind):
    build, shape = KINDS[kind]
    torch.manual_seed(0)
    model, x = build(), torch.randn(20, *shape)
    with torch.no_grad():
        weight = model.weight.flatten(1)
        weight.copy_(torch.randn(len(weight), 1) @ torch.randn(1, weight.shape[1]) / math.sqrt(weight.shape[1]))
    before = model(x).detach()
    TargetSpace(model, x)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_weights_are_kept(kind):
    build, shape = KINDS[kind]
    model, x = build(), torch.randn(20, *shape)
    nn.init.zeros_(model.weight)
    before = model(x).detach()
    TargetSpace(model, x)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias", "kept"), [(0.01, False), (0.1, False), (-4.6, True)])
def test_a_small_bias_that_is_the_same_for_all_outputs_is_a_start_and_a_prior_is_none(bias, kept):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 5))
    for layer in (model[0],) if kept else (model[0], model[2]):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.constant_(layer.bias, 0.01)
    nn.init.constant_(model[2].bias, bias)
    space = TargetSpace(model, torch.randn(20, 6))
    assert [layer.anchor is not None for layer in space.layers] == [False, kept]


def forgetting(inputs, drawn):
    """An LSTM whose forget gate starts open, as many set it, beside other biases at zero or as PyTorch draws them."""
    lstm = nn.LSTM(inputs, 16, batch_first=True)
    if not drawn:
        nn.init.orthogonal_(lstm.weight_hh_l0)
        nn.init.xavier_uniform_(lstm.weight_ih_l0)
    for bias in (lstm.bias_ih_l0, lstm.bias_hh_l0):
        if not drawn:
            nn.init.zeros_(bias)
        nn.init.ones_(bias[16:32])
    return lstm


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("inputs", [1, 4, 200])
def test_an_open_forget_gate_is_a_start(inputs, drawn):
    """Of few inputs the weights of such a start counted as trained; beside drawn biases all did."""
    torch.manual_seed(0)
    space = TargetSpace(forgetting(inputs, drawn), torch.randn(20, 5, inputs))
    assert [layer.anchor for layer in space.layers] == [None]


@pytest.mark.parametrize("inputs", [1, 200])
def test_other_biases_beside_an_open_forget_gate_are_kept(inputs):
    torch.manual_seed(0)
    lstm = forgetting(inputs, True)
    nn.init.normal_(lstm.bias_ih_l0[:16])
    space = TargetSpace(lstm, torch.randn(20, 5, inputs))
    assert all(layer.anchor is not None for layer in space.layers)
