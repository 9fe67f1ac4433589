"""Biases that are no parameter of their layer (pruned, parametrized, buffers): the weight is solved where it can be."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune

from tests.support.encoders import Net
from tests.support.exactness import check_differences, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig


def pruned(module, name):
    return prune.random_unstructured(module, name, 0.5)


def parametrized(module, name):
    parametrize.register_parametrization(module, name, nn.Tanh())
    return module


def fixed(module, name):
    bias = getattr(module, name).detach().clone()
    delattr(module, name)
    module.register_buffer(name, bias)
    return module


def attention(name):
    def make(change):
        module = nn.MultiheadAttention(4, 2, batch_first=True)
        holder, _, local = name.rpartition(".")
        change(module.get_submodule(holder), local)
        return module

    return make


#: a module whose bias is changed, how the forward calls it, and whether its weight can be solved without the bias
KINDS = {
    "Linear": (lambda change: change(nn.Linear(4, 3), "bias"), lambda m, h: m(h), True),
    "Conv1d": (lambda change: change(nn.Conv1d(1, 3, 2), "bias"), lambda m, h: m(h[:, None]), True),
    "ConvTranspose1d": (lambda change: change(nn.ConvTranspose1d(1, 3, 2), "bias"), lambda m, h: m(h[:, None]), True),
    "Bilinear": (lambda change: change(nn.Bilinear(4, 4, 3), "bias"), lambda m, h: m(h, h), True),
    "attention": (attention("in_proj_bias"), lambda m, h: m(*3 * [h.view(-1, 1, 4)])[0], False),
    "its readout": (attention("out_proj.bias"), lambda m, h: m(*3 * [h.view(-1, 1, 4)])[0], False),
    "LSTM": (lambda change: change(nn.LSTM(4, 3), "bias_ih_l0"), lambda m, h: m(h[:, None])[0], False),
}


@pytest.mark.parametrize("change", [pruned, parametrized, fixed])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_that_is_no_parameter_of_its_layer_trains_beside_it(kind, change):
    if kind == "its readout" and change is pruned:
        pytest.skip("an attention does not call its readout, so that PyTorch's pruning of it is not applied")
    make, call, solved = KINDS[kind]
    torch.manual_seed(0)

    def run(net, x):
        h = net.encoder(x)
        return net.head(torch.tanh(h)) + call(net.computed, h).flatten(1)[:, :2]

    model = Net(run, computed=make(change)).double().eval()
    x, generator = torch.randn(20, 3, dtype=torch.float64), torch.Generator().manual_seed(1)
    before = model(x)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights", step_scale=1.0))
    assert torch.allclose(model(x), before, rtol=0, atol=1e-8)
    assert any(name.startswith("computed") for name in space.targets) == solved
    assert any(name.startswith("computed") for name, _, _ in space.left) != solved
    random_targets(space, generator)

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


#: two layers that share their bias, and how the forward calls them
PAIRS = {
    "Linear": (lambda: nn.Linear(4, 4), lambda m, h: m(h)),
    "Conv1d": (lambda: nn.Conv1d(1, 4, 4), lambda m, h: m(h.flatten(1)[:, None]).flatten(1)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 4, 1), lambda m, h: m(h[:, :, None]).flatten(1)),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 4), lambda m, h: m(h, h)),
}


def check_exact(model, x, solved):
    """A start around the weights keeps the function and solves these; gradients, which are returned, are exact."""
    before = model(x)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights", step_scale=1.0))
    assert torch.allclose(model(x), before, rtol=0, atol=1e-8)
    assert solved <= space.targets.keys()
    assert space.left == []
    random_targets(space, torch.Generator().manual_seed(1))

    def loss(model):
        return model(x).square().sum()

    found = gradients(space, model, loss)
    check_differences(space, model, loss, found, torch.Generator().manual_seed(0))
    return found


@pytest.mark.parametrize("kind", PAIRS)
def test_weights_of_layers_that_share_a_bias_are_solved_with_it(kind):
    make, call = PAIRS[kind]
    torch.manual_seed(0)
    model = Net(lambda net, x: net.head(call(net.b, torch.tanh(call(net.a, net.encoder(x))))), a=make(), b=make())
    model = model.double().eval()
    model.b.bias = model.a.bias
    x = torch.randn(20, 3, dtype=torch.float64)
    found = check_exact(model, x, {"a", "b"})
    assert found["a.bias"].abs().sum() > 0


#: a weight that a function applies with the bias of a module's layer, and how
BORROWED = {
    "Linear": ((4, 4), lambda w, b, h: functional.linear(h, w, b)),
    "Conv1d": ((4, 1, 4), lambda w, b, h: functional.conv1d(h.flatten(1)[:, None], w, b).flatten(1)),
    "ConvTranspose1d": ((4, 4, 1), lambda w, b, h: functional.conv_transpose1d(h[:, :, None], w, b).flatten(1)),
    "Bilinear": ((4, 4, 4), lambda w, b, h: functional.bilinear(h, h, w, b)),
}


@pytest.mark.parametrize("kind", BORROWED)
def test_a_function_that_adds_the_bias_of_a_solved_module_adds_the_solved_one(kind):
    make, call = PAIRS[kind]
    shape, function = BORROWED[kind]
    torch.manual_seed(0)

    def run(net, x):
        h = net.encoder(x)
        return net.head(torch.tanh(call(net.a, h)) + function(net.weight, net.a.bias, h))

    model = Net(run, a=make()).double().eval()
    model.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    x = torch.randn(20, 3, dtype=torch.float64)
    check_exact(model, x, {"a", "weight"})


def test_layers_that_share_a_bias_and_are_no_calls_of_a_function_are_left():
    lstm = nn.LSTM(4, 1)
    lstm.bias_hh_l0 = lstm.bias_ih_l0
    model = Net(lambda net, x: net.head(net.lstm(net.encoder(x))[0].expand(-1, 4)), lstm=lstm)
    space = TargetSpace(model, torch.randn(20, 3))
    assert [(name, reason) for name, _, reason in space.left] == [("lstm", "tied to lstm.bias_ih_l0, lstm.bias_hh_l0")]
