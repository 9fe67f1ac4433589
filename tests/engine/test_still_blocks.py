"""Blocks in which optimizers and schedules stand still: of several threads, within each other, and behind failures."""

import threading
from types import FunctionType

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from ts_lightning.engine.steps.held import all_still


def held(kind=SGD, **options):
    parameter = nn.Parameter(torch.ones(()))
    optimizer = kind([parameter], lr=0.5, **options)
    return parameter, optimizer, StepLR(optimizer, 1)


def methods():
    kinds = (Optimizer, LRScheduler, GradScaler)
    return {(kind, name): own for kind in kinds for name, own in vars(kind).items() if isinstance(own, FunctionType)}


def test_a_block_holds_on_when_that_of_another_thread_ends():
    """The first to end gave the second one's schedules their step back, and the second left the first one's behind."""
    before = methods()
    _, _, schedule = held()
    inside, both, ended = threading.Event(), threading.Event(), threading.Event()

    def first():
        with all_still():
            inside.set()
            both.wait(10)
        ended.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with all_still():
        both.set()
        assert ended.wait(10)
        schedule.step()
        assert schedule.last_epoch == 0
    thread.join()
    assert methods() == before
    schedule.step()
    assert schedule.last_epoch == 1


def test_what_an_outer_block_makes_stands_still_in_an_inner_one():
    with all_still():
        parameter, optimizer, schedule = held()
        parameter.sum().backward()
        with all_still():
            optimizer.step()
            schedule.step()
        assert (float(parameter), schedule.last_epoch, float(parameter.grad)) == (1.0, 0, 1.0)
        optimizer.step()
        schedule.step()
    assert (float(parameter), schedule.last_epoch) == (0.5, 1)


def test_a_step_within_the_closure_of_another_keeps_gradients():
    """The inner one gave both their gradients back, and the outer one's were lost behind its step."""
    outer, first, _ = held()
    inner, second, _ = held()
    (outer + inner).backward()

    def closure():
        second.step()
        return outer.square()

    with all_still():
        first.step(closure)
        assert (float(outer.grad), float(inner.grad)) == (1.0, 1.0)
    assert (float(outer), float(inner)) == (1.0, 1.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_behind_an_exception_everything_moves_again(error):
    before = methods()
    parameter, optimizer, schedule = held()

    def closure():
        raise error

    parameter.sum().backward()
    with pytest.raises(error), all_still():
        optimizer.step(closure)
    assert methods() == before
    assert float(parameter.grad) == 1.0
    optimizer.step()
    schedule.step()
    assert (float(parameter), schedule.last_epoch) == (0.5, 1)


def test_steps_of_classes_that_come_between_blocks_stand_still():
    with all_still():
        pass

    class Late(SGD):
        def first_step(self):
            self.count = 1

    _, optimizer, _ = held(Late)
    with all_still():
        optimizer.first_step()
    Late.second_step = Late.first_step
    with all_still():
        optimizer.second_step()
    assert not hasattr(optimizer, "count")


def test_what_others_put_in_the_place_of_a_step_meanwhile_stays():
    own = StepLR.__mro__[1].step

    def theirs(self, *args):
        return own(self, *args)

    _, _, schedule = held()
    try:
        with all_still():
            LRScheduler.step = theirs
        assert LRScheduler.step is theirs
        schedule.step()
        assert schedule.last_epoch == 1
    finally:
        LRScheduler.step = own
