"""Whether weights of layers of all kinds are taken for a fresh start or for something that a user has put there."""

import math

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace
from ts_lightning.engine.draws import drawn


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


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (3, 3), (2, 3)])
@pytest.mark.parametrize("draw", [nn.init.xavier_uniform_, nn.init.kaiming_normal_])
def test_few_weights_of_one_sign_that_lie_close_together_are_a_draw(draw, shape):
    """One in 30 draws of four weights is so; one such layer let all others count as trained."""
    torch.manual_seed(0)
    for _ in range(300):
        assert drawn(draw(torch.empty(shape)), 1 / math.sqrt(shape[1]), usual=True)


DRAWS = {
    "xavier": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_normal_,
    "he, by outputs": lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"),
    "one bound": lambda weight: nn.init.uniform_(weight, -0.07, 0.07),
    "one deviation": lambda weight: nn.init.normal_(weight, std=0.03),
}


def narrow(draw):
    """A network of small layers, whose weights a loop draws and whose biases stay."""
    layers = [nn.Conv2d(1, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(4)), nn.Flatten()]
    layers += [nn.Linear(32, 30), *(nn.Linear(30, 30) for _ in range(3)), nn.Linear(30, 10)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            draw(parameter)
    return model


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_small_layers_of_one_draw_start_from_targets_around_zero(draw):
    """One by one they counted as trained beside biases as PyTorch draws them, or with a scale that few use."""
    for seed in range(3):
        torch.manual_seed(seed)
        space = TargetSpace(narrow(draw), torch.randn(20, 1, 12, 12))
        assert [layer.name for layer in space.layers if layer.anchor is not None] == []


def test_an_identity_among_small_layers_of_one_draw_is_kept():
    torch.manual_seed(0)
    model = narrow(nn.init.xavier_uniform_)
    layer = model[14]
    nn.init.eye_(layer.weight)
    space = TargetSpace(model, torch.randn(20, 1, 12, 12))
    assert "14" in [layer.name for layer in space.layers if layer.anchor is not None]


@pytest.mark.parametrize("draw", [lambda weight: weight, *DRAWS.values()], ids=["PyTorch's", *DRAWS])
def test_small_layers_that_were_trained_from_one_draw_are_kept(draw):
    torch.manual_seed(0)
    model, x, y = narrow(draw), torch.randn(100, 1, 12, 12), torch.arange(100) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    space = TargetSpace(model, x[:20])
    assert all(layer.anchor is not None for layer in space.layers)


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
