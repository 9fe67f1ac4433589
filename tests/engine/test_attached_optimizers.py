"""Attached optimizers: what is refused in plain words, copies, and how long the attachment lasts."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from tests.support.attached import Loop, closed, unit, usual
from tests.support.fits import loader
from tests.support.same_spaces import CONFIG
from ts_lightning import TargetSpace, TargetSpaceError


def began():
    loop, batch = Loop("target"), next(iter(loader(dtype=torch.float64)))
    usual(loop, batch)
    return loop, batch


def test_what_cannot_be_attached_is_refused_by_name():
    loop, _ = began()
    with pytest.raises(
        TargetSpaceError, match="attach: found Adam that pulls back and solves by its own steps already"
    ):
        loop.space.attach(loop.optimizer)
    with pytest.raises(TargetSpaceError, match="attach: found SGD without any parameter that the target space trains"):
        loop.space.attach(torch.optim.SGD([nn.Parameter(torch.ones(2))]))
    with pytest.raises(TargetSpaceError, match="substitute: found the class Adam"):
        loop.space.attach(torch.optim.Adam)
    stepped = torch.optim.Adam(loop.module.parameters())
    loop.module.a.weight.grad = torch.ones(4, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="Adam steps the weights of"):
        stepped.step()
    with pytest.raises(TargetSpaceError, match="already holds state for weights"):
        loop.space.attach(stepped)
    assert loop.space.stepping.follows(loop.optimizer)
    assert not loop.space.stepping.follows(stepped)


def test_once_removed_it_can_be_attached_again():
    loop, batch = began()
    loop.handles[0].remove()
    loop.handles[0].remove()
    loop.module.loss(batch).backward()
    with pytest.raises(TargetSpaceError, match="weights hold gradients that were not pulled back"):
        loop.optimizer.step()
    loop.space.attach(loop.optimizer)
    loop.optimizer.step()


def test_an_optimizer_that_has_stepped_weights_is_looked_at_again():
    """Without momentum it holds no state; its next step, of targets without a pull-back, was not looked at."""
    loop, batch = Loop("weight"), next(iter(loader(dtype=torch.float64)))
    space = TargetSpace(loop.module, unit(), CONFIG)
    optimizer = torch.optim.SGD(loop.module.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="SGD steps the weights of a, b"):
        optimizer.step()
    space.substitute(optimizer)
    loop.module.loss(batch).backward()
    with pytest.raises(TargetSpaceError, match="weights hold gradients that were not pulled back"):
        optimizer.step()


@pytest.mark.parametrize("step", [usual, closed])
def test_a_step_behind_a_release_is_refused_until_a_solve(step):
    loop, batch = began()
    loop.space.release()
    with pytest.raises(TargetSpaceError, match="Adam trains targets of a target space that was released"):
        step(loop, batch)
    loop.space.solve()
    loop.optimizer.zero_grad()
    step(loop, batch)


def test_a_step_behind_a_loaded_state_without_a_solve_is_refused():
    """Unless the loop begins with the optimizer's zero_grad, or gives a closure: both solve."""
    loop, batch = began()
    loop.module.zero_grad()
    loop.space.load_state_dict(loop.space.state_dict())
    loop.module.loss(batch).backward()
    with pytest.raises(TargetSpaceError, match=r"Adam steps targets without a solve, as behind space\.load_state_dict"):
        loop.optimizer.step()
    closed(loop, batch)


def test_moments_of_a_reference_batch_of_another_size_are_refused():
    loop, batch = began()
    loop.space.refresh(torch.cat([unit(), unit()]))
    with pytest.raises(TargetSpaceError, match="Adam holds moments"):
        usual(loop, batch)
    for target in loop.space.targets.values():
        loop.optimizer.state.pop(target, None)
    usual(loop, batch)


def test_a_failed_solve_and_another_model_are_errors_of_the_step():
    loop, batch = began()
    loop.optimizer.zero_grad()
    (loop.module.loss(batch) * float("nan")).backward()
    with pytest.raises(TargetSpaceError, match="a NaN or an infinity"):
        loop.optimizer.step()
    with pytest.raises(TargetSpaceError, match="a NaN or an infinity"):
        usual(loop, batch)
    loop, batch = began()
    loop.module.b = nn.Linear(3, 4, bias=False).double()
    with pytest.raises(TargetSpaceError, match="The model has other parameters than its targets were made for"):
        usual(loop, batch)


def test_targets_that_are_moved_by_hand_ahead_of_a_step_are_refused():
    loop, batch = began()
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    loop.space.targets["a"].data.add_(0.1)
    with pytest.raises(TargetSpaceError, match="were changed after the weights had been solved from them"):
        loop.optimizer.step()


def test_copies_and_pickles_of_an_attached_optimizer_are_plain():
    loop, batch = began()
    before = copy.deepcopy(loop.module.state_dict())
    for twin in (copy.deepcopy(loop.optimizer), pickle.loads(pickle.dumps(loop.optimizer))):
        for parameter in twin.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        twin.step()
    for name, value in loop.module.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(TargetSpaceError, match="neither copied nor pickled before its release"):
        copy.deepcopy(loop.space)
    usual(loop, batch)


def test_it_lives_as_long_as_the_optimizer_and_no_longer():
    """The space itself need not be kept, as by a function that returns the optimizer."""
    loop, batch = began()
    other = Loop("weight")
    usual(other, batch)
    space = weakref.ref(loop.space)
    loop.space = None
    loop.handles.clear()
    gc.collect()
    usual(loop, batch)
    usual(other, batch)
    torch.testing.assert_close(list(loop.module.parameters()), list(other.module.parameters()))
    loop.optimizer, loop.optimizers = None, None
    gc.collect()
    assert space() is None


def test_another_optimizer_may_take_its_place():
    loop, batch = began()
    loop.handles[0].remove()
    other = torch.optim.SGD(loop.space.parameters(), lr=0.1)
    loop.optimizer = other
    loop.space.attach(other)
    usual(loop, batch)
    assert not loop.space.stepping.follows(loop.optimizers[0])
