"""Loops of several processes: one model and one reference batch, and what is not solved stays the same in all."""

import warnings
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_
from torch.optim import SGD, Adagrad, Adam

from tests.support.fits import loader
from tests.support.processes import run
from tests.support.same_spaces import CONFIG, Habit, trained
from ts_lightning import TargetAdam, TargetSpace


class Dense(Habit):
    """Of which all is solved."""

    def __init__(self):
        super().__init__()
        del self.scale, self.shift

    def forward(self, x):
        return torch.tanh(self.a(x)) + self.b(x)


def looped(space, case, cls=Habit):
    """The last parameters of a loop, and what was said, of one process."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank if case in ("seeds", "batches") else 0)
    module, batch = cls(), torch.eye(3, dtype=torch.float64)
    if case == "batches":
        batch = batch * (1 + 3 * rank)
    target = space == "target"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        engine = TargetSpace(module, batch, CONFIG, group=dist.group.WORLD) if target else None
        start = [parameter.detach().clone() for parameter in module.parameters()]
        parallel = DistributedDataParallel(module)
        parameters = list((engine or module).parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        for x, y in loader(dtype=torch.float64):
            optimizer.zero_grad()
            forward = module if case == "not averaged" else parallel
            with parallel.no_sync() if case == "no_sync" else nullcontext():
                torch.nn.functional.cross_entropy(forward(x[rank::2]), y[rank::2]).backward()
            if target:
                engine.pullback()
            if case == "clipped":
                norm = engine.gradient_norm() if target else clip_grad_norm_(parameters, 1e9)
                clip_grads_with_norm_(parameters, 0.1, norm)
            if case == "clipped by each":
                clip_grad_norm_(parameters, 0.1)
            optimizer.step()
            if case == "written by one" and rank:
                module.scale.data.add_(0.1)
            if target:
                engine.solve()
    return [p.detach() for p in module.parameters()], [str(one.message) for one in found], start


def both(case, cls):
    return looped("weight", case, cls)[0], *looped("target", case, cls)


@pytest.mark.parametrize(
    ("case", "cls"), [("seeds", Habit), ("batches", Habit), ("clipped", Habit), ("clipped", Dense), ("usual", Dense)]
)
def test_is_as_in_weight_space_in_all_processes(case, cls):
    """Of models and reference batches that differ those of the first count; such loops hung, or mixed them."""
    for weight, target, said, start in run(both, case, cls, ranks=2):
        torch.testing.assert_close(target, weight)
        assert not said
        torch.manual_seed(0)
        torch.testing.assert_close(start, [p.detach() for p in cls().parameters()])


@pytest.mark.parametrize("cls", [Habit, Dense])
@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("clipped by each", "The processes multiply the gradients of their targets by factors of their own"),
        ("not averaged", "The processes pull back gradients that are not averaged over them"),
        ("no_sync", "The processes pull back gradients that are not averaged over them"),
    ],
)
def test_gradients_that_are_not_those_of_all_processes_are_said_once(case, sentence, cls):
    """Where all is solved no parameter drifts apart, so that it was not said there."""
    for _, (message,), _ in run(looped, "target", case, cls, ranks=2):
        assert message.startswith(sentence)


def test_parameters_that_drift_apart_are_said_once():
    found = run(looped, "target", "written by one", ranks=2)
    for _, (message,), _ in found:
        assert message.startswith("The processes no longer have the same parameters beside the solved ones")
    assert not torch.equal(found[0][0][0], found[1][0][0])


def resumed(whose, make):
    """What was said in a process that goes on with an optimizer's state."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    module, batch = Dense(), torch.rand(4, 3, dtype=torch.float64)
    engine = TargetSpace(module, batch, group=dist.group.WORLD)
    parallel = DistributedDataParallel(module)
    optimizer = make(engine.parameters())

    def step(x, y):
        optimizer.zero_grad()
        cross_entropy(parallel(x), y).backward()
        engine.pullback()
        optimizer.step()
        engine.solve()

    batches = list(loader(dtype=torch.float64))
    for x, y in batches[: 0 if whose == "of nobody yet" else 2]:
        step(x, y)
    state = [optimizer.state_dict()]
    if whose == "the first one's":
        dist.broadcast_object_list(state)
    optimizer.load_state_dict(state[0])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for x, y in batches[2:4]:
            step(x, y)
    return [str(one.message) for one in found]


@pytest.mark.parametrize("make", [Adam, TargetAdam, partial(SGD, lr=0.1, momentum=0.9)])
@pytest.mark.parametrize("whose", ["its own", "the first one's"])
def test_moments_of_another_process_are_said_once(whose, make):
    for messages in run(resumed, whose, make, ranks=2):
        assert len(messages) == (whose != "its own")
        assert all(one.startswith("An optimizer holds the same moments in all processes") for one in messages)


def test_moments_that_begin_with_one_number_are_nobodys():
    """Adagrad makes its own before the first step; these were taken for those of one process."""
    make = partial(Adagrad, lr=0.02, initial_accumulator_value=0.1)
    assert run(resumed, "of nobody yet", make, ranks=2) == [[], []]


class Clipped(Habit):
    def configure_gradient_clipping(self, optimizer, *args, **options):
        clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)


def fitted():
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trained(Clipped, "target", strategy="ddp", devices=2)
    return sum("by factors of their own" in str(one.message) for one in found)


def test_in_a_fit_it_is_said_once_as_well():
    assert run(fitted, ranks=2) == [1, 1]
