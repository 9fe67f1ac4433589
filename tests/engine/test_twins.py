"""Copies of weights that targets start anew are named; others are not."""

import copy
import warnings

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig


class Student(nn.Module):
    """A network, and a teacher that is a copy of it or is not."""

    def __init__(self, copied, frozen):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.teacher = copy.deepcopy(self.net) if copied else nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.teacher.requires_grad_(not frozen)

    def forward(self, x):
        return self.net(x)


def said(model, **settings):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        space = TargetSpace(model, torch.randn(20, 4), TargetSpaceConfig(**settings))
    return space, [str(one.message) for one in found if "Copies of weights" in str(one.message)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("init", ["auto", "normalised", "projected"])
def test_copies_of_fresh_weights_are_named(init, frozen):
    _, messages = said(Student(True, frozen), init=init, exclude=[] if frozen else ["teacher.*"])
    assert len(messages) == 1
    assert "net.0 (teacher.0.weight), net.2 (teacher.2.weight)." in messages[0]


def test_copies_that_stay_equal_are_not():
    assert said(Student(True, True), init="weights")[1] == []


def test_others_are_not_named_nor_is_a_state():
    assert said(Student(False, True))[1] == []
    space, _ = said(Student(True, True))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        TargetSpace(Student(True, True), torch.randn(20, 4), state=space.state_dict())
    assert not any("Copies of weights" in str(one.message) for one in found)
