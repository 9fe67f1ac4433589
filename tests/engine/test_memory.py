"""Parameters that lie in one memory: those that share entries are tied, those that lie side by side are not."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.middles import batch, net, steps
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.memory import sharing


def pair(tie):
    """Two dense layers in the middle, of which ``tie`` gives the second one the first one's memory."""
    model = net(lambda m, h: m.two(torch.tanh(m.one(h))), one=nn.Linear(6, 6), two=nn.Linear(6, 6))
    tie(model[2].one, model[2].two)
    return model


def by_parameter(one, two):
    two.weight = nn.Parameter(one.weight.t())


def by_data(one, two):
    two.weight.data = one.weight.data.t()


def of_rows(one, two):
    two.weight.data = one.weight.data[:6]


def frozen(one, two):
    two.requires_grad_(False).weight.data = one.weight.data


@pytest.mark.parametrize("tie", [by_parameter, by_data, of_rows])
def test_weights_in_one_memory_are_tied(tie):
    """Each solve overwrote the other layer's weights, and the first step failed."""
    model = pair(tie)
    space = steps(model, batch(), config=None)
    tied = [("2.one", "nn.Linear", "tied to 2.two.weight"), ("2.two", "nn.Linear", "tied to 2.one.weight")]
    assert sorted(space.left) == tied
    assert model[2].one.weight.data_ptr() == model[2].two.weight.data_ptr()
    with pytest.raises(TargetSpaceError, match=r"2\.one\.weight, 2\.two\.weight are one parameter, or lie in one mem"):
        TargetSpace(pair(tie), batch(), TargetSpaceConfig(layers=["2.one"]))


def test_a_frozen_twin_in_the_same_memory():
    with pytest.warns(UserWarning, match="frozen: 2.two"):
        assert TargetSpace(pair(frozen), batch()).left == [("2.one", "nn.Linear", "tied to 2.two.weight")]


def test_weights_of_functions_in_one_memory():
    weight = torch.randn(6, 6, dtype=torch.float64)
    parts = {"a": nn.Parameter(weight), "b": nn.Parameter(weight)}
    model = net(lambda m, h: torch.tanh(h @ m.a) @ m.b, **parts)
    model[2].b.data = model[2].a.data
    assert TargetSpace(model, batch()).left == [("2", "Middle", "tied to 2.b, 2.a")]


def test_side_by_side():
    """Columns of one matrix, and all parameters in one vector, as averages keep them."""
    model = net(lambda m, h: functional.linear(h, m.a) + functional.linear(h[:, :3], m.b))
    weight = torch.randn(6, 9, dtype=torch.float64)
    model[2].a, model[2].b = nn.Parameter(weight[:, :6]), nn.Parameter(weight[:, 6:])
    assert list(TargetSpace(model, batch()).targets) == ["0", "2.a", "2.b", "4"]
    model = pair(lambda one, two: None)
    parameters, begin = list(model.parameters()), 0
    flat = torch.cat([p.data.flatten() for p in parameters])
    for p in parameters:
        p.data, begin = flat[begin : begin + p.numel()].view_as(p), begin + p.numel()
    assert TargetSpace(model, batch()).left == []


def test_groups():
    x = torch.zeros(40)
    even, odd, all_of_them = x[:20:2], x[1:20:2], x[:20]
    one, inside, behind = x[20:30], x[24:26], x[30:]
    found = sharing([even, odd, one, inside, behind, torch.zeros(3), torch.zeros(0)])
    assert [{id(t) for t in group} for group in found] == [{id(one), id(inside)}]
    (group,) = sharing([even, odd, all_of_them])
    assert {id(t) for t in group} == {id(even), id(odd), id(all_of_them)}
    assert len(sharing([torch.zeros(3).expand(4, 3), x[:0], x[:0]])) == 0


def test_many_entries_in_each_others_gaps_count_as_shared():
    """Comparing them one by one would take seconds and gigabytes."""
    columns = torch.zeros(1024, 1024).chunk(2, 1)
    assert [len(group) for group in sharing(columns)] == [2]
    small = torch.zeros(64, 64).chunk(2, 1)
    assert sharing(small) == []
