"""Targets take the place of the weights in an optimizer's groups."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_substitution_in_place(make):
    model = dense(norm=True)
    optimizer = make(model.parameters(), lr=0.01)
    lists = [group["params"] for group in optimizer.param_groups]
    before = list(lists[0])
    space = TargetSpace(model, moons()[0])
    space.substitute(optimizer)
    assert [group["params"] for group in optimizer.param_groups] == lists
    assert all(group["params"] is old for group, old in zip(optimizer.param_groups, lists, strict=True))
    assert {id(p) for p in lists[0]} == {id(p) for p in space.parameters()}
    # each target stands where its weight stood
    kept = [p for p in before if not any(p is layer.bias for layer in space.layers)]
    weights = {id(layer.weight): space.targets[layer.name] for layer in space.layers}
    assert all(new is weights.get(id(old), old) for new, old in zip(lists[0], kept, strict=True))


def test_substitution_keeps_groups_with_their_options():
    model = dense()
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    optimizer = torch.optim.SGD(
        [{"params": weights[:2], "lr": 0.5}, {"params": weights[2:]}, {"params": biases}], lr=0.1
    )
    space = TargetSpace(model, moons()[0])
    space.substitute(optimizer)
    assert [(len(g["params"]), g["lr"]) for g in optimizer.param_groups] == [(2, 0.5), (2, 0.1), (0, 0.1)]


def test_substitution_after_a_step_is_refused():
    x, y = moons()
    model = dense()
    optimizer = torch.optim.Adam(model.parameters())
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    space = TargetSpace(model, x)
    with pytest.raises(TargetSpaceError, match=r"Adam already holds state.*before the first step"):
        space.substitute(optimizer)


def test_an_optimizer_of_solved_weights_is_told_once_what_to_do():
    model = dense()
    space = TargetSpace(model, moons()[0])
    wrong = torch.optim.Adam(model.parameters())
    with pytest.warns(UserWarning, match=r"Adam steps the weights of hidden\.0.*space\.parameters\(\)"):
        wrong.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrong.step()
        torch.optim.Adam(space.parameters()).step()
        space.release()
        torch.optim.Adam(model.parameters()).step()  # in weight space from here on


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (
            lambda n: n.endswith("weight"),
            lambda n: n.endswith("bias"),
            [("Adam", ["hidden.0", "hidden.1", "hidden.2", "readout"])],
        ),
        (lambda n: n != "readout.bias", lambda n: n == "readout.bias", [("Adam", ["readout"])]),
        (lambda n: n.startswith("hidden"), lambda n: n.startswith("readout"), []),
        (lambda n: True, lambda n: False, []),
    ],
)
def test_a_layer_in_two_optimizers_is_named(first, second, named):
    model = dense()
    space = TargetSpace(model, moons()[0])
    parts = [[p for n, p in model.named_parameters() if chosen(n)] for chosen in (first, second)]
    optimizers = [
        kind([{"params": part}]) for kind, part in zip((torch.optim.SGD, torch.optim.Adam), parts, strict=True)
    ]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        space.substitute(*optimizers[:1])
        space.substitute(*optimizers[1:])
    found = [str(one.message).split(" has a part of ") for one in said]
    assert [(kind, text.split(", and not")[0].split(", ")) for kind, text in found] == named


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_refused_where_targets_are_no_matrices():
    torch.manual_seed(0)
    x, net = torch.randn(6, 3, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    weights = [p for p in net.parameters() if p.dim() == 2]
    optimizer = torch.optim.Muon(weights, lr=0.01)
    with pytest.raises(TargetSpaceError, match=r"Muon takes matrices.* layer '0' have 3 dimensions.*rows="):
        TargetSpace(net, x).substitute(optimizer)
    space = TargetSpace(net, x, TargetSpaceConfig(reference=ReferenceConfig(rows=12)))
    space.substitute(optimizer)
    before = net[0].weight.detach().clone()
    net(x).square().sum().backward()
    space.pullback()
    optimizer.step()
    space.solve()
    assert not net[0].weight.equal(before)
