"""A model that is converted to another precision behind its solve: what trains on, and what is said."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

NORMS = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def begin(norm=None, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    between = [norm(8)] if norm else []
    model = nn.Sequential(nn.Linear(3, 8), *between, nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    return model, TargetSpace(model, inputs(dtype), TargetSpaceConfig(**settings))


def inputs(dtype=torch.float32):
    return torch.randn(24, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


def backward(model):
    x = inputs(next(model.parameters()).dtype)
    loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
    loss.backward()
    return float(loss.detach())


CONVERT = {"double": nn.Module.double, "half": nn.Module.half, "to": lambda model: model.to(torch.bfloat16)}


@pytest.mark.parametrize("how", CONVERT)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attached", [True, False])
def test_a_norm_of_another_precision_is_said_and_a_new_space_goes_on(how, norm, attached):
    model, space = begin(NORMS[norm])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer) if attached else space.substitute(optimizer)
    CONVERT[how](model)
    backward(model)
    with pytest.raises(TargetSpaceError, match=r"as norms, were converted behind a solve: found \w+, expected float32"):
        optimizer.step() if attached else space.pullback()
    with pytest.raises(TargetSpaceError, match="were converted behind a solve"):
        space.solve()
    space.release()
    model.zero_grad()
    space = TargetSpace(model, inputs(next(model.parameters()).dtype), TargetSpaceConfig(init="weights"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    before = backward(model)
    optimizer.step()
    assert backward(model) < before


@pytest.mark.parametrize("norm", [*NORMS, None])
def test_there_and_back_changes_nothing(norm):
    model, space = begin(NORMS.get(norm))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    model.double().float()
    before = backward(model)
    optimizer.step()
    assert backward(model) < before


def test_weights_that_were_rounded_are_not_written_ones_in_full_precision(recwarn):
    model, space = begin(dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    model.float()
    before = backward(model)
    optimizer.step()
    assert backward(model) < before
    assert not any("were changed since the last optimizer step" in str(one.message) for one in recwarn)


def test_gradients_of_functions_are_taken_detached():
    model, space = begin()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    x = inputs()
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return nn.functional.cross_entropy(functional_call(model, parameters, (x,)), (x[:, 0] > 0).long())

    before = float(loss(parameters).detach())
    given = grad(loss)(parameters)
    for name, parameter in parameters.items():
        parameter.grad = given[name]
    with pytest.raises(TargetSpaceError, match=r"detach what torch\.func gives"):
        optimizer.step()
    for name, parameter in parameters.items():
        parameter.grad = given[name].detach()
    optimizer.step()
    assert float(loss(parameters).detach()) < before
