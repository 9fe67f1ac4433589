"""Parameters that a pass over the reference batch writes: their values, and the gradients of what it wrote."""

import copy
import warnings

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig


def test_gradients_are_those_of_what_the_pass_wrote():
    class Halving(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner, self.head = nn.Parameter(torch.tensor(4.0)), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            with torch.no_grad():
                self.scale.clamp_(max=1.0)
            return self.head(self.inner(x * self.scale).tanh())

    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for value in (4.0, 1.0):
        torch.manual_seed(0)
        model = Halving()
        space = TargetSpace(model, x, TargetSpaceConfig(layers=["head"]))
        for _ in range(2):  # in the second solve it is known what the pass writes
            with torch.no_grad():
                model.scale.fill_(value)
            space.solve()
            model.zero_grad()
            space.targets["head"].grad = None
            model(x).square().sum().backward()
            space.pullback()
        gradients.append((space.targets["head"].grad, model.scale.grad))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("form", ["fill", "data", "another"])
def test_gradients_are_those_of_what_only_the_pass_writes(form, trained):
    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)
            self.scale = nn.Parameter(torch.full((5,), 4.0), requires_grad=trained)

        def forward(self, x):
            if not self.training:
                with torch.no_grad():
                    if form == "fill":
                        self.scale.fill_(1.0)
                    elif form == "data":
                        self.scale.data.fill_(1.0)
                    else:
                        self.scale.data = torch.ones(5)
            return self.last(self.scale * self.first(x).tanh())

    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for fixed in (False, True):
        torch.manual_seed(0)
        model = Rounding()
        if fixed:
            nn.init.ones_(model.scale)
        space = TargetSpace(model, x)
        assert float(model.scale.detach()[0]) == (1.0 if fixed else 4.0)
        gradient = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
        model.last.weight.grad = gradient
        space.pullback()
        found.append([space.targets[name].grad for name in ("first", "last")])
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("begins", [0, 3])
@pytest.mark.parametrize(
    "average",
    [
        lambda own, given: own.mul_(0.9).add_(given, alpha=0.1),
        lambda own, given: own.data.mul_(0.9).add_(given.data, alpha=0.1),
        lambda own, given: own.data[:].lerp_(given, 0.1),
        lambda own, given: torch._foreach_lerp_([own.data], [given.data], 0.1),
        lambda own, given: setattr(own, "data", torch.lerp(own.data, given.data, 0.1)),
    ],
)
def test_a_teacher_that_begins_as_a_copy_counts_once_a_step(average, begins):
    """The first pass writes the values that stand there already, or does not write at all yet."""

    class Taught(nn.Module):
        def __init__(self):
            super().__init__()
            self.pupil = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
            self.teacher, self.last = copy.deepcopy(self.pupil).requires_grad_(False), nn.Linear(4, 2)
            self.begun = False

        def forward(self, x):
            with torch.no_grad():
                for own, given in zip(self.teacher.parameters(), self.pupil.parameters(), strict=True):
                    _ = own.data.sum()
                    if self.begun:
                        average(own, given)
            return self.last(self.pupil(x)) + self.teacher(x).mean()

    torch.manual_seed(0)
    model, x = Taught(), torch.randn(20, 3)
    model.begun = begins == 0
    space = TargetSpace(model, x)
    optimizer = torch.optim.Adam(space.parameters(), 0.05)
    for step in range(6):
        model.begun = step >= begins
        optimizer.zero_grad()
        model(x).square().sum().backward()
        space.pullback()
        optimizer.step()
        before = [p.clone() for p in model.teacher.parameters()]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            space.solve()
        assert all(map(torch.equal, before, model.teacher.parameters())) or said
        assert not said or step == begins > 0


def test_a_parameter_that_is_written_for_the_first_time_later_is_named_once():
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.count, self.head, self.begun = (
                nn.Parameter(torch.zeros(()), requires_grad=False),
                nn.Linear(3, 2),
                False,
            )

        def forward(self, x):
            if self.begun:
                with torch.no_grad():
                    self.count += 1
            return self.head(x)

    model = Later()
    space = TargetSpace(model, torch.randn(9, 3))
    model.begun = True
    with pytest.warns(UserWarning, match="for the first time now"):
        space.solve()
    space.solve()
    assert float(model.count) == 1
