"""Modules that forward or a training loop keep under a second name, or add frozen: the trained ones stay the same."""

import copy
import warnings

import pytest
import torch
from torch import nn

from tests.support.middles import batch, net, steps
from ts_lightning import TargetSpaceError


def test_a_layer_that_forward_keeps_as_its_present_one():
    """It was refused behind the first step."""

    def run(m, h):
        for layer in m.layers:
            m.present = layer
            h = torch.tanh(m.present(h))
        return h

    found = net(run, layers=nn.ModuleList(nn.Linear(6, 6) for _ in range(2)))
    expected = net(lambda m, h: torch.tanh(m.b(torch.tanh(m.a(h)))), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    for model in (found, expected):
        steps(model, batch(), 3)
    assert found[2].present is found[2].layers[1]
    torch.testing.assert_close(list(found.parameters()), list(expected.parameters()), rtol=0, atol=0)


def test_heads_that_take_turns():
    heads = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    model = net(lambda m, h: m.head(h), heads=heads, head=heads[0])
    start = copy.deepcopy(heads.state_dict())

    def turn(step):
        model[2].head = model[2].heads[step % 2]

    space = steps(model, batch(), 4, before=turn)
    assert "2.heads.0" in space.targets
    assert all(not torch.equal(value, start[name]) for name, value in heads.state_dict().items())


def test_a_module_that_is_added_frozen_and_thawed_later_is_new():
    """Its gradients had no share from the reference batch, without a word."""

    def run(m, h):
        return m.layer(h) if m.more is None else m.more(torch.tanh(m.layer(h)))

    model = net(run, layer=nn.Linear(6, 6), more=None)

    def before(step):
        if step == 1:
            model[2].more = nn.Linear(6, 6).double().requires_grad_(False)
        if step == 2:
            model[2].more.requires_grad_(True)

    with pytest.raises(TargetSpaceError, match=r"new: 2\.more\.weight"):
        steps(model, batch(), 3, before=before)


def test_a_teacher_that_the_first_forward_makes():
    def run(m, h):
        y = m.student(h)
        if m.teacher is None:
            m.teacher = copy.deepcopy(m.student).requires_grad_(False)
        return y - 0.1 * m.teacher(h).detach()

    model = net(run, student=nn.Linear(6, 6), teacher=None)
    start = copy.deepcopy(model[2].student.weight)
    space = steps(model, batch(), 3)
    assert space.left == []
    assert not torch.equal(model[2].student.weight, start)
    assert not torch.equal(model[2].student.weight, model[2].teacher.weight)


def replaced(model, name):
    """Put a frozen copy of the student where one was before, or beside that."""
    setattr(model[2], name, copy.deepcopy(model[2].student).requires_grad_(False))


def refilled(model, name):
    """Write the student's weights to the frozen copy."""
    getattr(model[2], name).load_state_dict(model[2].student.state_dict())


@pytest.mark.filterwarnings("ignore:Left out of target space because they are frozen", "ignore:Copies of weights")
def test_a_teacher_that_others_replace_is_one_that_is_written_to():
    """Target space was made anew, in a fit with fresh moments, or refused."""
    found = []
    for renew in (replaced, refilled):
        torch.manual_seed(0)
        student = nn.Linear(6, 6)
        teacher = copy.deepcopy(student).requires_grad_(False)
        model = net(lambda m, h: m.student(h) - 0.1 * m.teacher(h).detach(), student=student, teacher=teacher)
        steps(model, batch(), 4, before=lambda step, model=model, renew=renew: renew(model, "teacher"))
        found.append(list(model[2].student.parameters()))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Left out of target space because they are frozen", "ignore:Copies of weights")
@pytest.mark.parametrize("thawed", ["the old one", "the new one"])
def test_a_teacher_that_is_trained_is_no_activation(thawed):
    student = nn.Linear(6, 6)
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = net(lambda m, h: m.student(h) - 0.1 * m.teacher(h), student=student, teacher=teacher)

    def before(step):
        if step == 1 and thawed == "the old one":
            model[2].teacher.double().requires_grad_(True)
        if step == 2:
            replaced(model, "teacher")
        if step == 3 and thawed == "the new one":
            model[2].teacher.requires_grad_(True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Trained from here on")
        word = "gone" if thawed == "the old one" else "new"
        with pytest.raises(TargetSpaceError, match=rf"{word}: 2\.teacher\.weight"):
            steps(model, batch(), 4, before=before)
