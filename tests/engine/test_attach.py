"""Optimizers that are attached: loops as libraries write them, which know nothing of target space.

By the oracle of tests/support/same_spaces.py, a loop has the losses and the weights that it has in weight space.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.support.attached import assert_same, closed, fused, sgd, usual


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)


@pytest.mark.parametrize("of", ["model", "space"])
@pytest.mark.parametrize(
    ("step", "make"), [(usual, sgd), (usual, fused), (closed, sgd), (closed, lbfgs)], ids=lambda one: one.__name__
)
def test_steps_of_an_optimizer(step, make, of):
    assert_same(step, make=make, of=of)


def cleared_by_the_model(loop, batch):
    loop.module.loss(batch).backward()
    loop.optimizer.step()
    loop.module.zero_grad()


def accumulated(loop, batch):
    for half in range(2):
        (loop.module.loss([part[half::2] for part in batch]) / 2).backward()
        if half and len(loop.module.seen) % 4:
            loop.optimizer.step()
            loop.optimizer.zero_grad()


def cleared_by_a_wrapper(loop, batch):
    """As Lightning Fabric's, which calls the class's own zero_grad."""
    torch.optim.Optimizer.zero_grad(loop.optimizer, set_to_none=len(loop.module.seen) % 2 == 0)
    loop.module.loss(batch).backward()
    loop.optimizer.step()


def cleared_one_by_one(loop, batch):
    loop.module.loss(batch).backward()
    loop.optimizer.step()
    for parameter in loop.trained():
        parameter.grad = None


def cleared_in_part(loop, batch):
    """What has arrived for the others stays."""
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    (loop.space.targets["a"] if loop.space else loop.module.a.weight).grad = None
    loop.optimizer.step()


def stepped_in_the_backward_pass(loop, batch):
    if len(loop.module.seen) == 0:
        loop.stepped = {p: torch.optim.SGD([p], lr=0.1) for p in loop.module.parameters()}
        if loop.space is not None:
            loop.handles.pop().remove()
            for one in loop.stepped.values():
                loop.space.attach(one)

        def act(parameter):
            loop.stepped[parameter].step()
            loop.stepped[parameter].zero_grad()

        for parameter in loop.stepped:
            parameter.register_post_accumulate_grad_hook(act)
    loop.module.loss(batch).backward()


def clipped(loop, batch):
    loop.module.loss(batch).backward()
    clip_grad_norm_(loop.module.parameters(), 0.1)
    loop.optimizer.step()
    loop.module.zero_grad()


def clipped_when_read(loop, batch):
    loop.module.loss(batch).backward()
    [parameter.grad for parameter in loop.trained()]
    clipped_by = clip_grad_norm_ if len(loop.module.seen) % 2 else clip_grad_value_
    clipped_by(loop.module.parameters(), 0.1)
    loop.optimizer.step()
    loop.module.zero_grad()


def clipped_targets(loop, batch):
    loop.module.loss(batch).backward()
    clip_grad_norm_(loop.trained(), 0.1)
    loop.optimizer.step()
    loop.optimizer.zero_grad()


def by_hand_beside(loop, batch):
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    if loop.space is not None:
        assert loop.space.pullback()
        assert loop.space.pullback()
    clip_grad_norm_(loop.trained(), 0.1)
    if loop.space is not None:
        loop.space.solve()
    loop.optimizer.step()
    if loop.space is not None:
        loop.space.solve()


def evaluated(loop, batch):
    loop.optimizer.zero_grad()
    loss = loop.module.loss(batch)
    loop.module.eval()
    with torch.inference_mode():
        loop.module(batch[0])
    loop.module.train()
    loss.backward()
    with torch.no_grad():
        loop.module(batch[0])
    loop.optimizer.step()


def compiled(loop, batch):
    if loop.model is loop.module:
        loop.model = torch.compile(loop.module, backend="aot_eager")
    loop.optimizer.zero_grad()
    loss = nn.functional.cross_entropy(loop.model(batch[0]), batch[1])
    loss.backward()
    loop.module.seen.append(loss.detach())
    loop.optimizer.step()


def clamped(loop, batch):
    usual(loop, batch)
    with torch.no_grad():
        loop.module.a.weight.clamp_(-0.4, 0.4)


def hooked_since(loop, batch):
    """A hook that was registered behind the attachment changes gradients of weights ahead of the step."""
    if len(loop.module.seen) == 1:
        loop.optimizer.register_step_pre_hook(lambda *_: clip_grad_norm_(loop.module.parameters(), 0.1) and None)
    usual(loop, batch)


def removed(loop, batch):
    """From the third step on by hand."""
    if len(loop.module.seen) == 2 and loop.space is not None:
        with loop.handles.pop():
            pass
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    hand = loop.space is not None and not loop.handles
    if hand:
        loop.space.pullback()
    loop.optimizer.step()
    if hand:
        loop.space.solve()


def stepped_by_another(loop, batch):
    """Which is not attached, on the same gradients."""
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    solved = [loop.module.a.weight, loop.module.b.weight]
    torch.optim.SGD(loop.space.targets.values() if loop.space else solved, lr=0.1).step()
    if len(loop.module.seen) % 2 == 0:
        loop.optimizer.step()


def loaded(loop, batch):
    """Each step is made twice, the first time for nothing."""
    state = copy.deepcopy(
        (loop.module.state_dict(), loop.optimizer.state_dict(), loop.space and loop.space.state_dict())
    )
    usual(loop, batch)
    loop.module.load_state_dict(state[0])
    loop.optimizer.load_state_dict(state[1])
    if loop.space is not None:
        loop.space.load_state_dict(state[2])
        loop.space.solve()
    usual(loop, batch)


LOOPS = [
    cleared_by_the_model,
    cleared_by_a_wrapper,
    cleared_one_by_one,
    cleared_in_part,
    stepped_in_the_backward_pass,
    accumulated,
    clipped,
    clipped_targets,
    by_hand_beside,
    evaluated,
    compiled,
    clamped,
    hooked_since,
    removed,
    loaded,
    stepped_by_another,
    clipped_when_read,
]


@pytest.mark.parametrize("step", LOOPS, ids=lambda step: step.__name__)
def test_what_libraries_do_around_a_step(step):
    assert_same(step)
